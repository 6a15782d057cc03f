"""Models outside of a file that planes of it lie in."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple, Self

from stackc.artifact.manifest import BaseEntry
from stackc.core.spec import PlaneSpec
from stackc.models.reference import Reference
from stackc.util.errors import ArtifactError, BaseNeededError
from stackc.util.humanise import printable
from stackc.util.paths import user_path

if TYPE_CHECKING:
    from torch import Tensor

_SHOWN_HINT = 80


class Base(NamedTuple):
    """A model that a file needs for decoding and does not hold.

    Attributes
    ----------
    sha256 : str
        Its fingerprint (`stackc.models.Reference.fingerprint`), in hexadecimal.
    hint : str
        What it was called where the file was made, for people: nothing is opened because of it.
    """

    sha256: str
    hint: str

    @classmethod
    def of(cls, reference: Reference, fingerprint: str | None = None) -> Self:
        """The base that a reference is; reads all of its weights unless its fingerprint is given.

        Of a path the last part is the hint: files do not tell where they were made, and are the same wherever that was.
        """
        path = user_path(reference.source)
        hint = path.resolve().name if path.exists() else reference.source
        return cls(fingerprint or reference.fingerprint(), hint)

    def __str__(self) -> str:
        hint = printable(self.hint[:_SHOWN_HINT])
        return f"sha256:{self.sha256[:16]}...{f' (it was {hint})' if hint else ''}"


class Outside(NamedTuple):
    """A plane of a file that is a tensor of a base."""

    base: int
    tensor: str
    spec: PlaneSpec


class Bases:
    """The bases of an opened file, with the models that were given for them.

    Parameters
    ----------
    file : str
        Name of the file, for messages.
    entries : sequence of BaseEntry
        The manifest's table.
    outside : sequence of Outside
        The planes that lie in bases.
    """

    def __init__(self, file: str, entries: Sequence[BaseEntry], outside: Iterable[Outside]) -> None:
        self._file = file
        self.all = [Base(entry.sha256.hex(), entry.hint) for entry in entries]
        self._outside = list(dict.fromkeys(outside))
        self._given: dict[int, Reference] = {}
        self._bytes: dict[int, int] = {}
        for plane in self._outside:
            self._bytes[plane.base] = self._bytes.get(plane.base, 0) + plane.spec.nbytes

    @property
    def missing(self) -> list[Base]:
        """Those that no model was given for."""
        return [base for number, base in enumerate(self.all) if number not in self._given]

    def nbytes(self, *, given: bool) -> int:
        """Bytes of the tensors that the file refers to: in the models that were given, or in all as the file has it."""
        return sum(self._bytes[number] for number in (self._given if given else self._bytes))

    def has(self, plane: Outside) -> bool:
        """Whether a model was given for the base that a plane lies in."""
        return plane.base in self._given

    def needed(self, plane: Outside) -> BaseNeededError:
        """The error that says which base a plane lies in."""
        return BaseNeededError(
            f"{self._file} needs the base model {self.all[plane.base]}; give it with base=... or --base"
        )

    def attach(self, reference: Reference, found: str | None = None) -> None:
        """Take the model that a base is, whose fingerprint may be known already.

        Raises
        ------
        ArtifactError
            If it is none of the file's bases, or does not have the tensors that the file refers to.
        """
        if not self.all:
            raise ArtifactError(f"{self._file} needs no base model; open it without {reference.source}")
        found = found or reference.fingerprint()
        numbers = [number for number, base in enumerate(self.all) if base.sha256 == found]
        if not numbers:
            raise ArtifactError(
                f"{self._file} needs the base model {' and '.join(map(str, self.missing or self.all))}; {reference.source} is "
                f"another one, sha256:{found[:16]}..."
            )
        for plane in self._outside:
            if plane.base in numbers:
                self._require(plane, reference)
        self._given.update(dict.fromkeys(numbers, reference))

    def _require(self, plane: Outside, reference: Reference) -> None:
        spec = reference.specs.get(_first_name(plane.tensor, reference))
        if spec != plane.spec:
            state = "there is none of this name" if spec is None else f"it is {spec} there"
            raise ArtifactError(
                f"{self._file} is damaged: it refers to a tensor {plane.tensor[:_SHOWN_HINT]!r} ({plane.spec}) of its base "
                f"{reference.source}; {state}"
            )

    def tensor(self, plane: Outside) -> Tensor:
        """The tensor that a plane is, of a model that was given."""
        reference = self._given[plane.base]
        return reference.tensor(_first_name(plane.tensor, reference))


def _first_name(tensor: str, reference: Reference) -> str:
    return reference.ties.get(tensor, tensor)
