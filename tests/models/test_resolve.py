"""What a user types finds its model, or a sentence that says what to type instead."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from stackc.models import DEMO_MODELS, open_reference
from stackc.util.errors import ModelError

HERE = "tests.models.test_resolve"


def make() -> nn.Module:
    return nn.Linear(3, 2)


def make_nothing() -> None:
    return None


def fail() -> nn.Module:
    raise ValueError("no weights today")


class Zoo:
    @staticmethod
    def make() -> nn.Module:
        return nn.Linear(1, 1)


READY = nn.Linear(2, 2)
NUMBER = 3


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)


def test_folders_and_files(classifier: Path) -> None:
    for source in (classifier, str(classifier)):
        reference = open_reference(source)
        assert reference.kind == "transformers"
        assert reference.source == str(classifier)
    reference = open_reference(str(classifier / "model.safetensors"))
    assert reference.kind == "safetensors"
    assert reference.fingerprint() == open_reference(classifier).fingerprint()


def test_relative_and_home_paths(classifier: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(classifier.parent)
    assert open_reference("classifier").kind == "transformers"
    assert open_reference("./classifier/model.safetensors").source == "./classifier/model.safetensors"
    monkeypatch.setenv("HOME", str(classifier.parent))
    assert open_reference("~/classifier").source == "~/classifier"


def test_demo(classifier: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.resources
    import shutil

    monkeypatch.setattr(importlib.resources, "files", lambda package: tmp_path / package)
    with pytest.raises(ModelError, match="missing from this installation"):
        open_reference(DEMO_MODELS[0])
    shutil.copytree(classifier, tmp_path / "stackc.models.demo" / "bert-tiny-reviews")
    assert open_reference(DEMO_MODELS[0]).source == "demo/bert-tiny-reviews"
    with pytest.raises(
        ModelError, match=r"no demo model 'demo/bert-tiny-review', did you mean 'demo/bert-tiny-reviews'"
    ):
        open_reference("demo/bert-tiny-review")


def test_factories() -> None:
    assert open_reference(f"{HERE}:make").source == f"{HERE}:make"
    assert open_reference(f"{HERE}:make").kind == "module"
    assert open_reference(f"{HERE}:Zoo.make").parameters == 2
    assert open_reference(f"{HERE}:READY").parameters == 6
    assert open_reference(make()).parameters == 8


@pytest.mark.parametrize(
    ("source", "words"),
    [
        pytest.param(
            "no_such_package.models:make", "does not import: ModuleNotFoundError: .*no_such_package", id="import"
        ),
        pytest.param(f"{HERE}:mke", f"{HERE} has no 'mke', did you mean 'make'", id="attribute"),
        pytest.param(f"{HERE}:NUMBER", "is a int: give a function", id="not callable"),
        pytest.param(f"{HERE}:make_nothing", r"returned a NoneType instead of a torch.nn.Module", id="wrong type"),
        pytest.param(f"{HERE}:fail", "failed: ValueError: no weights today", id="failing"),
    ],
)
def test_factories_that_make_no_model(source: str, words: str) -> None:
    with pytest.raises(ModelError, match=words):
        open_reference(source)


def test_factories_beside_the_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_own_models.py").write_text("from torch import nn\ndef make():\n    return nn.Linear(4, 4)\n")
    (tmp_path / "my_broken_models.py").write_text("def make(:\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    before = list(sys.path)
    assert open_reference("my_own_models:make").parameters == 20
    with pytest.raises(ModelError, match="does not import: SyntaxError"):
        open_reference("my_broken_models:make")
    assert sys.path == before


def test_a_value_that_is_no_module() -> None:
    with pytest.raises(ModelError, match=r"the model is a int instead of a torch.nn.Module"):
        open_reference(3)  # type: ignore[arg-type]


def test_paths_that_do_not_exist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "weights.safetensors").write_bytes(b"")
    (tmp_path / "model").mkdir()
    for source, near in [
        ("wieghts.safetensors", "weights.safetensors"),
        ("./modle", "model"),
        (str(tmp_path / "modle"), "model"),
        (Path("modle"), "model"),
    ]:
        with pytest.raises(ModelError, match=f"does not exist, did you mean '{near}'"):
            open_reference(source)
    for source in ("a/b/c", "..", "no\\such\\folder", "", "/", "C:\\models", "two words", "org/name/"):
        with pytest.raises(ModelError):
            open_reference(source)
    with pytest.raises(ModelError, match=r"^a/b/c does not exist$"):
        open_reference("a/b/c")


def test_other_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_bytes(b"")
    with pytest.raises(ModelError, match=r"notes.txt is not a model: give a .safetensors file"):
        open_reference(tmp_path / "notes.txt")


def test_hub_ids_without_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        ModelError, match=r"'prajjwal1/bert-tiny' is no local folder .* hub .*give the path of a folder"
    ):
        open_reference("prajjwal1/bert-tiny", cache=tmp_path)
    with pytest.raises(ModelError, match=r"did you mean 'demo/bert-tiny-reviews'"):
        open_reference("bert-tiny-reviews", cache=tmp_path)
    (tmp_path / "classifier").mkdir()
    with pytest.raises(ModelError, match=r"did you mean 'classifier'"):
        open_reference("clasifier", cache=tmp_path)
    with pytest.raises(ModelError, match="HFValidationError"):
        open_reference("double--dash", cache=tmp_path)


def test_hub_ids_resolve_to_the_snapshot(classifier: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import fnmatch

    import huggingface_hub

    asked: dict[str, object] = {}

    def snapshot_download(name: str, **options: object) -> str:
        asked.update(options, name=name)
        return str(classifier)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    reference = open_reference("org/name", cache=tmp_path)
    assert reference.source == "org/name"
    assert reference.kind == "transformers"
    assert asked["name"] == "org/name"
    assert asked["cache_dir"] == tmp_path
    patterns = asked["allow_patterns"]
    assert isinstance(patterns, list)

    def wanted(file: str) -> bool:
        return any(fnmatch.fnmatch(file, pattern) for pattern in patterns)

    assert all(wanted(path.name) for path in classifier.iterdir())
    assert wanted("model-00001-of-00002.safetensors")
    assert not any(
        map(wanted, ["pytorch_model.bin", "model.fp16.safetensors", "onnx/model.safetensors", "modeling.py"])
    )


def test_transport_errors_are_sentences(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    def refuse(error: Exception) -> None:
        def snapshot_download(name: str, **options: object) -> str:
            raise error

        monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)

    client_error = huggingface_hub.utils.HfHubHTTPError.__mro__[1]
    assert client_error.__module__.partition(".")[0] != "huggingface_hub"
    for error in (ConnectionError("no route\nmore lines"), client_error("no route")):
        refuse(error)
        with pytest.raises(ModelError, match=r"\(\w*Error: no route\)") as caught:
            open_reference("org/name", cache=tmp_path)
        assert "\n" not in str(caught.value)
    refuse(ZeroDivisionError("a bug"))
    with pytest.raises(ZeroDivisionError):
        open_reference("org/name", cache=tmp_path)


def test_a_tensor_file_named_like_a_hub_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "org").mkdir()
    save_file({"a": torch.zeros(2)}, "org/name.safetensors")
    assert open_reference("org/name.safetensors").kind == "safetensors"


def test_what_a_factory_prints_stays_out_of_standard_output(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "my_noisy_models.py").write_text(
        "print('imported')\nfrom torch import nn\ndef make():\n    print('made')\n    return nn.Linear(4, 4)\n"
        "def leave():\n    raise SystemExit(3)\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    assert open_reference("my_noisy_models:make").parameters == 20
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err == "imported\nmade\n"
    with pytest.raises(ModelError, match="failed: SystemExit: 3"):
        open_reference("my_noisy_models:leave")


@pytest.mark.parametrize(
    ("name", "works"),
    [
        ("model.pth", r"a pickle, .*save_file\(torch.load\('model.pth', weights_only=True\), 'model.safetensors'\)"),
        ("model.PT", "a pickle"),
        ("last.ckpt", "a pickle"),
        ("pytorch_model.bin", "a pickle"),
        ("model-q4.gguf", "gguf_file='model-q4.gguf'"),
        ("model.onnx", "give the model that it was exported from"),
        ("tf_model.h5", "from_tf=True"),
        ("flax_model.msgpack", "from_flax=True"),
        ("model.stackc", "'stackc decode model.stackc' writes a folder"),
        ("config.json", "give the folder that it is in"),
    ],
)
def test_files_of_other_kinds_say_what_works(tmp_path: Path, name: str, works: str) -> None:
    path = tmp_path / name
    path.write_bytes(b"never opened")
    with pytest.raises(ModelError, match=f"{name} .*{works}"):
        open_reference(path)
    if name != "config.json":
        with pytest.raises(ModelError, match=f"has no config.json: .*{works}"):
            open_reference(tmp_path)
        (tmp_path / "config.json").write_text('{"model_type": "bert"}')
        with pytest.raises(ModelError, match="pickle" if name == "pytorch_model.bin" else f"{name} .*{works}"):
            open_reference(tmp_path)
