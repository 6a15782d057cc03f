"""Every released format decodes for ever: today's decoders give the stored outputs, bit by bit."""

from __future__ import annotations

import json

import msgspec
import pytest
import torch
from safetensors import safe_open

from stackc.core.registry import find_format
from stackc.core.spec import PlaneSpec
from stackc.core.transform import Transform
from tests.transforms.write_fixtures import CASES, FOLDER

FILES = sorted(FOLDER.glob("*.safetensors"))


def read(path):
    """Transform, spec, planes, input and decoded plane of a fixture."""
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 -- not a mapping
    stage = find_format(metadata["name"], int(metadata["version"]))
    transform = msgspec.convert(json.loads(metadata["config"]), stage)
    assert isinstance(transform, Transform)
    spec = msgspec.json.decode(metadata["spec"], type=PlaneSpec)
    planes = {name.removeprefix("planes."): x for name, x in tensors.items() if name.startswith("planes.")}
    return transform, spec, planes, tensors["x"], tensors["decoded"]


def test_every_case_has_a_fixture():
    assert {path.stem for path in FILES} >= set(CASES)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_decode_is_frozen(path):
    transform, spec, planes, _, decoded = read(path)
    again = transform.decode(planes, spec)
    assert again.dtype == decoded.dtype
    assert torch.equal(again, decoded)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_stored_planes_are_as_planned_today(path):
    transform, spec, planes, _, _ = read(path)
    specs = transform.plan(spec)
    assert set(specs) == set(planes)
    assert all(specs[name].mismatch(plane) is None for name, plane in planes.items())


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_stored_output_approximates_the_stored_input(path):
    transform, _, _, x, decoded = read(path)
    rounding = 0.1 if transform.name == "seed" else 0.0  # of the stored planes, to multiples of 1/256
    assert torch.dist(x.double(), decoded.double()) <= transform.error_bound(x) + rounding
