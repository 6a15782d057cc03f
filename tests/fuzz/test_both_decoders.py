"""stackc and the decoder that was written from the format's page alone take and refuse the same mutants."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from stackc.artifact.reader import Artifact
from stackc.util.errors import StackcError
from tests.docs.second_decoder import Refused, SecondDecoder
from tests.fuzz.mutate import mutant
from tests.fuzz.run import seeds

SEEDS = seeds()

#: Kinds whose mutants mostly get as far as a stack or a plane.
KINDS = ("anything", "fields", "planes", "grown")


def first(path: Path) -> dict[str, np.ndarray] | None:
    """All tensors as stackc decodes them, or None if it refuses any."""
    try:
        with Artifact(path) as artifact:
            tensors = {name: artifact[name] for name in artifact}
            for name in artifact.bundled:
                artifact.bundled_file(name)
    except StackcError:
        return None
    return {name: (x.float() if x.dtype == torch.bfloat16 else x).numpy() for name, x in tensors.items()}


def second(path: Path) -> dict[str, np.ndarray] | None:
    """The same by the second decoder."""
    try:
        decoder = SecondDecoder(path)
        tensors = {name: decoder.tensor(name) for name in decoder.names}
        for name in decoder.bundle:
            decoder.bundled(name)
    except Refused:
        return None
    return tensors


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # numpy says that NaN and infinity are what they are
def test_both_decoders_agree_on_mutants(tmp_path: Path) -> None:
    path, taken, refused = tmp_path / "mutant.stackc", 0, 0
    for number in range(800):
        kind, data = mutant(SEEDS, 0, number)
        if kind not in KINDS:
            continue
        path.write_bytes(data)
        mine, other = first(path), second(path)
        assert (mine is None) == (other is None), f"mutant {number}, {kind}"
        taken, refused = taken + (mine is not None), refused + (mine is None)
        if mine is None or other is None:
            continue
        assert mine.keys() == other.keys()
        for name, x in mine.items():
            assert (x.dtype, x.shape) == (other[name].dtype, other[name].shape), f"mutant {number}, {kind}"
            # which of the many NaN arithmetic gives is open
            assert np.array_equal(x, other[name], equal_nan=x.dtype.kind == "f"), f"mutant {number}, {kind}"
    assert taken > 100
    assert refused > 100
