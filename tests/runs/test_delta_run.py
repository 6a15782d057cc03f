"""Runs against another model: what the file needs, what it is without, and what is refused."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import stackc
from stackc.artifact.reader import Artifact
from stackc.models import open_reference
from stackc.recipe.document import parse_document
from stackc.recipe.parse import parse_recipe, recipe_from
from stackc.reporting.accounting import byte_rows
from stackc.runs.pipeline import Compressed, compress_to_file
from stackc.testing.planes import same_bits
from stackc.transforms.delta import Delta
from stackc.util.errors import ArtifactError, BaseNeededError, ModelError, PlanError, RecipeError
from tests.helpers.finetunes import finetune


@pytest.fixture(scope="module")
def tuned(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finetune(tiny_model, tmp_path_factory.mktemp("tuned") / "tuned")


def compress(recipe: dict[str, Any], model: Path, path: Path, **options: Any) -> Compressed:
    return compress_to_file(recipe_from(recipe), open_reference(str(model)), path, **options)


def lossy(base: Path | str, *after: Any) -> dict[str, Any]:
    return {
        "stages": [
            {"use": "delta", "base": str(base)},
            {"use": "int", "on": "*/difference", "step": 5e-4},
            *(after or ({"use": "context", "on": "*/codes"}, "zstd")),
        ]
    }


def exact(base: Path) -> dict[str, Any]:
    return {"stages": [{"use": "delta", "base": str(base), "exact": True}, "auto"]}


def test_a_file_holds_the_difference_and_names_the_base(tmp_path, tiny_model, tuned, tiny_task) -> None:
    done = compress({**lossy(tiny_model), "task": tiny_task}, tuned, tmp_path / "a.stackc")
    base = open_reference(str(tiny_model))
    file = done.report.file
    (named,) = file.bases
    assert (named.source, named.sha256, named.bytes) == (str(tiny_model), base.fingerprint(), base.nbytes)
    assert file.ratio_with_bases == pytest.approx(done.report.model.bytes / (file.bytes + base.nbytes))
    assert file.ratio > 6
    assert done.report.stages[0].weight_error < 1e-7
    assert done.report.final.score.agreement > 0.95
    with Artifact(done.path, base=base) as artifact:
        assert sum(row.bytes for row in byte_rows(artifact)) == file.bytes
        for name, x in load_file(tuned / "model.safetensors").items():
            assert torch.allclose(artifact[name], x, rtol=0, atol=2.6e-4)
        assert artifact.shared.usage.users == [1] * len(artifact.shared)
    # What the first stage leaves alone is no different in a file that stops there.
    rows = [row.bytes_if_stopped_here for row in done.report.stages]
    assert rows[0] > done.report.model.bytes > rows[1] > rows[3] == file.bytes


def test_an_exact_file_gives_every_bit_back(tmp_path, tiny_model, tuned) -> None:
    done = compress(exact(tiny_model), tuned, tmp_path / "a.stackc")
    assert done.report.file.ratio > 1.5
    with Artifact(done.path, base=open_reference(str(tiny_model))) as artifact:
        expected = load_file(tuned / "model.safetensors")
        assert set(expected) == set(artifact)
        for name, x in expected.items():
            assert same_bits(artifact[name], x)
            assert [use.path for use in artifact.uses(name)] == ["base"]


def test_without_its_base_a_file_says_so_and_another_one_is_refused(tmp_path, tiny_model, tuned) -> None:
    path = compress(exact(tiny_model), tuned, tmp_path / "a.stackc").path
    fingerprints = [open_reference(str(model)).fingerprint()[:16] for model in (tiny_model, tuned)]
    for use in (
        lambda: stackc.open(path).state_dict(),
        lambda: stackc.load(path),
        lambda: stackc.open(path).checksum(),
    ):
        with pytest.raises(
            BaseNeededError,
            match=rf"needs the base model sha256:{fingerprints[0]}\.\.\. \(it was classifier\); .*--base",
        ):
            use()
    message = rf"needs the base model sha256:{fingerprints[0]}.*is another one, sha256:{fingerprints[1]}"
    with pytest.raises(ArtifactError, match=message):
        stackc.open(path, base=str(tuned))
    with stackc.open(path, base=str(tiny_model)) as artifact:
        assert artifact.build().num_labels == 2


def test_tensors_without_a_counterpart_are_left_alone_with_the_reason(tmp_path) -> None:
    base = {"same": torch.ones(3, 4), "wide": torch.ones(3, 5), "half": torch.ones(4).half()}
    save_file(base, tmp_path / "base.safetensors")
    tensors = {
        "same": torch.ones(3, 4),
        "wide": torch.ones(3, 4),
        "half": torch.ones(4),
        "new": torch.ones(2),
        "n": torch.arange(3),
    }
    save_file(tensors, tmp_path / "model.safetensors")
    source = tmp_path / "base.safetensors"
    done = compress(
        {"stages": [{"use": "delta", "base": str(source)}, "zstd"]}, tmp_path / "model.safetensors", tmp_path / "a"
    )
    row = done.report.stages[0]
    assert (row.planes, row.skipped) == (1, 4)
    assert set(row.skipped_reasons) == {
        f"1 x it is float32 3x5 in the base {source}, and float32 3x4 here",
        f"1 x it is float16 4 in the base {source}, and float32 4 here",
        f"2 x the base {source} has no tensor of this name",
    }


def test_a_file_of_which_nothing_lies_in_the_base_needs_none(tmp_path) -> None:
    save_file({"x": torch.ones(3)}, tmp_path / "base.safetensors")
    save_file({"y": torch.ones(3)}, tmp_path / "model.safetensors")
    stage = {"use": "delta", "base": str(tmp_path / "base.safetensors")}
    with pytest.raises(
        PlanError, match=r"fits none of the 1 planes it matches: y: the base .* has no tensor of this name"
    ):
        compress({"stages": [stage]}, tmp_path / "model.safetensors", tmp_path / "a")
    done = compress({"stages": [{**stage, "allow_empty": True}]}, tmp_path / "model.safetensors", tmp_path / "a")
    assert done.report.file.bases == []
    assert done.report.file.ratio_with_bases is None


@pytest.mark.parametrize("exact", [False, True])
def test_ties_and_other_names_are_found(tmp_path, exact) -> None:
    tied = torch.ones(4, 3)
    base, model = nn.Module(), nn.Module()
    base.register_buffer("b", tied)  # the model's second name is the only one here
    base.register_buffer("z", torch.zeros(2))
    other = tied + 1
    for name in ("a", "b"):
        model.register_buffer(name, other)
    path = tmp_path / "base.safetensors"
    save_file({"b": base.b, "z": base.z}, path)
    artifact, _ = stackc.compress(model, {"stages": [{"use": "delta", "base": str(path), "exact": exact}]})
    assert torch.equal(artifact["b"], tied + 1)
    assert artifact.ties == {"b": "a"}


def test_two_bases_and_a_plane_that_is_made(tmp_path) -> None:
    x, y = torch.randn(6, 5), torch.randn(6, 5)
    save_file({"x": x}, tmp_path / "first.safetensors")
    save_file({"y": y}, tmp_path / "second.safetensors")
    model = nn.Module()
    model.register_buffer("x", x + 1)
    model.register_buffer("y", y + 1)
    first, second = (str(tmp_path / f"{name}.safetensors") for name in ("first", "second"))
    stages = [
        {"use": "delta", "base": first},
        {"use": "delta", "base": second},
        {"use": "seed", "rank": 2},
        {"use": "delta", "base": second, "allow_empty": True},
    ]
    artifact, report = stackc.compress(model, {"stages": stages})
    assert [base.source for base in report.file.bases] == [first, second]
    reasons = report.stages[3].skipped_reasons
    assert reasons == ["6 x delta takes whole tensors, as its base has no others, and seed has made this plane"]
    assert torch.allclose(artifact["y"], y + 1, atol=1e-5)


def test_a_stage_without_a_base_and_a_base_that_is_not_there(tmp_path, tiny_model) -> None:
    with pytest.raises(RecipeError, match=r"stages\[0\] \(delta\) does not say which model the tensors differ from"):
        compress({"stages": ["delta"]}, tiny_model, tmp_path / "a")
    with pytest.raises(ModelError, match=r"stages\[0\] \(delta\): base: .*no-such.safetensors does not exist"):
        compress({"stages": [{"use": "delta", "base": "./no-such.safetensors"}]}, tiny_model, tmp_path / "a")
    with pytest.raises(ModelError, match=r"stages\[0\] \(delta\): base: the recipe names code as a model"):
        compress({"stages": [{"use": "delta", "base": "os:getcwd"}]}, tiny_model, tmp_path / "a")


def test_a_lock_gives_the_same_bytes_and_holds_the_base(tmp_path, tiny_model, tuned, monkeypatch) -> None:
    monkeypatch.chdir(tiny_model.parent)
    # The lock makes a relative path absolute.
    done = compress(lossy(f"./{tiny_model.name}"), tuned, tmp_path / "a.stackc")
    monkeypatch.chdir(tmp_path)
    locked = parse_recipe(parse_document(done.lock, "a.lock.yaml"))
    assert locked.lock is not None
    assert locked.lock.bases == {"0": open_reference(str(tiny_model)).fingerprint()}
    again = compress_to_file(locked, open_reference(str(tuned)), tmp_path / "b.stackc")
    assert again.path.read_bytes() == done.path.read_bytes()
    with Artifact(done.path) as artifact:
        assert [base.hint for base in artifact.bases] == [tiny_model.name]  # and no path of this machine
    other = msgspec.structs.replace(locked.stages[0].config, base=str(tuned))
    stages = (msgspec.structs.replace(locked.stages[0], config=other), *locked.stages[1:])
    with pytest.raises(ModelError, match=r"stages\[0\] \(delta\): the lock was made against a base with fingerprint"):
        compress_to_file(msgspec.structs.replace(locked, stages=stages), open_reference(str(tuned)), tmp_path / "c")


def test_choices_for_the_difference_are_allocated(tmp_path, tiny_model, tuned) -> None:
    open_reference(str(tuned))
    recipe = {
        "allocate": {"bytes": 6000},
        "stages": [
            {"use": "delta", "base": str(tiny_model)},
            {"use": "int", "on": "*/difference", "step": "auto"},
            {"use": "context", "on": "*/codes"},
            "zstd",
        ],
    }
    done = compress(recipe, tuned, tmp_path / "a.stackc")
    assert 5940 <= done.report.file.bytes <= 6000
    assert done.report.allocation is not None
    assert all(plane.endswith("/difference") for plane in done.report.allocation.choices["stages[1]"])
    with Artifact(done.path, base=open_reference(str(tiny_model))) as artifact:
        name = "bert.embeddings.word_embeddings.weight"
        tensors = [load_file(model / "model.safetensors")[name] for model in (tiny_model, tuned)]
        assert torch.dist(artifact[name], tensors[1]) < torch.dist(*tensors)
    locked = parse_recipe(parse_document(done.lock, "a.lock.yaml"))
    again = compress_to_file(locked, open_reference(str(tuned)), tmp_path / "b.stackc")
    assert again.path.read_bytes() == done.path.read_bytes()


def test_healing_trains_the_difference_and_leaves_the_base(tmp_path, tiny_model, tuned, tiny_task) -> None:
    heal = {"use": "heal", "steps": 3, "batch_size": 4, "holdout": 10}
    stages = [
        {"use": "delta", "base": str(tiny_model)},
        {"use": "int", "on": "*/difference", "step": 1e-3},
        heal,
        {"use": "context", "on": "*/codes"},
        "zstd",
    ]
    done = compress({"stages": stages, "task": tiny_task}, tuned, tmp_path / "a.stackc")
    assert done.report.healing[0].steps == 3
    with Artifact(done.path, base=open_reference(str(tiny_model))) as artifact:
        state = artifact.state_dict()
        stored = sum(plane.length for name in artifact.specs for plane in artifact.planes(name))
    before = load_file(tiny_model / "model.safetensors")
    assert all(torch.dist(state[name], x) < 0.1 * x.norm() + 0.2 for name, x in before.items())
    assert stored < done.report.file.bytes


@pytest.mark.parametrize("latent", ["planes", "dense"])
def test_exact_and_plain_differences_train_in_both_forms(tmp_path, tiny_model, tuned, tiny_task, latent) -> None:
    heal = {"use": "heal", "steps": 2, "batch_size": 4, "holdout": 10, "latent": latent}
    for exactly in (False, True):
        stages = [{"use": "delta", "base": str(tiny_model), "exact": exactly}, heal, "zstd"]
        done = compress({"stages": stages, "task": tiny_task}, tuned, tmp_path / f"{exactly}.stackc", every_stage=False)
        assert done.report.final.weight_error < 0.1


def test_a_second_run_takes_up_where_it_differs_and_notices_another_base(
    tmp_path, tiny_model, tuned, monkeypatch
) -> None:
    monkeypatch.setattr("stackc.util.memo.cache_folder", lambda: tmp_path / "cache")
    monkeypatch.setenv("STACKC_CACHE_SIZE", "1GB")
    base = finetune(tiny_model, tmp_path / "base", change=0.0)
    encode = Delta.encode
    first = compress(lossy(base, "raw"), tuned, tmp_path / "a.stackc")
    kept = compress(lossy(base, "zstd"), tuned, tmp_path / "b.stackc")
    encoded: list[int] = []
    monkeypatch.setattr(Delta, "encode", lambda *arguments: encoded.append(1) or encode(*arguments))
    compress(lossy(base, "auto"), tuned, tmp_path / "e.stackc")
    assert not encoded
    monkeypatch.setenv("STACKC_CACHE_SIZE", "0")
    fresh = compress(lossy(base, "zstd"), tuned, tmp_path / "c.stackc")
    assert kept.path.read_bytes() == fresh.path.read_bytes()
    assert kept.report.file.bytes < first.report.file.bytes
    assert encoded
    # The same path with other weights: what was kept is not for them.
    monkeypatch.setenv("STACKC_CACHE_SIZE", "1GB")
    shutil.rmtree(base)
    finetune(tiny_model, base, change=1e-2)
    changed = compress(lossy(base, "zstd"), tuned, tmp_path / "d.stackc")
    assert changed.report.file.bases[0].sha256 != kept.report.file.bases[0].sha256
    with Artifact(changed.path, base=open_reference(str(base))) as artifact:
        for name, x in load_file(tuned / "model.safetensors").items():
            assert torch.allclose(artifact[name], x, rtol=0, atol=2.6e-4)
