"""``auto``: for each plane the packer that makes it smallest."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from stackc.core.packer import Packer
from stackc.core.registry import find_packer
from stackc.core.spec import PlaneSpec
from stackc.util.errors import ArtifactError, TensorError

if TYPE_CHECKING:
    from torch import Tensor

#: What is tried, the one that is fastest to decode first: of equal sizes the first wins.
CANDIDATES = ("raw", "zstd", "ans", "floats", "context")


class Auto(Packer, frozen=True):
    """Try the packers that take a plane and keep the smallest result.

    The file names the packer that was chosen, never ``auto``. Tried are ``raw``, ``zstd`` at its highest level, ``ans``,
    ``floats`` and ``context``.

    Examples
    --------
    >>> import torch
    >>> mask = torch.arange(4096) % 64 < 8
    >>> chosen, data = Auto().choose(mask, PlaneSpec.of(mask))
    >>> chosen.name, len(data) < 64
    ('zstd', True)
    """

    name: ClassVar[str] = "auto"
    version: ClassVar[int] = 1

    def refusal(self, spec: PlaneSpec) -> str | None:
        """None: every plane has a packer that takes it."""
        return None

    def choose(self, x: Tensor, spec: PlaneSpec) -> tuple[Packer, bytes]:
        """The packer with the fewest bytes, and these.

        Raises
        ------
        TensorError
            If the plane does not fit the spec.
        """
        packers = [packer for packer in map(_configured, CANDIDATES) if packer.accepts(spec)]
        packed = [packer.pack(x, spec) for packer in packers]
        shortest = min(range(len(packed)), key=lambda index: len(packed[index]))
        return packers[shortest], packed[shortest]

    def _pack(self, x: Tensor, spec: PlaneSpec) -> bytes:
        """Refused: a file that only says ``auto`` could not be decoded; see `choose`."""
        raise TensorError("auto only chooses among packers; call choose, which also names the one that can decode")

    def _unpack(self, data: bytes, spec: PlaneSpec) -> Tensor:
        """Refused: no file says ``auto``."""
        raise ArtifactError("the file names the packer auto, which no plane is stored with; it is damaged")


def _configured(name: str) -> Packer:
    return find_packer(name, level=22) if name == "zstd" else find_packer(name)
