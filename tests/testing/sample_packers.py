"""A correct packer that the battery must pass, from which the broken ones derive."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from stackc.core.packer import Packer
from stackc.core.registry import find
from stackc.core.spec import PlaneSpec
from stackc.util.errors import ArtifactError

if TYPE_CHECKING:
    from torch import Tensor


def raw() -> Packer:
    return find("raw").stage()


class Counted(Packer, frozen=True):
    """The raw form after its length in four bytes."""

    name: ClassVar[str] = "sample-counted"
    version: ClassVar[int] = 1

    def refusal(self, spec: PlaneSpec) -> str | None:
        return None

    def _pack(self, x: Tensor, spec: PlaneSpec) -> bytes:
        body = raw().pack(x, spec)
        return len(body).to_bytes(4, "little") + body

    def _unpack(self, data: bytes, spec: PlaneSpec) -> Tensor:
        length, body = data[:4], data[4:]
        if len(length) < 4 or int.from_bytes(length, "little") != len(body):
            raise ArtifactError("the length before a plane is not the length of the plane")
        return raw().unpack(body, spec)

    def side_bytes(self, data: bytes, spec: PlaneSpec) -> int:
        return min(4, len(data))
