"""In which order a file lists shared planes: what one refers to comes after it, so that no circle can be written."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from stackc.util.errors import OutputError


def numbered(uses: Mapping[str, Iterable[str]], wanted: Iterable[str]) -> list[str]:
    """The shared planes that are needed, each before those that it refers to.

    Parameters
    ----------
    uses : mapping
        For every shared plane, those that it refers to.
    wanted : iterable of str
        Those that tensors refer to. What neither they nor planes of theirs refer to is left out.

    Raises
    ------
    OutputError
        If one is not there, or some refer to each other in a circle.

    Examples
    --------
    >>> numbered({"@basis": [], "@average": ["@basis"], "@idle": []}, ["@average"])
    ['@average', '@basis']
    """
    import networkx

    graph = networkx.DiGraph()
    graph.add_nodes_from(uses)
    for plane, others in uses.items():
        graph.add_edges_from((plane, other) for other in others)
    wanted = list(wanted)
    unknown = next((plane for plane in (*wanted, *graph) if plane not in uses), None)
    if unknown is not None:
        raise OutputError(
            f"something refers to the shared plane {unknown!r}, which was not given: the file cannot be written"
        )
    if not networkx.is_directed_acyclic_graph(graph):
        circle = [plane for plane, _ in networkx.find_cycle(graph)]
        raise OutputError(
            f"shared planes refer to each other in a circle, {' -> '.join([*circle, circle[0]])}: nothing could decode them"
        )
    needed = set(wanted).union(*(networkx.descendants(graph, plane) for plane in wanted))
    place = {plane: number for number, plane in enumerate(uses)}
    order = networkx.lexicographical_topological_sort(graph.subgraph(needed), key=place.__getitem__)
    return list(order)
