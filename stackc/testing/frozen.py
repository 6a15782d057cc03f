"""Fixture files that pin a released format: what was stored once must decode to the same plane for ever."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from stackc.core.abilities import settle_each
from stackc.core.packer import Packer
from stackc.core.planes import from_bytes, to_bytes
from stackc.core.registry import find_format
from stackc.core.spec import PlaneSpec
from stackc.core.transform import Transform, Weighted
from stackc.testing.check import require
from stackc.testing.planes import same_bits
from stackc.util.errors import ArtifactError, OutputError
from stackc.util.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor


class Fixture(msgspec.Struct, frozen=True):
    """One stored plane with the stage that stored it; ``fixture.json`` in a folder of its own.

    Beside it lie ``decoded.bin`` (what decoding gives), and ``packed.bin`` for a packer or ``<plane>.plane.bin`` for each
    plane of a transform. Planes are in C order, little-endian.
    """

    name: str
    version: int
    config: dict[str, Any]
    spec: PlaneSpec
    planes: dict[str, PlaneSpec]


def write_frozen(stage: Transform | Packer, plane: Tensor, folder: Path | str, spec: PlaneSpec | None = None) -> None:
    """Store what a stage makes of a plane today, as a fixture for `check_frozen`.

    Parameters
    ----------
    stage : Transform or Packer
        An unsettled transform is settled on the plane.
    plane : Tensor
        What to encode.
    folder : Path or str
        Where to write; created if need be.
    spec : PlaneSpec, optional
        Spec to pack with, where bounds matter; by default that of the plane.

    Raises
    ------
    OutputError
        If the folder holds a fixture already: a frozen format is not rewritten, it gets a new version.
    """
    folder = Path(folder)
    if (folder / "fixture.json").exists():
        raise OutputError(
            f"{folder} holds a fixture already; delete it if that format was never released, else raise the version"
        )
    spec = PlaneSpec.of(plane) if spec is None else spec
    folder.mkdir(parents=True, exist_ok=True)
    planes: dict[str, PlaneSpec] = {}
    if isinstance(stage, Packer):
        packed = stage.pack(plane, spec)
        (folder / "packed.bin").write_bytes(packed)
        decoded = stage.unpack(packed, spec)
    else:
        stage = settle_each(stage, {"x": Weighted(plane)})["x"]
        planes = stage.plan(spec)
        encoded = stage.encode(plane)
        for name, part in encoded.items():
            (folder / f"{name}.plane.bin").write_bytes(to_bytes(part))
        decoded = stage.decode(encoded, spec)
    (folder / "decoded.bin").write_bytes(to_bytes(decoded))
    fixture = Fixture(stage.name, stage.version, msgspec.to_builtins(stage), spec, planes)
    (folder / "fixture.json").write_bytes(msgspec.json.format(msgspec.json.encode(fixture)) + b"\n")


def check_frozen(folder: Path | str, tolerance: float = 0.0) -> None:
    """Decode a fixture with the installed stage of its name and version, and compare with what it decoded to.

    Parameters
    ----------
    folder : Path or str
        A folder that `write_frozen` wrote.
    tolerance : float
        Largest allowed difference of two elements, in units of the largest element; 0 asks for the same bits. For
        transforms whose decoder adds up real numbers, which hardware may do in another order; never for packers.

    Raises
    ------
    AssertionError
        If the result differs, or decoding fails.
    DependencyError
        If no installed stage has that name and version.
    """
    folder = Path(folder)
    fixture = msgspec.json.decode((folder / "fixture.json").read_bytes(), type=Fixture)
    stage = msgspec.convert(fixture.config, find_format(fixture.name, fixture.version))
    expected = from_bytes((folder / "decoded.bin").read_bytes(), fixture.spec)
    format_name = f"{fixture.name}@{fixture.version}"
    if isinstance(stage, Packer):
        try:
            decoded = stage.unpack((folder / "packed.bin").read_bytes(), fixture.spec)
        except ArtifactError as error:
            raise AssertionError(
                f"the frozen {format_name} in {folder.name} does not decode any more: {error}"
            ) from error
    else:
        planes = {
            name: from_bytes((folder / f"{name}.plane.bin").read_bytes(), spec) for name, spec in fixture.planes.items()
        }
        require(
            stage.plan(fixture.spec) == fixture.planes,
            f"the frozen {format_name} in {folder.name} is now planned otherwise",
        )
        decoded = stage.decode(planes, fixture.spec)
    if tolerance and fixture.spec.is_real and fixture.spec.numel and not isinstance(stage, Packer):
        require(
            decoded.shape == expected.shape and decoded.dtype == expected.dtype,
            f"{folder.name} decodes to another spec",
        )
        apart = float((decoded.double() - expected.double()).abs().max())
        largest = float(torch.max(expected.double().abs()))
        require(
            apart <= tolerance * largest,
            f"the frozen {format_name} in {folder.name} decodes to numbers that are off by {apart}, more than {tolerance * largest}",
        )
        return
    require(
        same_bits(decoded, expected),
        f"the frozen {format_name} in {folder.name} decodes to another plane than it used to",
    )
