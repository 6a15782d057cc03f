"""What tensors bear of the planes that they share adds up to the file, and a picture of it can be read."""

from __future__ import annotations

import re
from html import unescape
from pathlib import Path

import torch
from hypothesis import HealthCheck, given, settings

from stackc.artifact.reader import Artifact
from stackc.core.stack import Ref
from stackc.reporting.accounting import byte_rows
from stackc.reporting.drawing import mermaid, svg
from stackc.reporting.graph import graph_of
from stackc.reporting.shares import shares
from tests.helpers.sharing import (
    BASIS,
    HALVES,
    RAW,
    SCORES,
    TENSOR,
    Outside,
    base_model,
    base_of,
    example,
    halved,
    in_basis,
    numbers,
    programs,
    write_sharing,
)


@given(programs())
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_shares_and_container_are_the_file(tmp_path: Path, program: tuple[dict, dict]) -> None:
    path = write_sharing(tmp_path / "a.stackc", *program, files={"tokenizer.json": b"{}"})
    with Artifact(path) as artifact:
        split = shares(artifact)
        own = sum(plane.length for name in artifact.specs for plane in artifact.planes(name))
        outer = artifact.container_bytes + sum(artifact.bundled.values())
        assert own + sum(split.tensors.values()) + split.unused + outer == path.stat().st_size
        assert split.unused == 0
        assert sum(row.bytes for row in byte_rows(artifact)) == path.stat().st_size


def test_every_use_bears_the_same_part(tmp_path: Path) -> None:
    with Artifact(example(tmp_path / "a.stackc")) as artifact:
        assert shares(artifact).tensors == {"a": 6, "b": 6, "c": 6, "whole": 6, "alone": 0}
        rows = {(row.role, row.plane): row.bytes for row in byte_rows(artifact) if row.role != "container"}
    assert rows == {("payload", "scores"): 96, ("payload", ""): 48, ("side", "values"): 24}


def test_a_hundred_tensors_make_a_picture_that_can_be_read(tmp_path: Path) -> None:
    names = [f"layer.{number}.{part}" for number in range(25) for part in ("query", "key", "value", "output")]
    tensors = {name: (TENSOR, in_basis(Ref("@basis")), [numbers(SCORES)]) for name in names}
    tensors["new"] = (BASIS, Ref("@old"), [])
    shared = {
        "@basis": (BASIS, halved(Ref("@halves")), []),
        "@halves": (HALVES, RAW, [numbers(HALVES)]),
        "@old": (BASIS, Outside(base_of(base_model(), 'the "base" <model>'), "weight"), []),
    }
    with Artifact(write_sharing(tmp_path / "a.stackc", tensors, shared)) as artifact:
        graph = graph_of(artifact)
        costs = shares(artifact).tensors
    assert len(graph) == 4 + 1 + 3 + 1
    text, picture = mermaid(graph), svg(graph)
    assert '"25 tensors layer.*.query<br/>seed(basis: @0, scores: raw)' in text
    assert text.count('-->|"basis"|') == 4
    assert '[("the #quot;base#quot; #lt;model#gt;<br/>sha256:' in text
    texts = [unescape(found) for found in re.findall(r"<text[^>]*>([^<]*)</text>", picture)]
    assert {'the "base" <model>', "25 tensors layer.*.key", "basis", "whole"} <= set(texts)
    boxes = re.findall(r'<rect x="([\d.]+)" y="([\d.]+)"', picture)
    assert len(set(boxes)) == len(graph)
    assert len({x for x, _ in boxes}) == 4  # tensors, the basis, its halves, the base model
    assert sum(costs.values()) == HALVES.nbytes


def test_many_kinds_of_tensors_are_gathered_by_their_stacks(tmp_path: Path) -> None:
    tensors = {f"part{chr(97 + number)}": (TENSOR, in_basis(Ref("@b")), [numbers(SCORES)]) for number in range(26)}
    shared = {"@b": (BASIS, RAW, [torch.zeros(2, 6)])}
    with Artifact(write_sharing(tmp_path / "a.stackc", tensors, shared)) as artifact:
        assert len(graph_of(artifact)) == 2
