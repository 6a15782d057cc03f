"""Read an artifact: any tensor by name, without the others, without the reference, data or network."""

from __future__ import annotations

import os
import weakref
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from stackc.artifact.allowance import Allowance
from stackc.artifact.bases import Base, Bases, Outside
from stackc.artifact.container import CheckedPayload, decompress, read_manifest
from stackc.artifact.decoder import Decoder, Entry, StoredPlane
from stackc.artifact.manifest import KINDS, Manifest, SharedEntry, TensorEntry, decode_manifest, unpack_config
from stackc.artifact.shared import SharedPlanes
from stackc.artifact.stacks import StackTable
from stackc.core.fingerprint import fingerprint
from stackc.core.planes import byte_view
from stackc.core.spec import PlaneSpec
from stackc.core.stack import SharedUse, Stack
from stackc.models.companions import GENERATION, LEFT_BEHIND, is_tokenizer_file, read_names, without_code
from stackc.models.reference import Reference
from stackc.util.errors import ArtifactError, SpecError
from stackc.util.isolation import isolated
from stackc.util.nearest import nearest
from stackc.util.parallel import map_ordered
from stackc.util.paths import require_regular, user_path
from stackc.util.progress import Progress

if TYPE_CHECKING:
    from torch import Tensor, nn


class Artifact(Mapping[str, "Tensor"]):
    """An opened ``.stackc`` file: a read-only mapping from tensor names, tied ones included, to decoded tensors.

    Use `stackc.open`. The file is closed by `close` or at the end of a ``with`` block.

    Parameters
    ----------
    path : str or Path
        The file.
    max_bytes : int, optional
        Refuse files whose tensors would take more than this; by default 64 MiB plus 4,096 times the file's size. A larger
        number also allows more of what decoding takes on the way; see `stackc.artifact.limits`.
    base : Reference or sequence of Reference, optional
        The models that the file needs and does not hold; see `attach`, which may be called instead.

    Raises
    ------
    ArtifactError
        If it is no artifact, is damaged, announces more than ``max_bytes``, or needs another base model.
    DependencyError
        If it needs a stage that is not installed.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        max_bytes: int | None = None,
        base: Reference | Sequence[Reference] | None = None,
    ) -> None:
        self.path = user_path(path)
        try:
            require_regular(self.path)
            self._file = self.path.open("rb")
        except OSError as error:
            raise ArtifactError(f"{self.path} cannot be opened: {error.strerror}") from error
        # Also when the last reference goes: opening a file for one tensor is no mistake.
        self._close = weakref.finalize(self, self._file.close)
        try:
            self._open(max_bytes)
            for reference in [base] if isinstance(base, Reference) else base or ():
                self.attach(reference)
        except OSError as error:
            self._close()
            raise ArtifactError(f"{self.path} cannot be read: {error.strerror}") from error
        except MemoryError as error:
            self._close()
            raise ArtifactError(f"{self.path.name} lists more than fits in memory") from error
        except BaseException:
            self._close()
            raise

    def _open(self, max_bytes: int | None) -> None:
        start = read_manifest(self._file, self.path.name)
        offset = start.offset
        self.file_bytes = os.fstat(self._file.fileno()).st_size
        self.manifest: Manifest = decode_manifest(start.manifest, self.path.name, self.file_bytes, start.version)
        self.container_bytes = offset
        starts, length = self._layout()
        if offset + length != self.file_bytes:
            state = "truncated" if offset + length > self.file_bytes else "damaged"
            raise ArtifactError(
                f"{self.path.name} is {state}: it has {self.file_bytes} bytes, its manifest describes {offset + length}"
            )
        self._starts = starts
        self._index = {name: number for number, name in enumerate(self.manifest.names)} | self.manifest.ties
        try:
            kinds: dict[tuple[int, tuple[int, ...]], PlaneSpec] = {}  # of thousands of tensors, most look like another
            specs = [
                kinds.get((entry.dtype, entry.shape)) or kinds.setdefault((entry.dtype, entry.shape), entry.spec)
                for entry in self.manifest.tensors
            ]
        except SpecError as error:
            raise ArtifactError(f"{self.path.name} is damaged: {error}") from error
        self.specs = dict(zip(self.manifest.names, specs, strict=True))
        self.nbytes = sum(spec.nbytes for spec in specs)
        try:
            shared = [entry.spec for entry in self.manifest.shared]
        except SpecError as error:
            raise ArtifactError(f"{self.path.name} is damaged: {error}") from error
        payload = CheckedPayload(self._file, offset, length, self.manifest.checksums, self.path)
        self._payload = payload
        self._decoder = Decoder(self.path.name, payload, StackTable(self.manifest.stacks, shared))
        outside = [Outside(*entry.base, entry.spec) for entry in self.manifest.shared if entry.base is not None]
        self._bases = Bases(self.path.name, self.manifest.bases, outside)
        allowance = Allowance(self.path.name, self.file_bytes, max_bytes, self._bases)
        bundled = sum(size for _, size in self.manifest.bundle.values())
        allowance.require_opening(self.nbytes, bundled)
        #: The planes that tensors share, by the names that stacks have for them; see `SharedPlanes`.
        self.shared = SharedPlanes(
            self.path.name,
            self.manifest,
            self.specs,
            starts[len(self.manifest.tensors) :],
            self._decoder,
            self._bases,
            allowance,
        )

    def _layout(self) -> tuple[list[int], int]:
        entries: list[TensorEntry | SharedEntry] = [*self.manifest.tensors, *self.manifest.shared]
        sizes = [sum(entry.lengths) for entry in entries]
        sizes += [compressed for compressed, _ in self.manifest.bundle.values()]
        ends = list(accumulate(sizes, initial=0))
        return ends[:-1], ends[-1]

    @property
    def kind(self) -> str:
        """What the reference was: ``transformers``, ``safetensors`` or ``module``."""
        return KINDS[self.manifest.kind]

    @cached_property
    def config(self) -> dict[str, Any] | None:
        """Hugging Face configuration of the model, if it has one.

        Raises
        ------
        ArtifactError
            If what the file has there is none.
        """
        try:
            return unpack_config(self.manifest.config, self.file_bytes)
        except (ArtifactError, MemoryError) as error:
            reason = "it does not fit in memory" if isinstance(error, MemoryError) else error
            raise ArtifactError(f"{self.path.name} is damaged: its config does not parse ({reason})") from error

    @property
    def ties(self) -> dict[str, str]:
        """Further names: ``{other name: first name}``."""
        return {other: self.manifest.names[number] for other, number in self.manifest.ties.items()}

    def stack(self, name: str) -> Stack:
        """The stack that a tensor is stored with.

        Raises
        ------
        ArtifactError
            If the file describes one that cannot be.
        DependencyError
            If a stage of it is not installed.
        """
        return self._decoder.fitted(self._entry(name)).stack

    def planes(self, name: str) -> list[StoredPlane]:
        """The stored planes of a tensor, in the order of their bytes; raises as `stack` does."""
        return self._decoder.planes(self._entry(name))

    def uses(self, name: str) -> list[SharedUse]:
        """The shared planes that the stack of a tensor refers to; raises as `stack` does."""
        return self._decoder.fitted(self._entry(name)).uses

    @property
    def bases(self) -> list[Base]:
        """The models that the file needs and does not hold."""
        return self._bases.all

    def attach(self, base: Reference, *, fingerprint: str | None = None) -> None:
        """Give a base model of the file: tensors that lie in it, or differ from what does, decode from now on.

        Parameters
        ----------
        base : Reference
            The model.
        fingerprint : str, optional
            Its fingerprint, where that is known already; all of its weights are read without it.

        Raises
        ------
        ArtifactError
            If it is another model: its fingerprint is that of no base of the file.
        """
        with isolated():
            self._bases.attach(base, fingerprint)
        self.shared.attached()

    def plane_bytes(self, plane: StoredPlane) -> bytes:
        """Packed bytes of a plane, checked."""
        return self._decoder.plane_bytes(plane)

    def __getitem__(self, name: str) -> Tensor:
        entry = self._entry(name)
        self._decoder.planes(entry)
        self.shared.require([use.plane for use in self._decoder.fitted(entry).uses])
        borrowed: list[Tensor] = []

        def shared_at(plane: str, spec: PlaneSpec) -> Tensor:
            borrowed.append(self.shared.at(plane, spec))
            return borrowed[-1]

        with isolated():
            tensor = self._decoder.decoded(entry, shared_at)
            # What the caller gets is the caller's: the shared plane stays as it is, whatever is done to the tensor.
            return tensor.clone() if any(_same_memory(tensor, plane) for plane in borrowed) else tensor

    def _entry(self, name: str) -> Entry:
        number = self._number(name)
        entry = self.manifest.tensors[number]
        return Entry(f"tensor {name!r}", self._spec(number), entry.stack, entry.lengths, self._starts[number])

    def _number(self, name: str) -> int:
        if name not in self._index:
            raise KeyError(f"{self.path.name} has no tensor {name!r}{nearest(str(name), self._index)}")
        return self._index[name]

    def _spec(self, number: int) -> PlaneSpec:
        return self.specs[self.manifest.names[number]]

    def __iter__(self) -> Iterator[str]:
        return iter(self._index)

    def __len__(self) -> int:
        return len(self._index)

    def __contains__(self, name: object) -> bool:
        return name in self._index

    @property
    def bundled(self) -> dict[str, int]:
        """Compressed bytes of each bundled file."""
        return {name: compressed for name, (compressed, _) in self.manifest.bundle.items()}

    def bundled_file(self, name: str) -> bytes:
        """Content of a bundled file.

        Raises
        ------
        KeyError
            If there is no such file.
        ArtifactError
            If it is damaged.
        """
        compressed, size = self.manifest.bundle[name]
        number = list(self.manifest.bundle).index(name)
        data = self._payload.read(
            self._starts[len(self.manifest.tensors) + len(self.manifest.shared) + number], compressed
        )
        try:
            return decompress(data, size)
        except (ArtifactError, MemoryError) as error:
            reason = "it does not fit in memory" if isinstance(error, MemoryError) else error
            raise ArtifactError(
                f"{self.path.name} is damaged: the bundled {name} does not decompress: {reason}"
            ) from error

    def companion_files(self) -> dict[str, bytes]:
        """What belongs beside the decoded model: every bundled file by name, without references to code.

        Raises
        ------
        ArtifactError
            If one is damaged.
        StackcError
            If one asks for foreign classes.
        """
        return {name: without_code(name, self.bundled_file(name)) for name in self.bundled if name != LEFT_BEHIND}

    @property
    def left_behind(self) -> list[str]:
        """Files of the original folder that shape the model and are not in this file, as code and adapters do."""
        if LEFT_BEHIND not in self.manifest.bundle:
            return []
        try:
            return read_names(self.bundled_file(LEFT_BEHIND))
        except (ValueError, RecursionError) as error:
            raise ArtifactError(f"{self.path.name} is damaged: the bundled {LEFT_BEHIND}: {error}") from error

    def state_dict(self, workers: int | None = None) -> dict[str, Tensor]:
        """All tensors, decoded in parallel; tied names share one tensor."""
        state = dict(zip(self.specs, self.stream(workers), strict=True))
        for other, first in self.ties.items():
            state[other] = state[first]
        return state

    def stream(self, workers: int | None = None) -> Iterator[Tensor]:
        """The tensors in the order of `specs`, decoded in parallel a few at a time, which costs less than one by one."""
        return map_ordered(self.__getitem__, self.specs, workers, size=lambda name: self.specs[name].nbytes)

    def checksum(self, workers: int | None = None, progress: Progress | None = None) -> str:
        """SHA-256 of the decoded tensors, in hexadecimal: decodes everything, a few tensors at a time.

        Names, dtypes, shapes and ties enter as well, what packs the tensors does not; docs/format.md says how. Two machines
        that find the same one have the same bits.

        Parameters
        ----------
        workers : int, optional
            Threads; as many as there are cores by default. The result does not depend on it.
        progress : Progress, optional
            Told of the bytes that are decoded.

        Raises
        ------
        ArtifactError
            If the file is damaged.
        """

        def decoded() -> Iterator[tuple[str, PlaneSpec, list[memoryview]]]:
            for (name, spec), tensor in zip(self.specs.items(), self.stream(workers), strict=True):
                yield name, spec, [byte_view(tensor).data]
                advance(spec.nbytes)

        with (progress or Progress()).task(f"verify {self.path.name}", self.nbytes) as advance:
            return fingerprint(decoded(), self.ties)

    def build(self) -> nn.Module:
        """The model with the decoded weights, in evaluation mode.

        Raises
        ------
        ModelError
            If the file does not say which architecture it is for.
        """
        from stackc.models import build_transformers
        from stackc.util.errors import ModelError

        if self.config is None:
            raise ModelError(
                f"{self.path.name} holds tensors without an architecture (its reference was a {self.kind}); "
                "load its state_dict() into your own module, or decode it to safetensors"
            )
        generation = self.bundled_file(GENERATION) if GENERATION in self.bundled else None
        with isolated():
            return build_transformers(self.config, self.state_dict(), generation)

    def tokenizer(self) -> Any | None:
        """The bundled tokenizer, or None."""
        from stackc.models import tokenizer_from_files

        files = {name: self.bundled_file(name) for name in self.bundled if is_tokenizer_file(name)}
        with isolated():
            return tokenizer_from_files(files, self.config)

    def close(self) -> None:
        """Close the file; tensors can no longer be read."""
        self.shared.clear()
        self._close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<stackc artifact {self.path.name}: {len(self.manifest.tensors)} tensors, {self.file_bytes} bytes>"


def _same_memory(one: Tensor, other: Tensor) -> bool:
    return one.untyped_storage().data_ptr() == other.untyped_storage().data_ptr()
