"""Whether a file may ask for what it asks for."""

from __future__ import annotations

from stackc.artifact.bases import Bases
from stackc.artifact.limits import Budget
from stackc.core.stack import Cost
from stackc.util.errors import ArtifactError


class Allowance:
    """What an opened file may take, given its size, what the caller allows, and the base models that were given.

    Parameters
    ----------
    file : str
        Name of the file, for messages.
    file_bytes : int
        Its size.
    max_bytes : int, optional
        Bytes that the caller allows for tensors.
    bases : Bases
        Its base models.
    """

    def __init__(self, file: str, file_bytes: int, max_bytes: int | None, bases: Bases) -> None:
        self._file = file
        self._file_bytes = file_bytes
        self._max_bytes = max_bytes
        self._bases = bases

    def require_opening(self, tensors: int, bundled: int) -> None:
        """Refuse what could not be decoded even with all base models.

        Raises
        ------
        ArtifactError
            If the tensors or the bundled files have too many bytes.
        """
        budget = self._budget(given=False)
        self._require("decode to {} bytes", tensors, budget.tensors)
        self._require("unpack bundled files of {} bytes", bundled, budget.bundle)

    def require_decoding(self, tensors: int, cost: Cost) -> None:
        """Refuse to begin what would take out of all proportion to the file and the base models that are there.

        Raises
        ------
        ArtifactError
            If decoding takes too much.
        """
        budget = self._budget(given=True)
        self._require("decode to {} bytes", tensors, budget.tensors)
        self._require("make planes of {} bytes", cost.planes, budget.planes)
        self._require("take the work of {} multiplications", cost.work, budget.work)

    def _budget(self, *, given: bool) -> Budget:
        return Budget.of(self._file_bytes, self._max_bytes, self._bases.nbytes(given=given))

    def _require(self, what: str, amount: int, limit: int) -> None:
        if amount > limit:
            raise ArtifactError(
                f"{self._file} would {what.format(amount)}, more than the limit of {limit}; "
                "if you trust it, open it with stackc.open(path, max_bytes=...) and a larger number"
            )
