"""Side information that a stage turns from something to zero: counted in every report, said where it matters."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, NamedTuple

from stackc.planning.factors import floor
from stackc.util.humanise import plural

if TYPE_CHECKING:
    from torch import Tensor

    from stackc.planning.plan import Plan

#: Share of a plane's numbers beyond which zeros are not the ordinary rounding of small numbers among large ones.
_MOST = 0.5

#: Rows so long are not small all over by chance, as those of a basis or a mean. A shorter one, such as an entry of a
#: codebook, may be a point near zero, and zero is then as near to it as any other point.
_LONG_ROW = 16


class Zeroed(NamedTuple):
    """What a stage turned to zero in one plane of one tensor.

    Parameters
    ----------
    stage : int
        Its number.
    path : str
        Of the plane in the tensor's stack.
    zeros, values : int
        Numbers that are zero now, and those that were not zero before.
    matters : bool
        Whether that is more than small numbers among large ones: see `zeroed`.
    """

    stage: int
    path: str
    zeros: int
    values: int
    matters: bool


def zeroed(stage: int, path: str, before: Tensor, after: Tensor, *, factor: bool = False) -> Zeroed | None:
    """Count the numbers of a side plane that were not zero and are now; None if there are none.

    A few zeros among the small numbers of a basis are rounding like any other, so the count goes into the report alone.
    It matters, and is then said in a sentence, if more than half of the numbers became zero, if a whole row of sixteen or
    more did, or if a single factor did, such as a scale, since that is a block of zeros.

    Parameters
    ----------
    stage, path
        Who and where.
    before, after : Tensor
        The plane as it was, and as the file will give it; of one shape.
    factor : bool
        Whether its numbers multiply blocks of others. The smallest ones there are belong to blocks of zeros, and do not
        count.

    Examples
    --------
    >>> import torch
    >>> zeroed(1, "basis", torch.tensor([0.5, 1e-9, 0.0]), torch.tensor([0.5, 0.0, 0.0]))
    Zeroed(stage=1, path='basis', zeros=1, values=2, matters=False)
    """
    lost = after.detach() == 0
    if not bool(lost.any()):
        return None
    used = before.detach().abs() > (floor(before) if factor else 0)
    lost &= used
    count, values = int(lost.sum()), int(used.sum())
    if not count:
        return None
    row = lost.ndim > 0 and lost.shape[-1] >= _LONG_ROW and bool(((lost == used).all(-1) & used.any(-1)).any())
    return Zeroed(stage, path, count, values, factor or row or count > _MOST * values)


def zero_cautions(plan: Plan, found: Iterable[Zeroed]) -> dict[int, str]:
    """By stage, a sentence where what it turned to zero matters.

    Examples
    --------
    >>> from stackc.planning.plan import plan_recipe
    >>> from stackc.recipe.parse import recipe_from
    >>> from stackc.core.spec import PlaneSpec
    >>> recipe = recipe_from({"stages": [{"use": "seed", "rank": 2}, {"use": "fp16", "on": "*/basis"}]})
    >>> plan = plan_recipe(recipe, {"w": PlaneSpec((64, 64), "float32")})
    >>> print(zero_cautions(plan, [Zeroed(1, "basis", 70, 128, True)])[1])
    stages[1] (fp16) turned 70 of 128 numbers of basis in 1 tensor to zero; bf16 or float32, more bits or smaller groups keep small numbers, or leave these planes out of the stage with 'on'
    """
    stages: dict[int, dict[str, list[Zeroed]]] = {}
    for one in found:
        if one.matters:
            stages.setdefault(one.stage, {}).setdefault(one.path, []).append(one)
    return {index: _sentence(index, plan.stages[index].stage.use, planes) for index, planes in stages.items()}


def _sentence(index: int, use: str, planes: Mapping[str, list[Zeroed]]) -> str:
    parts = (
        f"{sum(one.zeros for one in several):,} of {sum(one.values for one in several):,} numbers of {path} in "
        f"{plural(len(several), 'tensor')}"
        for path, several in planes.items()
    )
    return (
        f"stages[{index}] ({use}) turned {' and '.join(parts)} to zero; bf16 or float32, more bits or smaller groups keep small "
        "numbers, or leave these planes out of the stage with 'on'"
    )
