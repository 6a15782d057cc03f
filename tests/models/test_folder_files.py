"""What lies beside the weights of a folder: kept, left behind, or to be warned of."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from stackc.models import open_reference
from stackc.models.companions import LEFT_BEHIND, MAX_KEPT_BYTES
from stackc.models.folder_files import folder_files
from stackc.util.errors import ModelError

MODULES = [
    {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
    {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
]


@pytest.fixture
def folder(classifier: Path, tmp_path: Path) -> Path:
    """A copy of the classifier's folder, to be changed."""
    return Path(shutil.copytree(classifier, tmp_path / "model"))


def put(folder: Path, name: str, content: str = "{}") -> None:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(content)


def test_a_plain_folder_has_nothing_to_keep_or_to_tell(classifier: Path) -> None:
    reference = open_reference(classifier)
    assert (reference.companions, reference.left_behind, reference.notes) == ({}, (), ())
    assert reference.companion_contents() == {}


def test_small_data_that_shapes_the_model_is_kept(folder: Path) -> None:
    names = ["1_Pooling/config.json", "chat_template.jinja", "generation_config.json", "preprocessor_config.json"]
    for name in names:
        put(folder, name)
    put(folder, "modules.json", json.dumps(MODULES))
    put(folder, ".hidden/1_Pooling/config.json")
    put(folder, "pytorch_model.bin")
    put(folder, "onnx/config.json")
    reference = open_reference(folder)
    assert set(reference.companions) == {*names, "modules.json"}
    assert reference.companion_contents()["modules.json"] == (folder / "modules.json").read_bytes()
    assert (reference.left_behind, reference.notes) == ((), ())


def test_what_stays_behind_is_named(folder: Path) -> None:
    put(folder, "README.md", "# Read me")
    assert open_reference(folder).left_behind == ("README.md",)
    assert open_reference(folder).notes == ()  # it shapes nothing
    put(folder, "2_Dense/config.json")
    put(folder, "2_Dense/model.safetensors")
    put(folder, "chat_template.json", " " * (MAX_KEPT_BYTES + 1))
    reference = open_reference(folder)
    missed = ["2_Dense/config.json", "2_Dense/model.safetensors", "chat_template.json"]
    assert reference.left_behind == (*missed[:2], "README.md", missed[2])
    assert json.loads(reference.companion_contents()[LEFT_BEHIND]) == missed
    assert reference.notes == (
        "chat_template.json has 262,145 bytes and is not kept with the model: more than 262,144 are no side matter",
        f"3 files that the model may need are not stored: {', '.join(missed)}; 'stackc decode --companions FOLDER' copies "
        "them from the model's folder",
    )


def test_modules_of_somebody_else_stay_behind(folder: Path) -> None:
    put(folder, "modules.json", json.dumps([{"type": "my.Module"}]))
    reference = open_reference(folder)
    assert reference.left_behind == ("modules.json",)
    assert "asks for the class 'my.Module'" in reference.notes[0]


def test_a_folder_that_needs_code_says_so(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"] = {"AutoModel": "modeling_x.XModel", "AutoTokenizer": ["org/repo--tokenization_x.X", None]}
    put(folder, "config.json", json.dumps(config))
    put(folder, "modeling_x.py", "raise SystemExit")
    reference = open_reference(folder)
    assert reference.left_behind == ("modeling_x.py",)
    assert reference.notes[0] == (
        "config.json asks for code of the model's folder (modeling_x.py): transformers needs trust_remote_code=True for "
        "modeling_x.XModel, org/repo--tokenization_x.X. stackc never runs such code: it builds the model only if transformers "
        "itself has its architecture. The code stays behind"
    )


def test_a_tokenizer_that_needs_code_says_so(folder: Path) -> None:
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    put(folder, "tokenizer_config.json", json.dumps(settings | {"auto_map": {"AutoTokenizer": ["x.X", None]}}))
    reference = open_reference(folder)
    assert reference.notes[0].startswith(
        "tokenizer_config.json names code (auto_map), which stackc neither runs nor stores"
    )
    assert json.loads(reference.tokenizer_contents()["tokenizer_config.json"]) == settings
    assert reference.tokenizer() is not None


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors", "lora/adapter_config.json"])
def test_an_adapter_that_is_not_merged_is_told(folder: Path, name: str) -> None:
    put(folder, name)
    notes = open_reference(folder).notes
    assert notes[0].startswith(f"an adapter lies beside the weights ({name}) and is not merged into them")


def test_a_folder_with_nothing_but_an_adapter(tmp_path: Path) -> None:
    put(tmp_path, "adapter_config.json", '{"base_model_name_or_path": "org/base"}')
    with pytest.raises(ModelError, match="holds an adapter of org/base, not a model: merge it with merge_and_unload"):
        open_reference(tmp_path)


def test_a_folder_that_is_not_there_has_no_files(tmp_path: Path) -> None:
    assert folder_files(tmp_path / "none") == ({}, {}, [])
