"""``stackc inspect``: what is in a file, and where its bytes are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from stackc.cli.options import JsonOption
from stackc.cli.verify import ArtifactArgument, artifact_path

if TYPE_CHECKING:
    from rich.table import Table

    from stackc.artifact.reader import Artifact
    from stackc.reporting.report import ByteRow

_CONFIG_KEYS = ("architectures", "model_type", "hidden_size", "num_hidden_layers", "vocab_size", "num_labels")


class InspectedPlane(msgspec.Struct, frozen=True):
    """One stored plane of a tensor."""

    path: str
    spec: str
    packer: str
    side: bool
    bytes: int
    bits_per_element: float | None


class InspectedTensor(msgspec.Struct, frozen=True, kw_only=True):
    """One tensor of a file."""

    name: str
    ties: list[str]
    spec: str
    stack: str
    bytes: int
    planes: list[InspectedPlane]


class Inspected(msgspec.Struct, frozen=True, kw_only=True):
    """A file: ``bytes`` rows add up to ``file_bytes``."""

    file: str
    kind: str
    config: dict[str, Any] | None
    file_bytes: int
    decoded_bytes: int
    ratio: float
    bundled: list[str]
    bytes: list[ByteRow]
    tensors: list[InspectedTensor]


def inspect(
    file: ArtifactArgument,
    tensor: Annotated[str | None, typer.Option(metavar="GLOB", help="Only tensors with such a name.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Show what is in a file: its model, its bytes, and the stack of every tensor."""
    from stackc.artifact.reader import Artifact
    from stackc.cli.terminal import write_json
    from stackc.reporting.accounting import byte_rows

    file = artifact_path(file)
    with Artifact(file) as artifact:
        others = _other_names(artifact)
        result = Inspected(
            file=str(file),
            kind=artifact.kind,
            config=artifact.config,
            file_bytes=artifact.file_bytes,
            decoded_bytes=artifact.nbytes,
            ratio=artifact.nbytes / artifact.file_bytes,
            bundled=list(artifact.bundled),
            bytes=byte_rows(artifact),
            tensors=[_tensor(artifact, name, others.get(name, [])) for name in _chosen(artifact, tensor, others)],
        )
    if as_json:
        write_json(result)
    else:
        _show(result)


def _chosen(artifact: Artifact, glob: str | None, others: Mapping[str, list[str]]) -> list[str]:
    from stackc.util.errors import StackcError
    from stackc.util.nearest import nearest
    from stackc.util.patterns import matches

    if glob is None:
        return list(artifact.specs)
    chosen = [name for name in artifact.specs if matches([glob], [name, *others.get(name, [])], "")]
    if not chosen:
        raise StackcError(
            f"{artifact.path.name} has no tensor that matches {glob!r}{nearest(glob.strip('*'), artifact)}"
        )
    return chosen


def _other_names(artifact: Artifact) -> dict[str, list[str]]:
    others: dict[str, list[str]] = {}
    for other, first in artifact.ties.items():
        others.setdefault(first, []).append(other)
    return others


def _tensor(artifact: Artifact, name: str, ties: list[str]) -> InspectedTensor:
    from stackc.core.stack import describe

    planes = [
        InspectedPlane(
            plane.planned.path,
            str(plane.planned.spec),
            plane.planned.packer.name,
            plane.planned.side,
            plane.length,
            8 * plane.length / plane.planned.spec.numel if plane.planned.spec.numel else None,
        )
        for plane in artifact.planes(name)
    ]
    return InspectedTensor(
        name=name,
        ties=ties,
        spec=str(artifact.specs[name]),
        stack=describe(artifact.stack(name)),
        bytes=sum(plane.bytes for plane in planes),
        planes=planes,
    )


def _show(result: Inspected) -> None:
    from stackc.cli.terminal import output, say
    from stackc.reporting.table import byte_rows_table
    from stackc.util.humanise import plural, printable, size_text, three_digits

    console = output()
    config = result.config or {}
    known = ", ".join(f"{key} {_value(config[key])}" for key in _CONFIG_KEYS if key in config)
    say(
        console,
        f"{result.file}: {result.kind} model{f' ({printable(known)})' if known else ''}",
        f"{result.file_bytes:,} bytes for {result.decoded_bytes:,} bytes of tensors: ratio {three_digits(result.ratio)}",
    )
    if result.bundled:
        say(console, f"bundled: {', '.join(map(printable, result.bundled))}")
    console.print()
    console.print(byte_rows_table(result.bytes))
    console.print()
    console.print(_tensor_table(result))
    shown = sum(tensor.bytes for tensor in result.tensors)
    say(console, f"{plural(len(result.tensors), 'tensor')} shown: {shown:,} bytes ({size_text(shown)})")


def _value(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _tensor_table(result: Inspected) -> Table:
    from rich.text import Text

    from stackc.reporting.table import Names, plain_table
    from stackc.util.humanise import three_digits

    table = plain_table()
    table.add_column("tensor, its stack, its planes")
    table.add_column("spec")
    table.add_column("packer", no_wrap=True)
    table.add_column("bytes", justify="right", no_wrap=True)
    table.add_column("bits per\nelement", justify="right", no_wrap=True)
    for tensor in result.tensors:
        names = " = ".join([tensor.name, *tensor.ties])
        table.add_row(Names(names, style="bold"), Names(tensor.spec), "", Text(f"{tensor.bytes:,}", style="bold"), "")
        single = len(tensor.planes) == 1 and not tensor.planes[0].path
        if not single:
            table.add_row(Names(f"  {tensor.stack}", style="dim"), "", "", "", "")
        for plane in tensor.planes:
            label = "  stored as it is" if single else f"  {plane.path}{' (side)' if plane.side else ''}"
            bits = "-" if plane.bits_per_element is None else three_digits(plane.bits_per_element)
            spec = "" if single else plane.spec
            table.add_row(Names(label), Names(spec), plane.packer, f"{plane.bytes:,}", bits)
    return table
