"""The harness finds what it looks for, its mutants can be made again, and a short run of it finds nothing."""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
import torch

from stackc.artifact.reader import Artifact
from stackc.util.errors import ArtifactError
from tests.fuzz import oracle, worker
from tests.fuzz.__main__ import main, table
from tests.fuzz.minimise import minimised
from tests.fuzz.mutate import mutant
from tests.fuzz.oracle import REACHED, judge
from tests.fuzz.parts import TENSORS, join, split
from tests.fuzz.run import CORPUS, GOLDEN, read_log, run, save, seeds
from tests.fuzz.worker import Found, Place, run_piece, signature

SEEDS = seeds()


def test_a_short_run_finds_nothing() -> None:
    """`make fuzz` is the long one. Every kind of mutant is in it, and every depth is reached."""
    piece = run_piece(SEEDS, 0, 0, 2500, Place())
    assert [found.finding for found in piece.found] == []
    assert piece.count == sum(piece.reached.values()) == 2500
    assert piece.distinct > 2000
    kinds = {key.partition(": ")[0] for key in piece.reached}
    assert kinds == {"damage", "header", "frame", "encoded", "anything", "fields", "planes", "splice", "grown", "bomb"}
    depth: Counter[str] = Counter()
    for key, count in piece.reached.items():
        depth[key.partition(": ")[2]] += count
    assert set(depth) == set(REACHED)
    assert min(depth.values()) > 100


@pytest.mark.parametrize("path", sorted(CORPUS.glob("*.stackc")), ids=lambda path: path.stem)
def test_every_finding_stays_mended(path: Path) -> None:
    assert judge(path, thorough=True).finding is None


def test_mutants_can_be_made_again(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    first = [mutant(SEEDS, 3, number) for number in range(200)]
    assert first == [mutant(SEEDS, 3, number) for number in range(200)]
    assert first != [mutant(SEEDS, 4, number) for number in range(200)]
    assert main(["--seed", "3", "--mutant", "150"]) == 0
    assert capfdbinary.readouterr().out == first[150].data


def test_parts_put_together_give_the_file_again(tmp_path: Path) -> None:
    for data in SEEDS:
        (tmp_path / "again.stackc").write_bytes(join(split(data)))
        assert judge(tmp_path / "again.stackc", thorough=True) == (REACHED[3], None)


def broken(fault: str, exact: Callable[[Artifact, str], torch.Tensor]) -> Callable[[Artifact, str], torch.Tensor]:
    """A decoder with a fault."""
    calls: list[int] = []

    def read(self: Artifact, name: str) -> torch.Tensor:
        tensor = exact(self, name)
        calls.append(1)
        match fault:
            case "exception":
                raise KeyError(name)
            case "sentence":
                raise ArtifactError("two\nlines")
            case "shape":
                return tensor[None]
            case "dtype":
                return tensor.double()
            case "bits":
                return tensor + len(calls)
        return tensor

    return read


@pytest.mark.parametrize(
    ("fault", "finding"),
    [
        ("exception", "KeyError in test_fuzz.py, read: 'w'"),
        ("sentence", "the message of ArtifactError is no sentence"),
        ("shape", "a tensor of float32 3x4 decodes to float32 1x3x4"),
        ("dtype", "a tensor of float32 3x4 decodes to float64 3x4"),
        ("bits", "a tensor decodes to other bits the second time"),
    ],
)
def test_the_oracle_sees(fault: str, finding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Artifact, "__getitem__", broken(fault, Artifact.__getitem__))
    found = judge(GOLDEN / "raw.stackc", thorough=True).finding
    assert found is not None
    assert found.startswith(finding)


def test_the_oracle_sees_time_and_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(oracle, "MOST_SECONDS", 0.0)
    assert "seconds of processor time" in str(judge(GOLDEN / "raw.stackc").finding)
    monkeypatch.undo()
    sizes = iter([0, 600 << 20])
    monkeypatch.setattr(oracle, "_peak", lambda: next(sizes))
    assert judge(GOLDEN / "raw.stackc").finding == "took 600 MiB of memory"


def test_the_end_of_a_process_is_a_finding_and_the_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    exact = worker.mutant

    def deadly(files: list[bytes], seed: int, number: int) -> object:
        if number == 17:
            os.kill(os.getpid(), signal.SIGKILL)
        return exact(files, seed, number)

    monkeypatch.setattr(worker, "mutant", deadly)
    lines = run(seconds=60, count=40, seed=5, corpus=tmp_path / "corpus", log=tmp_path / "log")
    assert sum(line.count for line in lines) == 40
    ((finding,),) = [line.findings for line in lines if line.findings]
    assert finding["number"] == 17
    assert finding["finding"] == f"ended the process with code {-signal.SIGKILL}"
    assert (tmp_path / "corpus" / f"{finding['file']}.stackc").read_bytes() == mutant(SEEDS, 5, 17).data
    assert msgspec.json.decode((tmp_path / "corpus" / f"{finding['file']}.json").read_bytes())["number"] == 17
    assert "ended the process" in table(lines)


def test_a_run_goes_on_where_its_log_ends(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    for count in (30, 20):
        run(seconds=60, count=count, seed=2, log=log, corpus=None)
    run(seconds=60, count=10, seed=3, log=log, corpus=None)
    lines = read_log(log)
    assert [(line.seed, line.start, line.count) for line in lines] == [(2, 0, 30), (2, 30, 20), (3, 0, 10)]
    assert sum(sum(line.reached.values()) for line in lines) == 60
    assert "60 mutants in 3 pieces" in table(lines)


def test_a_run_ends_with_its_time() -> None:
    lines = run(seconds=0.5, workers=2, corpus=None)
    assert 0 < sum(line.count for line in lines) < 100_000


def test_a_fault_is_shown_by_a_small_file() -> None:
    data = (GOLDEN / "whole-model.stackc").read_bytes()
    small = minimised(data, lambda each: any(entry[2] == [6, 4] for entry in split(each).manifest[TENSORS]))
    assert len(small) < len(data) / 2
    assert [entry[2] for entry in split(small).manifest[TENSORS]] == [[6, 4]]
    assert minimised(b"no file", lambda each: True) == b"no file"


def test_findings_of_one_kind_are_one() -> None:
    assert signature("KeyError in reader.py, read: 'w'") == signature("KeyError in reader.py, read: 'x'")
    assert signature("took 600 MiB of memory") == signature("took 700 MiB of memory")
    assert signature("KeyError in a.py, read: 1") != signature("TypeError in a.py, read: 1")


def test_a_finding_is_saved_once(tmp_path: Path) -> None:
    first = save(Found(1, "planes", "KeyError in reader.py, read: 'w'", b"first"), 1, tmp_path)
    assert save(Found(2, "planes", "KeyError in reader.py, read: 'x'", b"second"), 1, tmp_path) == first
    assert (tmp_path / f"{first}.stackc").read_bytes() == b"first"
