"""`Packer`: an exact map from one plane to bytes."""

from __future__ import annotations

import abc
from typing import TYPE_CHECKING, ClassVar

import msgspec

from stackc.core.spec import PlaneSpec
from stackc.core.transform import StageMeta
from stackc.util.errors import ArtifactError, TensorError
from stackc.util.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor


class Packer(msgspec.Struct, metaclass=StageMeta, frozen=True, forbid_unknown_fields=True):
    """Base class of packers: a frozen value whose fields are its whole configuration.

    A packer never loses anything: ``unpack(pack(x, spec), spec)`` has the bits of ``x``, NaN payloads and signed zeros
    included. Subclasses implement `refusal`, `_pack` and `_unpack`, which are given planes that they do not refuse, that fit
    their spec, and of which the spec alone does not say all: empty planes, and integers with one possible value, have no
    bytes, whatever the packer.
    """

    name: ClassVar[str]
    version: ClassVar[int]

    @abc.abstractmethod
    def refusal(self, spec: PlaneSpec) -> str | None:
        """Why this packer cannot take a plane with this spec, or None if it can."""

    def pack(self, x: Tensor, spec: PlaneSpec) -> bytes:
        """Bytes of a plane; deterministic.

        Raises
        ------
        TensorError
            If the packer refuses the plane, or the plane does not fit the spec.
        """
        if (reason := self.refusal(spec)) is not None:
            raise TensorError(reason)
        _require_fit(x, spec)
        return b"" if _is_implied(spec) else self._pack(x, spec)

    @abc.abstractmethod
    def _pack(self, x: Tensor, spec: PlaneSpec) -> bytes:
        """Bytes of a plane that fits its spec; ``x`` is left as it was."""

    def choose(self, x: Tensor, spec: PlaneSpec) -> tuple[Packer, bytes]:
        """The packer that stores this plane, and its bytes: this one, unless it is one that only chooses among others.

        The file and its lock name the packer that was chosen.
        """
        return self, self.pack(x, spec)

    def unpack(self, data: bytes, spec: PlaneSpec) -> Tensor:
        """The plane again. Never allocates more than a small multiple of ``spec.nbytes``.

        Raises
        ------
        ArtifactError
            If the bytes are damaged so that they cannot be a plane with this spec.
        """
        if (reason := self.refusal(spec)) is not None:
            raise ArtifactError(f"the file has a plane that cannot be packed so: {reason}")
        if _is_implied(spec):
            if data:
                raise ArtifactError(f"a plane of {spec} needs no bytes, the file holds {len(data)}; it is damaged")
            return torch.full(spec.shape, spec.lo or 0, dtype=getattr(torch, spec.dtype))
        x = self._unpack(data, spec)
        difference = spec.mismatch(x)
        if difference is not None:
            raise ArtifactError(
                f"the bytes of a plane decode to something else than it: {difference}; they are damaged"
            )
        return x

    @abc.abstractmethod
    def _unpack(self, data: bytes, spec: PlaneSpec) -> Tensor:
        """Inverse of `_pack`; an `ArtifactError` for bytes that are not what it writes. Bounds need not be checked here."""

    def work(self, spec: PlaneSpec) -> int:
        """What `unpack` takes in multiplications of a matrix product, beyond some tens for each element; reads no data.

        Readers refuse files that would keep them busy out of proportion to their size, so packers that take hundreds for an
        element say so here. 0, as by default, is right for most.
        """
        return 0

    def accepts(self, spec: PlaneSpec) -> bool:
        """Whether this packer can take a plane with this spec."""
        return self.refusal(spec) is None

    def side_bytes(self, data: bytes, spec: PlaneSpec) -> int:
        """How many of the packed bytes are tables and headers rather than coded values."""
        return 0


def _is_implied(spec: PlaneSpec) -> bool:
    """Whether only one plane has this spec."""
    return not spec.numel or (spec.lo is not None and spec.lo == spec.hi)


def _require_fit(x: Tensor, spec: PlaneSpec) -> None:
    """Refuse to pack a plane that its spec does not describe: that would store other values than it holds."""
    difference = spec.mismatch(x)
    if difference is None and spec.dtype == "bool" and spec.lo == spec.hi and spec.lo is not None and spec.numel:
        difference = None if bool((x == bool(spec.lo)).all()) else f"expected only {bool(spec.lo)}, got both"
    if difference is not None:
        raise TensorError(
            f"the plane to pack does not fit its spec: {difference}; encode it with the plan that made the spec"
        )
