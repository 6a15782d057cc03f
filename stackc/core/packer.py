"""`Packer`: an exact map from one plane to bytes."""

from __future__ import annotations

import abc
from typing import TYPE_CHECKING, ClassVar

import msgspec

from stackc.core.spec import PlaneSpec
from stackc.core.transform import StageMeta

if TYPE_CHECKING:
    from torch import Tensor


class Packer(msgspec.Struct, metaclass=StageMeta, frozen=True, forbid_unknown_fields=True):
    """Base class of packers: a frozen value whose fields are its whole configuration.

    A packer never loses anything: ``unpack(pack(x, spec), spec)`` has the bits of ``x``, NaN payloads and signed zeros
    included.
    """

    name: ClassVar[str]
    version: ClassVar[int]

    @abc.abstractmethod
    def refusal(self, spec: PlaneSpec) -> str | None:
        """Why this packer cannot take a plane with this spec, or None if it can."""

    @abc.abstractmethod
    def pack(self, x: Tensor, spec: PlaneSpec) -> bytes:
        """Bytes of a plane; deterministic."""

    def choose(self, x: Tensor, spec: PlaneSpec) -> tuple[Packer, bytes]:
        """The packer that stores this plane, and its bytes: this one, unless it is one that only chooses among others.

        The file and its lock name the packer that was chosen.
        """
        return self, self.pack(x, spec)

    @abc.abstractmethod
    def unpack(self, data: bytes, spec: PlaneSpec) -> Tensor:
        """The plane again. Never allocates more than a small multiple of ``spec.nbytes``.

        Raises
        ------
        ArtifactError
            If the bytes are damaged so that they cannot be a plane with this spec.
        """

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
