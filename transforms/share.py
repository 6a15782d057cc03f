"""Share: several tensors become one, and what each of them differs by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import msgspec

from stackc.core.abilities import Sharing, Trainable
from stackc.core.planes import limited
from stackc.core.spec import PlaneSpec
from stackc.core.transform import NOTHING, Known, Weighted, require_finite
from stackc.util.errors import SpecError, TensorError
from stackc.util.lazy import torch

from .shared.groups import Grouping, grouped

if TYPE_CHECKING:
    from torch import Tensor


class Share(Sharing, Trainable, frozen=True):
    """Store what the tensors of a group have in common once, and for each of them the difference from it.

    ============== ================== ==================================================================
    plane          shape, dtype       holds
    ============== ================== ==================================================================
    ``common``     those of the input the mean of the group's tensors, or the first of them; stored once
    ``difference`` those of the input tensor minus ``common``; absent with ``difference=False``
    ============== ================== ==================================================================

    Later stages make both smaller: a low rank, a sparse mask or few bits may do for a difference. Without differences the
    tensors of a group are one tensor, as layers are that are tied to each other (ALBERT, Lan et al. 2020).

    What tensors share has one shape and one dtype: a group with several is several groups, and a tensor that is alone in one
    is left as it is.

    Layers of a trained transformer are not alike: weights at the same place of neighbouring layers are hardly
    correlated. Their differences then take as many bits as they did themselves, and without differences nothing is left of
    the model. Sharing pays for tensors that are alike, and for others after `heal`, which trains ``common`` for all who
    use it.

    A difference loses what rounding to the dtype takes: half a unit in the last place of the difference, and as much of the
    sum. Nothing is lost where it is zero, or where a number is within half and twice the common one.

    Parameters
    ----------
    difference : bool
        Whether each tensor has its difference. Without, the group's tensors are one from then on.
    group : "alike", "all" or list of str
        Which tensors are one group: those whose names are alike but for numbers, such as the same weights of all layers; all
        that the stage matches; or those that each of several patterns matches.
    take : "mean" or "first"
        What the tensors have in common before it is trained: their mean, weighted by row where rows have weights, or the first
        of them.

    Examples
    --------
    >>> import torch
    >>> keys = {"layer.0.key": torch.tensor([1.0, 3.0]), "layer.1.key": torch.tensor([3.0, 3.5])}
    >>> share = Share()
    >>> common = share.find_common({name: Weighted(x) for name, x in keys.items()})
    >>> planes = share.encode(keys["layer.1.key"], Known(shared=common))
    >>> planes
    {'common': tensor([2.0000, 3.2500]), 'difference': tensor([1.0000, 0.2500])}
    >>> share.decode(planes, PlaneSpec((2,), "float32"))
    tensor([3.0000, 3.5000])
    """

    name: ClassVar[str] = "share"
    version: ClassVar[int] = 1
    solitary: ClassVar[bool] = False
    encode_only: ClassVar[frozenset[str]] = frozenset({"group", "take"})

    difference: Annotated[
        bool, msgspec.Meta(description="whether each tensor has its difference; without, they become one")
    ] = True
    group: Grouping = "alike"
    take: Annotated[
        Literal["mean", "first"], msgspec.Meta(description="what tensors have in common before it is trained")
    ] = "mean"

    def plan(self, spec: PlaneSpec) -> dict[str, PlaneSpec]:
        """Planes ``common`` and, unless there are none, ``difference``, each like the input.

        Raises
        ------
        SpecError
            If the plane is not real.
        """
        if not spec.is_real:
            raise SpecError(f"share takes real planes (float16, bfloat16, float32, float64), this one is {spec}")
        return {"common": spec, "difference": spec} if self.difference else {"common": spec}

    def encode(self, x: Tensor, known: Known = NOTHING) -> dict[str, Tensor]:
        """Take the difference from what the group has in common; a plane without a group is all there is in common.

        Raises
        ------
        TensorError
            If ``x`` holds NaN or infinity, or differs by more than its dtype holds.
        """
        require_finite(x)
        x = x.detach().contiguous()
        common = known.shared.get("common", x)
        if not self.difference:
            return {"common": common}
        difference = _difference(x, common)
        if not bool(difference.isfinite().all()):
            raise TensorError(
                f"values up to {float(x.abs().max()):g} differ from those in common by more than {difference.dtype} holds; "
                "leave this tensor out with 'on'"
            )
        return {"common": common, "difference": difference}

    def decode(self, planes: Mapping[str, Tensor], spec: PlaneSpec) -> Tensor:
        """Add the difference in the wide dtype, then round to the dtype of the spec."""
        if not self.difference:
            return limited(planes["common"], spec.dtype)
        return limited(_wide(planes["common"]) + _wide(planes["difference"]), spec.dtype)

    def hold(self, x: Tensor, planes: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The difference from the common plane as it is now; differentiable."""
        common = planes["common"]
        return {"common": common, "difference": _difference(x, common)} if self.difference else {"common": common}

    def row_planes(self, index: Tensor, planes: Mapping[str, Tensor]) -> dict[str, Tensor | None] | None:
        """Rows of both planes are rows of the tensor."""
        return {"common": index, "difference": index} if self.difference else {"common": index}

    def carry(self, known: Known, planes: Mapping[str, Tensor]) -> dict[str, Known]:
        """Rows of both planes are rows of the tensor, and meet what those meet."""
        return dict.fromkeys(planes, Known(known.weights, known.moments))

    @property
    def common(self) -> frozenset[str]:
        """What the tensors of a group have in common."""
        return frozenset({"common"})

    def groups(self, names: Sequence[str]) -> dict[str, list[str]]:
        """As ``group`` says."""
        return grouped(names, self.group)

    def find_common(self, planes: Mapping[str, Weighted]) -> dict[str, Tensor]:
        """The mean of the planes, in float64, or the first of them."""
        return {"common": _mean(planes) if self.take == "mean" else _first(planes)}


def _wide(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _difference(x: Tensor, common: Tensor) -> Tensor:
    """Rounded once: a difference of half-precision numbers in float32 rounds as the exact one does."""
    return (_wide(x) - _wide(common)).to(common.dtype)


def _first(planes: Mapping[str, Weighted]) -> Tensor:
    """The first of the planes; the others are looked at too, so that what none can share is said before anything is encoded."""
    first: Tensor | None = None
    for weighted in planes.values():
        require_finite(weighted.plane)
        if first is None:
            first = weighted.plane.detach().clone(memory_format=torch.contiguous_format)
    assert first is not None
    return first


def _mean(planes: Mapping[str, Weighted]) -> Tensor:
    """The mean of planes of one shape, each row weighted; rows that weigh nothing anywhere count the same.

    As a running mean, which neither overflows nor holds more than one plane at a time.
    """
    mean = torch.zeros(())
    dtype = torch.float32
    total: Tensor | None = None
    for count, weighted in enumerate(planes.values(), 1):
        require_finite(weighted.plane)
        x = weighted.plane.detach().to(torch.float64)
        dtype = weighted.plane.dtype
        if weighted.weights is None:
            share = torch.full((), 1 / count, dtype=torch.float64)
        else:
            weights = weighted.weights.to(torch.float64)
            total = weights if total is None else total + weights
            share = torch.where(total > 0, weights / total, 1 / count).reshape(-1, *[1] * (x.dim() - 1))
        mean = x if count == 1 else mean * (1 - share) + x * share
    return mean.to(dtype).contiguous()
