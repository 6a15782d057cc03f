"""Read an artifact: any tensor by name, without the others, without the reference, data or network."""

from __future__ import annotations

import contextlib
import os
import weakref
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from stackc.artifact.container import CheckedPayload, decompress, read_manifest
from stackc.artifact.limits import Budget
from stackc.artifact.manifest import KINDS, Manifest, decode_manifest, unpack_config
from stackc.artifact.stacks import FittedStack, StackTable
from stackc.core.fingerprint import fingerprint
from stackc.core.packer import Packer
from stackc.core.planes import byte_view
from stackc.core.spec import PlaneSpec
from stackc.core.stack import Cost, PlannedPlane, Stack, decode
from stackc.models.companions import GENERATION, LEFT_BEHIND, is_tokenizer_file, read_names, without_code
from stackc.util.errors import ArtifactError, DependencyError, SpecError
from stackc.util.isolation import isolated
from stackc.util.nearest import nearest
from stackc.util.parallel import map_ordered, one_thread_per_operation
from stackc.util.paths import require_regular, user_path
from stackc.util.progress import Progress

if TYPE_CHECKING:
    from torch import Tensor, nn

#: The stored planes of a tensor may take at most this many times its own bytes (plus a megabyte): no honest stack comes
#: near.
MAX_PLANES = 64


class StoredPlane(NamedTuple):
    """One plane in the file: its plan and its place in the payload."""

    planned: PlannedPlane
    start: int
    length: int


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

    Raises
    ------
    ArtifactError
        If it is no artifact, is damaged, or announces more than ``max_bytes``.
    DependencyError
        If it needs a stage that is not installed.
    """

    def __init__(self, path: str | Path, *, max_bytes: int | None = None) -> None:
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
        except OSError as error:
            self.close()
            raise ArtifactError(f"{self.path} cannot be read: {error.strerror}") from error
        except MemoryError as error:
            self.close()
            raise ArtifactError(f"{self.path.name} lists more than fits in memory") from error
        except BaseException:
            self.close()
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
        self._payload = CheckedPayload(self._file, offset, length, self.manifest.checksums, self.path)
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
        self._stacks = StackTable(self.manifest.stacks)
        self._budget = Budget.of(self.file_bytes, max_bytes)
        bundled = sum(size for _, size in self.manifest.bundle.values())
        self._require("decode to {} bytes", self.nbytes, self._budget.tensors)
        self._require("unpack bundled files of {} bytes", bundled, self._budget.bundle)

    def _require(self, what: str, amount: int, limit: int) -> None:
        if amount > limit:
            raise ArtifactError(
                f"{self.path.name} would {what.format(amount)}, more than the limit of {limit}; "
                "if you trust it, open it with stackc.open(path, max_bytes=...) and a larger number"
            )

    def _layout(self) -> tuple[list[int], int]:
        sizes = [sum(entry.lengths) for entry in self.manifest.tensors]
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
        return self._fitted(name).stack

    def planes(self, name: str) -> list[StoredPlane]:
        """The stored planes of a tensor, in the order of their bytes; raises as `stack` does."""
        return self._planes(name, self._fitted(name))

    def _fitted(self, name: str) -> FittedStack:
        number = self._number(name)
        try:
            return self._stacks.at(self.manifest.tensors[number].stack, self._spec(number))
        except ArtifactError as error:
            raise ArtifactError(f"{self.path.name} is damaged: tensor {name!r}: {error}") from error

    def _planes(self, name: str, fitted: FittedStack) -> list[StoredPlane]:
        number = self._number(name)
        lengths, planned = self.manifest.tensors[number].lengths, fitted.planes
        if len(planned) != len(lengths):
            raise ArtifactError(
                f"{self.path.name} is damaged: the stack of {name!r} has {len(planned)} planes, the file lists {len(lengths)}"
            )
        if fitted.nbytes > MAX_PLANES * self._spec(number).nbytes + (1 << 20):
            raise ArtifactError(
                f"{self.path.name} is damaged: the planes of {name!r} would take more than {MAX_PLANES} times its own bytes"
            )
        starts = accumulate(lengths[:-1], initial=self._starts[number])
        return [StoredPlane(*triple) for triple in zip(planned, starts, lengths, strict=True)]

    @cached_property
    def _cost(self) -> Cost:
        """What decoding all tensors takes; those that do not decode take nothing."""
        planes = work = 0
        kinds = Counter(zip((entry.stack for entry in self.manifest.tensors), self.specs.values(), strict=True))
        for (number, spec), tensors in kinds.items():
            with contextlib.suppress(ArtifactError, DependencyError):
                each = self._stacks.at(number, spec).cost
                planes, work = planes + tensors * each.planes, work + tensors * each.work
        return Cost(planes, work)

    def _require_affordable(self) -> None:
        """Refuse to begin what would take out of all proportion to the file."""
        self._require("make planes of {} bytes", self._cost.planes, self._budget.planes)
        self._require("take the work of {} multiplications", self._cost.work, self._budget.work)

    def plane_bytes(self, plane: StoredPlane) -> bytes:
        """Packed bytes of a plane, checked."""
        return self._payload.read(plane.start, plane.length)

    def __getitem__(self, name: str) -> Tensor:
        with isolated():
            return self._decoded(name)

    def _decoded(self, name: str) -> Tensor:
        fitted, spec = self._fitted(name), self._spec(self._number(name))
        stored = self._planes(name, fitted)
        self._require_affordable()
        packed = {plane.planned.path: self.plane_bytes(plane) for plane in stored}

        def plane_at(path: str, spec: PlaneSpec, packer: Packer) -> Tensor:
            return packer.unpack(packed.pop(path), spec)

        try:
            with one_thread_per_operation():  # how a sum is split between threads decides how it rounds
                tensor = decode(fitted.stack, spec, plane_at)
            difference = spec.mismatch(tensor)
            if difference is not None:
                raise ArtifactError(difference)
        except Exception as error:
            if isinstance(error, DependencyError):
                raise
            # Checksums match, so the file was written like this: planes that contradict each other, in any of the ways
            # that stages can notice.
            message = "it does not fit in memory" if isinstance(error, MemoryError) else " ".join(str(error).split())
            raise ArtifactError(f"{self.path.name}: tensor {name!r} ({spec}) does not decode: {message}") from error
        return tensor

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
        data = self._payload.read(self._starts[len(self.manifest.tensors) + number], compressed)
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
        self._close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<stackc artifact {self.path.name}: {len(self.manifest.tensors)} tensors, {self.file_bytes} bytes>"
