"""``auto``: the smallest of its candidates for every plane; files and locks name the one that was chosen."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from safetensors.torch import save_file
from typer.testing import CliRunner

import stackc
from stackc.cli import app, catalogue
from stackc.core.registry import find, find_packer
from stackc.core.spec import PlaneSpec
from stackc.core.stack import Leaf, stored_planes, to_wire
from stackc.models import open_reference
from stackc.recipe.document import parse_document
from stackc.recipe.parse import parse_recipe, recipe_from
from stackc.recipe.recipe import Recipe
from stackc.runs.pipeline import Compressed, compress_to_file
from stackc.testing import packer_checks
from stackc.testing.packers import integer_planes, mask_planes, real_planes, shape_planes
from stackc.testing.planes import bell, random_integers, random_words, same_bits
from stackc.testing.strategies import planes
from stackc.transforms.auto import CANDIDATES
from stackc.util.errors import ArtifactError, RecipeError, TensorError

auto = find("auto").stage()
STANDARD = {
    name: plane
    for kind in (integer_planes(), mask_planes(), real_planes(), shape_planes())
    for name, plane in list(kind.items())[::7]
}


def packed_by_each(spec: PlaneSpec, x: torch.Tensor) -> dict[str, bytes]:
    packers = {name: find_packer(name, **({"level": 22} if name == "zstd" else {})) for name in CANDIDATES}
    return {name: packer.pack(x, spec) for name, packer in packers.items() if packer.accepts(spec)}


def assert_smallest(spec: PlaneSpec, x: torch.Tensor) -> str:
    """The choice is the first of the smallest results, and decodes."""
    chosen, data = auto.choose(x, spec)
    each = packed_by_each(spec, x)
    assert each[chosen.name] == data
    assert next(name for name, other in each.items() if len(other) <= len(data)) == chosen.name
    assert same_bits(chosen.unpack(data, spec), x)
    return chosen.name


def test_standard_planes_get_the_smallest_packer():
    for spec, x in STANDARD.values():
        assert_smallest(spec, x)


@given(planes())
@settings(max_examples=40)
def test_any_plane_gets_the_smallest_packer(plane):
    assert_smallest(*plane)


def test_every_candidate_is_the_best_somewhere():
    shares = random_words(60_000, 0, "somewhere") >> 44
    noise = PlaneSpec((100,), "uint8", 0, 255)
    ramp = torch.arange(5000, dtype=torch.int32)
    clipped = (bell((60_000,), 0, "clipped") * 1500).round().clamp(-127, 127).to(torch.int8)
    rows = (bell((60, 64), 0, "rows") * 2.0 ** -(torch.arange(60)[:, None] % 7)) * 100
    weights = bell((60, 64), 0, "weights") * bell((60, 64), 1, "weights")
    assert int(shares.max()) < 1 << 20
    best = [
        assert_smallest(noise, random_integers(noise, 0, "noise")),
        assert_smallest(PlaneSpec((5000,), "int32", 0, 4999), ramp),
        assert_smallest(PlaneSpec((60_000,), "int8", -127, 127), clipped),
        assert_smallest(PlaneSpec.of(weights), weights),
        assert_smallest(PlaneSpec((60, 64), "int8", -64, 63), rows.round().clamp(-64, 63).to(torch.int8)),
    ]
    assert best == list(CANDIDATES)


CHECKS = [check for check in packer_checks(auto) if str(check) in ("config", "refusal")]


@pytest.mark.parametrize("check", CHECKS, ids=str)
def test_it_conforms_as_far_as_it_packs(check):
    assert len(CHECKS) == 2
    check()


def test_it_neither_packs_nor_unpacks_itself():
    spec = PlaneSpec((3,), "int8", 0, 3)
    with pytest.raises(TensorError, match="call choose"):
        auto.pack(torch.zeros(3, dtype=torch.int8), spec)
    with pytest.raises(ArtifactError, match="auto, which no plane is stored with"):
        auto.unpack(b"\0", spec)
    with pytest.raises(TensorError, match="does not fit"):
        auto.choose(torch.full((3,), 4, dtype=torch.int8), spec)


# Files, reports and locks


class Model(torch.nn.Module):
    """Planes that different packers store best."""

    def __init__(self) -> None:
        super().__init__()
        rows = 2.0 ** -(torch.arange(80)[:, None] % 7)
        self.register_buffer("matrix", bell((80, 64), 0, "matrix") * rows)
        self.register_buffer("bias", bell((7,), 0, "bias"))
        self.register_buffer("positions", torch.arange(600)[None])


INT_THEN_AUTO = [{"use": "int", "bits": 4, "granularity": "tensor"}, "auto"]


def compressed(recipe: Recipe | list, path: Path) -> Compressed:
    recipe = recipe if isinstance(recipe, Recipe) else recipe_from({"stages": recipe})
    return compress_to_file(recipe, open_reference(Model()), path)


def packers_of(path: Path) -> dict[str, str]:
    """Name of the packer of every plane of a file."""
    with stackc.open(path) as artifact:
        return {
            f"{name}/{plane.path}" if plane.path else name: plane.packer.name
            for name, spec in artifact.specs.items()
            for plane in stored_planes(artifact.stack(name), spec)
        }


def test_file_and_lock_name_the_packers_that_were_chosen(tmp_path):
    result = compressed(INT_THEN_AUTO, tmp_path / "a.stackc")
    chosen = packers_of(result.path)
    assert set(chosen) == {"matrix/codes", "matrix/scale", "bias/codes", "bias/scale", "positions"}
    assert chosen["matrix/codes"] == "context"
    assert chosen["positions"] == "zstd"
    assert "auto" not in chosen.values()
    locked = parse_recipe(parse_document(result.lock, "recipe.lock.yaml"))
    choices = {plane: fields["use"] for plane, fields in locked.lock.choices["1"].items()}
    assert choices == chosen
    assert locked.lock.choices["1"]["positions"] == {"use": "zstd", "level": 22}
    assert locked.lock.stages == ["int@2", "auto@1"]


def test_a_lock_gives_the_same_bytes_without_trying_again(tmp_path, monkeypatch):
    first = compressed(INT_THEN_AUTO, tmp_path / "a.stackc")
    locked = parse_recipe(parse_document(first.lock, "recipe.lock.yaml"))
    monkeypatch.setattr(type(auto), "choose", lambda *_: pytest.fail("a locked choice is not made again"))
    second = compressed(locked, tmp_path / "b.stackc")
    digests = [hashlib.sha256(result.path.read_bytes()).hexdigest() for result in (first, second)]
    assert digests[0] == digests[1] == locked.lock.artifact
    assert not second.report.notes
    assert second.lock == first.lock


@pytest.mark.parametrize(
    ("good", "bad", "message"),
    [
        ("use: context", "use: seed", "auto cannot become seed"),
        ("use: context", "use: contxt", "did you mean 'context'"),
        ("level: 22", "level: 99", "<= 22"),
        ("level: 22", "rank: 22", "rank"),
    ],
)
def test_a_lock_with_a_choice_that_is_none_is_refused(good, bad, message, tmp_path):
    text = compressed(INT_THEN_AUTO, tmp_path / "a.stackc").lock
    assert good in text
    changed = parse_document(text.replace(good, bad, 1), "recipe.lock.yaml")
    with pytest.raises(RecipeError, match=message):
        compressed(parse_recipe(changed), tmp_path / "b.stackc")
    assert not (tmp_path / "b.stackc").exists()


def test_the_file_is_never_larger_than_with_one_packer_for_all(tmp_path):
    size = compressed(INT_THEN_AUTO, tmp_path / "auto.stackc").report.file.bytes
    for packer in ("raw", {"use": "zstd", "level": 22}):
        assert size < compressed([INT_THEN_AUTO[0], packer], tmp_path / "one.stackc").report.file.bytes


def test_report_and_sizes_add_up(tmp_path):
    report = compressed(INT_THEN_AUTO, tmp_path / "a.stackc").report
    assert [row.use for row in report.stages] == ["int", "auto"]
    assert report.stages[0].bytes_if_stopped_here > report.stages[1].bytes_if_stopped_here == report.file.bytes
    assert sum(row.bytes for row in report.bytes) == report.file.bytes


def test_compress_decodes_what_was_packed():
    model = Model()
    artifact, report = stackc.compress(model, {"stages": ["auto"]})
    with artifact:
        assert report.final.weight_error == 0
        for name, x in model.state_dict().items():
            assert same_bits(artifact[name], x)


def test_auto_takes_what_other_packers_leave(tmp_path):
    stages = [INT_THEN_AUTO[0], {"use": "raw", "on": "*/codes"}, {"use": "auto", "on": "*/scale"}, "ans", "zstd"]
    stages[3] = {"use": "ans", "allow_empty": True}
    chosen = packers_of(compressed(stages, tmp_path / "a.stackc").path)
    assert {chosen["matrix/codes"], chosen["bias/codes"]} == {"raw"}
    assert chosen["positions"] == "zstd"
    assert chosen["matrix/scale"] in CANDIDATES


def test_a_file_that_says_auto_is_refused(tmp_path):
    """No writer makes one; a crafted one is a damaged file and not a crash."""
    from stackc.artifact.writer import ArtifactWriter

    spec = PlaneSpec((3,), "float32")
    path = tmp_path / "crafted.stackc"
    with ArtifactWriter(path, "module", None) as writer:
        writer.add(["x"], spec, Leaf(auto), (b"\0",))
        writer.finish()
    assert to_wire(Leaf(auto))[0] == "auto"
    with stackc.open(path) as artifact, pytest.raises(ArtifactError, match="auto"):
        artifact["x"]


# The command line


@pytest.fixture
def command():
    """Call the command line in this process."""
    runner = CliRunner()
    return lambda *arguments: runner.invoke(app, [str(each) for each in arguments], env={"COLUMNS": "400"})


def test_check_plans_with_auto(command, tmp_path):
    save_file({name: x.contiguous() for name, x in Model().state_dict().items()}, tmp_path / "w.safetensors")
    (tmp_path / "r.yaml").write_text("stages: [{use: int, bits: 4, granularity: tensor}, auto]\n")
    result = command("check", tmp_path / "r.yaml", "--model", tmp_path / "w.safetensors", "--json")
    assert result.exit_code == 0, result.output
    plan = json.loads(result.stdout)
    stage = plan["stages"][1]
    assert (stage["use"], stage["matched"], stage["packs"]) == ("auto", 5, True)
    stacks = {tensor["name"]: tensor["stack"] for tensor in plan["tensors"]}
    assert stacks["matrix"] == "int(codes: auto, scale: auto)"
    result = command("run", tmp_path / "r.yaml", "--model", tmp_path / "w.safetensors", "--output", tmp_path / "out")
    assert result.exit_code == 0, result.output
    shown = command("inspect", tmp_path / "out" / "model.stackc").stdout
    assert "context" in shown
    assert " auto " not in shown
    assert command("verify", tmp_path / "out" / "model.stackc").exit_code == 0
    locked = command("run", tmp_path / "out" / "recipe.lock.yaml", "--output", tmp_path / "again")
    assert locked.exit_code == 0, locked.output
    files = [(tmp_path / folder / "model.stackc").read_bytes() for folder in ("out", "again")]
    assert files[0] == files[1]


@pytest.mark.parametrize("name", ["auto", "context"])
def test_list_describes_the_packer(name, command):
    text = command("list", "stages", name).stdout
    assert f"{name}" in text
    assert "packer" in text
    summary = type(find(name).stage()).__doc__.splitlines()[0]
    assert summary[:60] in text
    assert next(stage.accepts for stage in catalogue.stages() if stage.name == name) == (
        "every plane" if name == "auto" else "integers with known bounds, masks"
    )
