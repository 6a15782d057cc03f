"""``stackc inspect``: what is in a file, and where its bytes are."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from stackc.cli.options import JsonOption
from stackc.cli.verify import ArtifactArgument, artifact_path

if TYPE_CHECKING:
    from rich.table import Table

    from stackc.artifact.decoder import StoredPlane
    from stackc.artifact.reader import Artifact
    from stackc.core.stack import SharedUse
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


class InspectedUse(msgspec.Struct, frozen=True):
    """A reference of a tensor or a shared plane to a shared plane."""

    path: str
    plane: str
    spec: str


class InspectedShared(msgspec.Struct, frozen=True, kw_only=True):
    """A plane that stacks refer to: ``bytes`` are those that are stored for it, ``base`` names the model it lies in."""

    name: str
    spec: str
    stack: str | None
    users: int
    bytes: int
    planes: list[InspectedPlane]
    shared: list[InspectedUse]
    base: str | None = None
    base_tensor: str | None = None


class InspectedTensor(msgspec.Struct, frozen=True, kw_only=True):
    """One tensor of a file. ``bytes`` are those of its planes and ``shared_bytes``, its part of the planes that it shares."""

    name: str
    ties: list[str]
    spec: str
    stack: str
    bytes: int
    planes: list[InspectedPlane]
    shared_bytes: int = 0
    shared: list[InspectedUse] = []


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
    shared: list[InspectedShared] = []
    bases: dict[str, str] = {}


def inspect(
    file: ArtifactArgument,
    tensor: Annotated[str | None, typer.Option(metavar="GLOB", help="Only tensors with such a name.")] = None,
    as_json: JsonOption = False,
    graph: Annotated[
        bool, typer.Option("--graph", help="Draw which tensors share planes instead, as Mermaid text.")
    ] = False,
    drawing: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="Where --graph draws to: a .svg picture or a .mmd text.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Show what is in a file: its model, its bytes, and the stack of every tensor."""
    from stackc.artifact.reader import Artifact
    from stackc.cli.terminal import write_json
    from stackc.reporting.accounting import byte_rows
    from stackc.reporting.shares import shares

    file = artifact_path(file)
    if drawing is not None and not (graph and drawing.suffix in (".svg", ".mmd")):
        raise typer.BadParameter("it takes a .svg or .mmd file, for --graph", param_hint="--output")
    if graph:
        _draw(file, drawing)
        return
    with Artifact(file) as artifact:
        others = _other_names(artifact)
        costs = shares(artifact).tensors
        result = Inspected(
            file=str(file),
            kind=artifact.kind,
            config=artifact.config,
            file_bytes=artifact.file_bytes,
            decoded_bytes=artifact.nbytes,
            ratio=artifact.nbytes / artifact.file_bytes,
            bundled=list(artifact.bundled),
            bytes=byte_rows(artifact),
            tensors=[
                _tensor(artifact, name, others.get(name, []), costs[name]) for name in _chosen(artifact, tensor, others)
            ],
            shared=[_shared(artifact, name) for name in artifact.shared],
            bases={base.sha256: base.hint for base in artifact.bases},
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


def _draw(file: Path, target: Path | None) -> None:
    """Write the graph of a file where it is wanted."""
    from stackc.artifact.reader import Artifact
    from stackc.cli.terminal import output
    from stackc.reporting.drawing import mermaid, svg
    from stackc.reporting.graph import graph_of
    from stackc.util.output import writing
    from stackc.util.partial import atomic_file
    from stackc.util.paths import user_path

    with Artifact(file) as artifact:
        graph = graph_of(artifact)
    if target is None:
        output().print(mermaid(graph), end="", markup=False, highlight=False, soft_wrap=True)
        return
    path = user_path(target)
    with writing(path), atomic_file(path) as temporary:
        temporary.write_text(svg(graph) if path.suffix == ".svg" else mermaid(graph), encoding="utf-8")


def _planes(stored: Iterable[StoredPlane]) -> list[InspectedPlane]:
    return [
        InspectedPlane(
            plane.planned.path,
            str(plane.planned.spec),
            plane.planned.packer.name,
            plane.planned.side,
            plane.length,
            8 * plane.length / plane.planned.spec.numel if plane.planned.spec.numel else None,
        )
        for plane in stored
    ]


def _uses(uses: Iterable[SharedUse]) -> list[InspectedUse]:
    return [InspectedUse(use.path, use.plane, str(use.spec)) for use in uses]


def _shared(artifact: Artifact, name: str) -> InspectedShared:
    from stackc.core.stack import describe

    shared, stack, outside = artifact.shared, artifact.shared.stack(name), artifact.shared.outside(name)
    planes = _planes(shared.planes(name))
    return InspectedShared(
        name=name,
        spec=str(shared.specs[name]),
        stack=None if stack is None else describe(stack),
        users=shared.usage.users[shared.numbers[name]],
        bytes=sum(plane.bytes for plane in planes),
        planes=planes,
        shared=_uses(shared.uses(name)),
        base=None if outside is None else outside[0].sha256,
        base_tensor=None if outside is None else outside[1],
    )


def _tensor(artifact: Artifact, name: str, ties: list[str], shared_bytes: int) -> InspectedTensor:
    from stackc.core.stack import describe

    planes = _planes(artifact.planes(name))
    return InspectedTensor(
        name=name,
        ties=ties,
        spec=str(artifact.specs[name]),
        stack=describe(artifact.stack(name)),
        bytes=sum(plane.bytes for plane in planes) + shared_bytes,
        planes=planes,
        shared_bytes=shared_bytes,
        shared=_uses(artifact.uses(name)),
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
    for sha256, hint in result.bases.items():
        say(
            console,
            f"needs the base model sha256:{sha256[:16]}...{f' (it was {printable(hint)})' if hint else ''} to decode",
        )
    console.print(_tensor_table(result))
    shown = sum(tensor.bytes for tensor in result.tensors)
    say(console, f"{plural(len(result.tensors), 'tensor')} shown: {shown:,} bytes ({size_text(shown)})")


def _value(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _tensor_table(result: Inspected) -> Table:
    from rich.text import Text

    from stackc.reporting.table import Names, plain_table
    from stackc.util.humanise import three_digits

    outside = {shared.name: shared for shared in result.shared if shared.stack is None}
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
        whole = len(tensor.shared) == 1 and not tensor.shared[0].path
        if not single and not whole:
            table.add_row(Names(f"  {tensor.stack}", style="dim"), "", "", "", "")
        for plane in tensor.planes:
            label = "  stored as it is" if single else f"  {plane.path}{' (side)' if plane.side else ''}"
            bits = "-" if plane.bits_per_element is None else three_digits(plane.bits_per_element)
            spec = "" if single else plane.spec
            table.add_row(Names(label), Names(spec), plane.packer, f"{plane.bytes:,}", bits)
        _add_uses(table, tensor.shared, tensor.shared_bytes, outside)
    for shared in result.shared:
        if shared.name not in outside:
            _add_shared(table, shared, outside)
    return table


def _add_uses(
    table: Table, uses: list[InspectedUse], shared_bytes: int | None, outside: Mapping[str, InspectedShared]
) -> None:
    from stackc.reporting.table import Names

    for use in uses:
        if use.plane in outside:
            title = f"  {use.path or 'whole'} = {use.plane}: {outside[use.plane].base_tensor} of the base model"
            table.add_row(Names(title), Names(use.spec), "not here", "0", "")
            continue
        cost, shared_bytes = "" if shared_bytes is None else f"{shared_bytes:,}", None  # of all of them, said once
        table.add_row(Names(f"  {use.path or 'whole'} = {use.plane}"), Names(use.spec), "shared", cost, "")


def _add_shared(table: Table, shared: InspectedShared, outside: Mapping[str, InspectedShared]) -> None:
    from rich.text import Text

    from stackc.reporting.table import Names
    from stackc.util.humanise import plural, three_digits

    title = f"{shared.name}, shared by {plural(shared.users, 'user')}"
    table.add_row(Names(title, style="bold"), Names(shared.spec), "", Text(f"({shared.bytes:,})", style="bold"), "")
    table.add_row(Names(f"  {shared.stack}", style="dim"), "", "", "", "")
    for plane in shared.planes:
        bits = "-" if plane.bits_per_element is None else three_digits(plane.bits_per_element)
        table.add_row(Names(f"  {plane.path or 'whole'}"), Names(plane.spec), plane.packer, f"({plane.bytes:,})", bits)
    _add_uses(table, shared.shared, None, outside)
