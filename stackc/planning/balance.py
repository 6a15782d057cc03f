"""Stages whose side information outweighs what it is there for."""

from __future__ import annotations

from collections.abc import Callable

from stackc.core.stack import PlannedPlane, join, stored_planes
from stackc.core.transform import Transform
from stackc.planning.plan import Plan, TensorPlan, planes_of_stage
from stackc.util.humanise import size_text


def fixed_width(tensor: TensorPlan, plane: PlannedPlane) -> float:
    """Bytes of a stored plane before any packer."""
    return plane.spec.numel * plane.spec.bits / 8


def cautions(plan: Plan, size_of: Callable[[TensorPlan, PlannedPlane], float]) -> dict[int, str]:
    """By stage, a sentence where the side planes that it makes take more than its other planes.

    Parameters
    ----------
    plan : Plan
        Settled or not; as in the file, that is after the last stage.
    size_of : callable
        Bytes of a stored plane: those in a file, or `fixed_width` as long as there is none.

    Examples
    --------
    >>> from stackc.planning.plan import plan_recipe
    >>> from stackc.recipe.parse import recipe_from
    >>> from stackc.core.spec import PlaneSpec
    >>> recipe = recipe_from({"stages": [{"use": "int", "granularity": "group", "group_size": 2}]})
    >>> print(cautions(plan_recipe(recipe, {"w": PlaneSpec((64, 64), "float32")}), fixed_width)[0])
    stages[0] (int) stores more side information (scale: 8.19 kB) than payload (4.10 kB); granularity: row or tensor, or a larger group_size, shares a scale among more values; leave tensors of very short rows out with 'on'
    """
    stored = {tensor.name: stored_planes(tensor.stacks[-1], tensor.spec) for tensor in plan.tensors}
    found: dict[int, str] = {}
    for index, stage in enumerate(plan.stages):
        config = stage.config
        if not isinstance(config, Transform) or not config.side:
            continue
        side: dict[str, float] = {}
        payload = 0.0
        for tensor, path, _ in planes_of_stage(plan, index):
            below = join(path, "")
            for plane in stored[tensor.name]:
                if not plane.path.startswith(below):
                    continue
                made = plane.path[len(below) :].partition("/")[0]
                size = size_of(tensor, plane)
                if made in config.side:
                    side[made] = side.get(made, 0.0) + size
                else:
                    payload += size
        if sum(side.values()) > payload:
            parts = ", ".join(f"{name}: {size_text(round(size))}" for name, size in side.items())
            found[index] = (
                f"stages[{index}] ({stage.stage.use}) stores more side information ({parts}) than payload "
                f"({size_text(round(payload))}); {config.lighter}"
            )
    return found
