"""The planes of a file that several tensors share."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

from stackc.artifact.allowance import Allowance
from stackc.artifact.bases import Base, Bases, Outside
from stackc.artifact.decoder import Decoder, Entry, StoredPlane
from stackc.artifact.kept_planes import KeptPlanes
from stackc.artifact.limits import MAX_CHAIN, kept_limit
from stackc.artifact.manifest import Manifest
from stackc.artifact.usage import Needs, Usage, usage
from stackc.core.spec import PlaneSpec, total_bytes
from stackc.core.stack import SharedUse, Stack, shared_name
from stackc.util.errors import ArtifactError, DependencyError
from stackc.util.isolation import isolated

if TYPE_CHECKING:
    from torch import Tensor


class SharedPlanes(Mapping[str, "Tensor"]):
    """The shared planes of an opened file: a read-only mapping from their names, ``@0`` and on, to decoded planes.

    Stacks refer to them by these names. A plane that has several users is evaluated once and kept; see
    `stackc.artifact.limits` for how many bytes of them.

    Attributes
    ----------
    specs : dict of str to PlaneSpec
        One entry per plane, in the order of the file.
    """

    def __init__(
        self,
        file: str,
        manifest: Manifest,
        tensors: Mapping[str, PlaneSpec],
        starts: Sequence[int],
        decoder: Decoder,
        bases: Bases,
        allowance: Allowance,
    ) -> None:
        self._file = file
        self._manifest = manifest
        self._tensors = tensors
        self._entries = manifest.shared
        self._starts = starts
        self._decoder = decoder
        self._bases = bases
        self._allowance = allowance
        self._memo = KeptPlanes(kept_limit(total_bytes(tensors.values())))
        self.numbers = {shared_name(number): number for number in range(len(manifest.shared))}
        self.specs = {shared_name(number): entry.spec for number, entry in enumerate(manifest.shared)}

    def __iter__(self) -> Iterator[str]:
        return iter(self.specs)

    def __len__(self) -> int:
        return len(self.specs)

    def stack(self, name: str) -> Stack | None:
        """The stack that a plane is stored with; None for a tensor of a base model. Raises as `Artifact.stack` does."""
        where = self._where(self._number(name))
        return self._decoder.fitted(where).stack if isinstance(where, Entry) else None

    def planes(self, name: str) -> list[StoredPlane]:
        """What is stored for a plane, in the order of its bytes; nothing for a tensor of a base model."""
        where = self._where(self._number(name))
        return self._decoder.planes(where) if isinstance(where, Entry) else []

    def outside(self, name: str) -> tuple[Base, str] | None:
        """The base model that a plane lies in and its name there; None for one that is stored in the file."""
        where = self._where(self._number(name))
        return (self._bases.all[where.base], where.tensor) if isinstance(where, Outside) else None

    def uses(self, name: str) -> list[SharedUse]:
        """The shared planes that a plane refers to."""
        where = self._where(self._number(name))
        return self._uses(self._number(name), where) if isinstance(where, Entry) else []

    @cached_property
    def usage(self) -> Usage:
        """How tensors and shared planes use shared planes, and what decoding all takes; what does not decode takes nothing."""
        kinds = Counter(zip((entry.stack for entry in self._manifest.tensors), self._tensors.values(), strict=True))
        tensors = [(self._tensor_needs(stack, spec), count) for (stack, spec), count in kinds.items()]
        return usage(tensors, [self._needs(number) for number in range(len(self.specs))])

    def _tensor_needs(self, stack: int, spec: PlaneSpec) -> Needs:
        with contextlib.suppress(ArtifactError, DependencyError):
            fitted = self._decoder.fitted(Entry("a tensor", spec, stack, (), 0))
            return Needs.of(spec, fitted.cost, fitted.uses, self.numbers)
        return Needs.nothing(spec)

    def _needs(self, number: int) -> Needs:
        where = self._where(number)
        if isinstance(where, Outside):
            return Needs.outside(where.spec, missing=not self._bases.has(where))
        with contextlib.suppress(ArtifactError, DependencyError):
            return Needs.of(where.spec, self._decoder.fitted(where).cost, self._uses(number, where), self.numbers)
        return Needs.nothing(where.spec)

    def require(self, names: Sequence[str]) -> None:
        """Refuse to begin evaluating planes that cannot be, or that take out of all proportion to the file.

        Raises
        ------
        BaseNeededError
            If one needs a base model that was not given.
        ArtifactError
            If decoding takes too much.
        """
        for name in names:
            if self.usage.blocked[self._number(name)]:
                raise self._bases.needed(self._missing(self._number(name)))
        self._allowance.require_decoding(self.usage.nbytes, self.usage.cost)

    def _missing(self, number: int) -> Outside:
        """The first plane in a base model without which another cannot be evaluated."""
        where = self._where(number)
        while isinstance(where, Entry):
            needed = (self._number(use.plane) for use in self._uses(number, where))
            number = next(other for other in needed if self.usage.blocked[other])
            where = self._where(number)
        return where

    def attached(self) -> None:
        """Take notice that a base model was given."""
        self.__dict__.pop("usage", None)

    def __getitem__(self, name: str) -> Tensor:
        self.require([name])
        with isolated():
            return self.at(name, self.specs[name]).clone()

    def at(self, name: str, _: PlaneSpec) -> Tensor:
        """The decoded plane for somebody who leaves it as it is, after `require`: kept if there are more users.

        Raises
        ------
        ArtifactError
            If it does not decode, or is the beginning of too long a chain of references.
        """
        number = self._number(name)
        chain = self.usage.chains[number]
        if chain > MAX_CHAIN:
            raise ArtifactError(
                f"shared plane {number} begins a chain of {chain} planes that refer to each other, more than {MAX_CHAIN}"
            )
        if self.usage.users[number] < 2:
            return self._made(number)
        return self._memo.get(number, lambda: self._made(number))

    def _made(self, number: int) -> Tensor:
        where = self._where(number)
        if isinstance(where, Outside):
            return self._bases.tensor(where)
        self._uses(number, where)
        return self._decoder.decoded(where, self.at)

    def _uses(self, number: int, entry: Entry) -> list[SharedUse]:
        uses = self._decoder.fitted(entry).uses
        backward = next((use for use in uses if self.numbers[use.plane] <= number), None)
        if backward is not None:
            raise ArtifactError(
                f"{self._file} is damaged: {entry.title} refers to shared plane {self.numbers[backward.plane]}, and it may "
                "only refer to those after it: they might need each other"
            )
        return uses

    def _number(self, name: str) -> int:
        if name not in self.numbers:
            raise KeyError(f"{self._file} has no shared plane {name!r}")
        return self.numbers[name]

    def _where(self, number: int) -> Entry | Outside:
        """Where a plane is: in the file or in a base model."""
        entry, spec = self._entries[number], self.specs[shared_name(number)]
        if entry.stack is None:
            assert entry.base is not None  # held by the manifest
            return Outside(*entry.base, spec)
        return Entry(f"shared plane {number}", spec, entry.stack, entry.lengths, self._starts[number])

    def clear(self) -> None:
        """Drop the planes that are kept."""
        self._memo.clear()
