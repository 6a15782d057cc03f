"""Artifacts made by hand: without a recipe, and with manifests that no writer would write."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from stackc.artifact.container import PLAIN_VERSION, SHARING_VERSION, BlockChecksums, frame_manifest, read_manifest
from stackc.artifact.writer import ArtifactWriter
from stackc.core.spec import PlaneSpec
from stackc.core.stack import Stack, encode_plane, join, stored_planes
from stackc.planning.plan import plan_recipe
from stackc.recipe.parse import recipe_from

if TYPE_CHECKING:
    from torch import Tensor


def stack_of(stages: Sequence[Any], spec: PlaneSpec) -> Stack:
    """The stack that a recipe's stages make for one tensor."""
    plan = plan_recipe(recipe_from({"stages": list(stages)}), {"x": spec})
    return plan.tensors[0].stacks[-1]


def pack(stack: Stack, x: Tensor) -> list[bytes]:
    """Bytes of the stored planes of a tensor."""
    planes: dict[str, Tensor] = {}

    def walk(node: Any, value: Tensor, spec: PlaneSpec, path: str) -> None:
        if hasattr(node, "packer"):
            planes[path] = value
            return
        for plane, (below, made) in encode_plane(node.transform, value, spec).items():
            walk(node.planes[plane], made, below, join(path, plane))

    spec = PlaneSpec.of(x)
    walk(stack, x, spec, "")
    return [planned.packer.pack(planes[planned.path], planned.spec) for planned in stored_planes(stack, spec)]


def write_artifact(
    path: Path,
    tensors: Mapping[str, tuple[Tensor, Sequence[Any]]],
    *,
    ties: Mapping[str, Sequence[str]] | None = None,
    bundle: Mapping[str, bytes] | None = None,
    config: Mapping[str, Any] | None = None,
) -> Path:
    """Write an artifact of tensors, each with the stages of its stack."""
    with ArtifactWriter(path, "module", config) as writer:
        for name, (x, stages) in tensors.items():
            spec = PlaneSpec.of(x)
            stack = stack_of(stages, spec)
            writer.add([name, *(ties or {}).get(name, [])], spec, stack, pack(stack, x))
        for name, content in (bundle or {}).items():
            writer.add_file(name, content)
        writer.finish()
    return path


def parts(data: bytes, folder: Path) -> tuple[list[Any], bytes]:
    """Manifest of a file, as plain lists, and its payload."""
    copy = folder / "parts"
    copy.write_bytes(data)
    with copy.open("rb") as file:
        start = read_manifest(file, copy.name)
    return msgspec.msgpack.decode(start.manifest), data[start.offset :]


def rebuild(manifest: Any, payload: bytes, *, checksums: bool = True) -> bytes:
    """A file with this manifest and payload whose checksums match."""
    if checksums and isinstance(manifest, list) and len(manifest) > 7:
        blocks = BlockChecksums()
        blocks.update(payload)
        manifest = [*manifest[:7], blocks.digest(), *manifest[8:]]
    version = SHARING_VERSION if isinstance(manifest, list) and len(manifest) > 8 else PLAIN_VERSION
    return frame_manifest(msgspec.msgpack.encode(manifest), version=version) + payload


def rewritten(data: bytes, folder: Path, change: Callable[[list[Any]], Any]) -> bytes:
    """A file whose manifest was changed in place, or replaced by what the change returns; all checksums match."""
    manifest, payload = parts(data, folder)
    changed = change(manifest)
    return rebuild(manifest if changed is None else changed, payload)
