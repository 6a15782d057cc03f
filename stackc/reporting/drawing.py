"""A graph of boxes as text for Mermaid and as a picture in SVG."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, NamedTuple

from stackc.reporting.graph import Box

if TYPE_CHECKING:
    from networkx import DiGraph

_COLOURS = {"tensor": "#e8f0fe", "shared": "#fef3d8", "base": "#e6f4ea"}
_SHAPES = {"tensor": ("[", "]"), "shared": ("([", "])"), "base": ("[(", ")]")}

_LETTER = 6.6  # width of a letter of 11 pixels in a typewriter face
_HEIGHT = 40
_GAP = 18
_COLUMN_GAP = 150
_MARGIN = 16


def mermaid(graph: DiGraph[str]) -> str:
    """The text of a flowchart.

    Examples
    --------
    >>> import networkx
    >>> graph = networkx.DiGraph()
    >>> graph.add_node("t", box=Box("tensor", "weight", "raw, 12 bytes"))
    >>> print(mermaid(graph))
    flowchart LR
        n0["weight<br/>raw, 12 bytes"]
        style n0 fill:#e8f0fe,stroke:#667
    <BLANKLINE>
    """
    numbers = {node: f"n{number}" for number, node in enumerate(graph)}
    lines = ["flowchart LR"]
    for node, number in numbers.items():
        box: Box = graph.nodes[node]["box"]
        opening, closing = _SHAPES[box.kind]
        lines.append(f'    {number}{opening}"{_quoted(box.title)}<br/>{_quoted(box.detail)}"{closing}')
        lines.append(f"    style {number} fill:{_COLOURS[box.kind]},stroke:#667")
    for user, used, label in graph.edges(data="label"):
        lines.append(f'    {numbers[user]} -->|"{_quoted(label)}"| {numbers[used]}')
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    return text.replace("#", "#35;").replace('"', "#quot;").replace("<", "#lt;").replace(">", "#gt;")


class _Place(NamedTuple):
    """Where a box is drawn."""

    x: float
    y: float
    width: float


def svg(graph: DiGraph[str]) -> str:
    """A picture: who refers to others stands left of them."""
    columns = _ordered(_columns(graph), graph)
    places = _places(columns, graph)
    width = max((place.x + place.width for place in places.values()), default=0) + _MARGIN
    height = max((place.y for place in places.values()), default=0) + _HEIGHT + _MARGIN
    drawn = [_edge(places[user], places[used], label) for user, used, label in graph.edges(data="label")]
    drawn += [_box(places[node], graph.nodes[node]["box"]) for node in graph]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height:.0f}" '
        f'viewBox="0 0 {width:.0f} {height:.0f}" font-family="ui-monospace, monospace" font-size="11">\n'
        '<rect width="100%" height="100%" fill="white"/>\n' + "\n".join(drawn) + "\n</svg>\n"
    )


def _columns(graph: DiGraph[str]) -> list[list[str]]:
    """Nodes by the longest way to them; base models, which end every way, in a column of their own."""
    import networkx

    bases = [node for node in graph if graph.nodes[node]["box"].kind == "base"]
    tensors = [node for node in graph if graph.nodes[node]["box"].kind == "tensor"]
    columns = [tensors]
    shared = graph.subgraph([node for node in graph if graph.nodes[node]["box"].kind == "shared"])
    place = {node: number for number, node in enumerate(graph)}
    columns += [sorted(column, key=place.__getitem__) for column in networkx.topological_generations(shared)]
    return [column for column in (*columns, bases) if column]


def _ordered(columns: list[list[str]], graph: DiGraph[str]) -> list[list[str]]:
    """Each column in the order of what it is connected with in those that are sorted already, so that few lines cross."""
    height = {node: float(row) for column in columns for row, node in enumerate(column)}

    def middle(node: str) -> tuple[float, float]:
        near = [height[other] for other in (*graph.predecessors(node), *graph.successors(node))]
        return (sum(near) / len(near) if near else float("inf"), height[node])

    for column in (*columns[1:], *reversed(columns), *columns[1:]):
        column.sort(key=middle)
        height |= {node: float(row) for row, node in enumerate(column)}
    return columns


def _places(columns: list[list[str]], graph: DiGraph[str]) -> dict[str, _Place]:
    places: dict[str, _Place] = {}
    tallest = max(map(len, columns), default=0)
    x = float(_MARGIN)
    for column in columns:
        boxes: list[Box] = [graph.nodes[node]["box"] for node in column]
        width = 20 + _LETTER * max(max(len(box.title), len(box.detail)) for box in boxes)
        step = (_HEIGHT + _GAP) * tallest / len(column)
        for row, node in enumerate(column):
            places[node] = _Place(x, _MARGIN + step * (row + 0.5) - (_HEIGHT + _GAP) / 2, width)
        x += width + _COLUMN_GAP
    return places


def _box(place: _Place, box: Box) -> str:
    middle = place.x + place.width / 2
    corner = 4 if box.kind == "tensor" else 14
    return (
        f'<rect x="{place.x:.1f}" y="{place.y:.1f}" width="{place.width:.1f}" height="{_HEIGHT}" rx="{corner}" '
        f'fill="{_COLOURS[box.kind]}" stroke="#667"/>'
        f'<text x="{middle:.1f}" y="{place.y + 16:.1f}" text-anchor="middle" font-weight="bold">{escape(box.title)}</text>'
        f'<text x="{middle:.1f}" y="{place.y + 31:.1f}" text-anchor="middle" fill="#445">{escape(box.detail)}</text>'
    )


def _edge(user: _Place, used: _Place, label: str) -> str:
    x1, y1, x2, y2 = user.x + user.width, user.y + _HEIGHT / 2, used.x, used.y + _HEIGHT / 2
    bend = _COLUMN_GAP / 2
    # Labels stand where lines are still apart: at their beginnings.
    return (
        f'<path d="M{x1:.1f} {y1:.1f} C{x1 + bend:.1f} {y1:.1f} {x2 - bend:.1f} {y2:.1f} {x2:.1f} {y2:.1f}" '
        'fill="none" stroke="#889"/>'
        f'<text x="{x1 + 6:.1f}" y="{y1 - 4:.1f}" fill="#667" font-size="10">{escape(label)}</text>'
    )
