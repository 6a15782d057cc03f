"""The package's own tests: stackc's conformance battery, and that the rotation does what it is for."""

from __future__ import annotations

import pytest
import stackc_hadamard
import torch

import stackc
from stackc.testing import transform_checks


@pytest.mark.parametrize("check", transform_checks(stackc_hadamard.Hadamard(size=8)), ids=str)
def test_conforms(check):
    check()


def test_known_values():
    planes = stackc_hadamard.Hadamard(size=2).encode(torch.tensor([3.0, 1.0, 0.0, 2.0]))
    torch.testing.assert_close(planes["rotated"], torch.tensor([4.0, 2.0, 2.0, -2.0]) / 2**0.5)


def test_other_sizes_are_refused():
    with pytest.raises(ValueError, match="power of two"):
        stackc_hadamard.Hadamard(size=12)


def test_outliers_cost_less_behind_the_rotation():
    """At the same number of bits the weight error of 4-bit codes falls, if a few weights are much larger than the rest."""
    layer = torch.nn.Linear(256, 128)
    with torch.no_grad():
        layer.weight[::3, 7] = 2.0
    int4 = {"use": "int", "bits": 4}
    rotate = {"use": "hadamard", "size": 256, "on": "weight"}
    artifact, plain = stackc.compress(layer, {"stages": [int4]})
    artifact.close()
    artifact, rotated = stackc.compress(layer, {"stages": [rotate, int4]})
    artifact.close()
    assert rotated.final.weight_error < 0.7 * plain.final.weight_error
    assert abs(rotated.file.bytes - plain.file.bytes) < 100
