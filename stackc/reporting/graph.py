"""The graph of a file: tensors, the planes that they share, and the models outside of it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from stackc.artifact.reader import Artifact
from stackc.core.stack import describe
from stackc.reporting.shares import shares
from stackc.util.humanise import plural, printable, size_text

if TYPE_CHECKING:
    from networkx import DiGraph

#: Boxes of tensors that are drawn apart by their names; where there are more, those with one stack are one box.
MOST_BOXES = 24
_LONGEST = 60


class Box(NamedTuple):
    """What is drawn for a node.

    Attributes
    ----------
    kind : str
        ``tensor``, ``shared`` or ``base``.
    title, detail : str
        Two lines of text.
    """

    kind: str
    title: str
    detail: str


class _Group(NamedTuple):
    """Tensors that look alike: a name with stars for numbers, the stack, and the paths and names of what it refers to."""

    name: str
    stack: str
    uses: tuple[tuple[str, str], ...]


def graph_of(artifact: Artifact) -> DiGraph[str]:
    """What refers to what in a file.

    Nodes have a `Box` as ``box``, edges the paths of the references as ``label``. Tensors that look alike are one node.
    Users come first in the order of nodes, as a picture shows them.
    """
    import networkx

    graph: DiGraph[str] = networkx.DiGraph()
    costs = shares(artifact).tensors
    for number, (group, names) in enumerate(_grouped(artifact).items()):
        stored = sum(costs[name] + sum(plane.length for plane in artifact.planes(name)) for name in names)
        title = (
            names[0] if len(names) == 1 else f"{plural(len(names), 'tensor')}{f' {group.name}' if group.name else ''}"
        )
        detail = f"{_short(group.stack)}, {size_text(stored)}"
        graph.add_node(f"t{number}", box=Box("tensor", _short(printable(title)), detail))
        _connect(graph, f"t{number}", group.uses)
    for name in artifact.shared:
        graph.add_node(name, box=_shared_box(artifact, name))
        _connect(graph, name, [(use.path, use.plane) for use in artifact.shared.uses(name)])
        outside = artifact.shared.outside(name)
        if outside is not None:
            base, tensor = outside
            hint = printable(base.hint) or "base model"
            graph.add_node(f"base {base.sha256}", box=Box("base", _short(hint), f"sha256:{base.sha256[:12]}..."))
            graph.add_edge(name, f"base {base.sha256}", label=_short(printable(tensor)))
    return graph


def _shared_box(artifact: Artifact, name: str) -> Box:
    stack, spec = artifact.shared.stack(name), artifact.shared.specs[name]
    size = size_text(sum(plane.length for plane in artifact.shared.planes(name)))
    detail = "not in the file" if stack is None else f"{_short(describe(stack))}, {size}"
    return Box("shared", f"{name}: {spec}", detail)


def _connect(graph: DiGraph[str], user: str, uses: Sequence[tuple[str, str]]) -> None:
    for plane in dict.fromkeys(plane for _, plane in uses):
        paths = [path or "whole" for path, used in uses if used == plane]
        graph.add_edge(user, plane, label=_short(", ".join(paths)))


def _grouped(artifact: Artifact) -> dict[_Group, list[str]]:
    groups: dict[_Group, list[str]] = {}
    for name in artifact.specs:
        uses = tuple((use.path, use.plane) for use in artifact.uses(name))
        # Those that share nothing are not what the picture is about.
        pattern = re.sub(r"\d+", "*", name) if uses else ""
        groups.setdefault(_Group(pattern, describe(artifact.stack(name)), uses), []).append(name)
    if len(groups) <= MOST_BOXES:
        return groups
    fewer: dict[_Group, list[str]] = {}
    for group, names in groups.items():
        fewer.setdefault(group._replace(name=""), []).extend(names)
    return fewer


def _short(text: str) -> str:
    half = _LONGEST // 2 - 2
    return text if len(text) <= _LONGEST else f"{text[:half]} ... {text[-half:]}"
