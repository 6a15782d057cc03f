"""Pack the planes of a file again: the same model in fewer bytes, as packers get better at choosing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from stackc.artifact.reader import Artifact
from stackc.artifact.shared import SharedPlanes
from stackc.artifact.writer import ArtifactWriter
from stackc.core.planes import to_bytes
from stackc.core.registry import find_packer
from stackc.core.spec import PlaneSpec
from stackc.core.stack import Leaf, PlannedPlane, Stack, replace
from stackc.util.errors import ArtifactError, DependencyError, OutputError, StackcError
from stackc.util.isolation import isolated
from stackc.util.output import require_replaceable
from stackc.util.parallel import map_ordered
from stackc.util.paths import user_path
from stackc.util.progress import Progress

if TYPE_CHECKING:
    from torch import Tensor


class Repacked(NamedTuple):
    """What packing again made of a file.

    Attributes
    ----------
    before, after : int
        Bytes of the two files.
    planes, smaller : int
        Stored planes, and how many of them take fewer bytes now.
    """

    before: int
    after: int
    planes: int
    smaller: int


class _Tensor(NamedTuple):
    """A tensor on its way to the new file."""

    stack: Stack
    planes: list[bytes]
    smaller: int


def repack(
    source: str | Path, target: str | Path, *, overwrite: bool = False, progress: Progress | None = None
) -> Repacked:
    """Write a file with the planes of another one, each with the packer that makes it smallest today.

    Nothing that is stored changes: transforms, codes, names and bundled files are the same, and so is every decoded
    tensor to the last bit. A plane keeps the bytes that it has where no packer of `auto` beats them. Each plane that is
    packed again is unpacked once more and compared.

    Parameters
    ----------
    source, target : path
        The file, and the one to write. If nothing becomes smaller, nothing is written.
    overwrite : bool
        Whether ``target`` may exist.
    progress : Progress, optional
        Told how far it is.

    Raises
    ------
    ArtifactError
        If ``source`` is no artifact, or is damaged.
    DependencyError
        If a stage of it is not installed.
    OutputError
        If ``target`` exists, is ``source``, or cannot be written.

    Examples
    --------
    >>> import tempfile, stackc, torch
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     old, new = Path(folder, "old.stackc"), Path(folder, "new.stackc")
    ...     _ = stackc.compress(torch.nn.Linear(64, 64), {"stages": [{"use": "int", "bits": 4}, "raw"]}, old)
    ...     result = repack(old, new)
    ...     with stackc.open(old) as before, stackc.open(new) as after:
    ...         same = all(torch.equal(before[name], after[name]) for name in before)
    >>> result.after < result.before, result.smaller, same
    (True, 2, True)
    """
    source, target = user_path(source), user_path(target)
    _require_free(source, target, overwrite)
    progress = progress or Progress()
    planes = smaller = 0
    with (
        isolated(),
        Artifact(source) as artifact,
        ArtifactWriter(target, artifact.kind, artifact.config) as writer,
        progress.task(f"repack {source.name}", artifact.nbytes) as advance,
    ):
        others: dict[str, list[str]] = {}
        for other, first in artifact.ties.items():
            others.setdefault(first, []).append(other)
        for name, tensor in _all_repacked(artifact, artifact, artifact.specs):
            writer.add([name, *others.get(name, [])], artifact.specs[name], tensor.stack, tensor.planes)
            planes += len(tensor.planes)
            smaller += tensor.smaller
            advance(artifact.specs[name].nbytes)
        stored = {name: spec for name, spec in artifact.shared.specs.items() if artifact.shared.outside(name) is None}
        again = dict(_all_repacked(artifact, artifact.shared, stored))
        for name, spec in artifact.shared.specs.items():
            outside = artifact.shared.outside(name)
            if outside is not None:
                writer.add_outside(name, spec, *outside)
                continue
            tensor = again[name]
            writer.add_shared(name, spec, tensor.stack, tensor.planes)
            planes += len(tensor.planes)
            smaller += tensor.smaller
        files = {name: artifact.bundled_file(name) for name in artifact.bundled}
        before, after = artifact.file_bytes, writer.projected_bytes(files)
        if after < before:
            for name, content in files.items():
                writer.add_file(name, content)
            after = writer.finish()
    return Repacked(before, after, planes, smaller)


def _require_free(source: Path, target: Path, overwrite: bool) -> None:
    require_replaceable(target)
    if target.is_dir():
        raise OutputError(f"{target} is a folder; name a file")
    if target.exists() and source.exists() and target.samefile(source):
        raise OutputError(f"{target} is the file that is read; choose another name")
    if target.exists() and not overwrite:
        raise OutputError(f"{target} exists already; choose another name, or say that it may be overwritten")


def _all_repacked(
    artifact: Artifact, source: Artifact | SharedPlanes, specs: Mapping[str, PlaneSpec]
) -> Iterator[tuple[str, _Tensor]]:
    """Tensors or shared planes of the file with their planes packed again."""
    repacked = map_ordered(lambda name: _repacked(artifact, source, name), specs, size=lambda name: specs[name].nbytes)
    return zip(specs, repacked, strict=True)


def _repacked(artifact: Artifact, source: Artifact | SharedPlanes, name: str) -> _Tensor:
    stack, planes, smaller = source.stack(name), [], 0
    assert stack is not None  # what lies outside of the file is not packed
    for stored in source.planes(name):
        data, planned = artifact.plane_bytes(stored), stored.planned
        plane = _unpacked(artifact, name, planned, data)
        packer, made = find_packer("auto").choose(plane, planned.spec)
        if len(made) < len(data):
            if to_bytes(packer.unpack(made, planned.spec)) != to_bytes(plane):
                raise StackcError(
                    f"{packer.name} does not give back plane {planned.path!r} of tensor {name!r}; that is an error in it, "
                    "and nothing was written"
                )
            stack, data, smaller = replace(stack, planned.path, Leaf(packer)), made, smaller + 1
        planes.append(data)
    return _Tensor(stack, planes, smaller)


def _unpacked(artifact: Artifact, name: str, planned: PlannedPlane, data: bytes) -> Tensor:
    try:
        return planned.packer.unpack(data, planned.spec)
    except Exception as error:  # checksums match, so the file was written like this
        if isinstance(error, DependencyError):
            raise
        problem = " ".join(str(error).split())
        raise ArtifactError(
            f"{artifact.path.name}: plane {planned.path!r} of tensor {name!r} does not decode: {problem}"
        ) from error
