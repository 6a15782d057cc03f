"""Which files may travel with a model: data from a list of names, never what stands in for the model or runs."""

from __future__ import annotations

import json
import re
from importlib.util import find_spec
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stackc.models.companions import (
    KEPT,
    LEFT_BEHIND,
    TOKENIZER,
    TOKENIZER_SETTINGS,
    VOCABULARIES,
    is_kept,
    is_tokenizer_file,
    is_vocabulary,
    list_names,
    may_be_bundled,
    read_names,
    shapes_the_model,
    without_code,
)
from stackc.util.errors import StackcError
from tests.docs.second_decoder import BUNDLED

LISTED = [
    *KEPT,
    *TOKENIZER_SETTINGS,
    *VOCABULARIES,
    TOKENIZER,
    LEFT_BEHIND,
    "1_Pooling/config.json",
    "10_Normalize/config.json",
    "additional_chat_templates/tool_use.jinja",
    "spiece.model",
    "sentencepiece.bpe.model",
    "source.spm",
    "qwen.tiktoken",
]
FOREIGN = [
    "config.json",
    "Config.json",
    "model.safetensors",
    "model.safetensors.index.json",
    "model-00001-of-00002.safetensors",
    "pytorch_model.bin",
    "adapter_config.json",
    "adapter_model.safetensors",
    "modeling_x.py",
    "vocab.pkl",
    "training_args.bin",
    "tokenizer.json/x",
    "tokenizer.json\n",
    "../tokenizer.json",
    "/tokenizer.json",
    "1_Pooling/../config.json",
    "1_Pooling/model.safetensors",
    "2_Dense/config.json",
    "a/1_Pooling/config.json",
    "additional_chat_templates/../../x.jinja",
    ".model",
    "..model",
    "a/b.model",
    "a\\b.model",
    "a\0.model",
    "",
    ".",
    "..",
]


@pytest.mark.parametrize("name", LISTED)
def test_what_may_be_bundled(name: str) -> None:
    assert may_be_bundled(name)
    assert BUNDLED.fullmatch(name)


@pytest.mark.parametrize("name", FOREIGN)
def test_what_may_not(name: str) -> None:
    assert not may_be_bundled(name)
    assert not BUNDLED.fullmatch(name)


@given(st.sampled_from(LISTED + FOREIGN), st.text("/.\\_abM1é\0\n", max_size=3), st.integers(0, 60))
def test_the_page_of_the_format_says_the_same(name: str, more: str, at: int) -> None:
    name = name[:at] + more + name[at:]
    assert may_be_bundled(name) == (BUNDLED.fullmatch(name) is not None)


@given(st.text())
def test_no_listed_name_leaves_its_folder(name: str) -> None:
    if may_be_bundled(name):
        parts = Path(name).parts
        assert "/".join(parts) == name
        assert len(parts) <= 2
        assert not any(part.startswith(".") for part in parts)


def test_every_vocabulary_of_transformers_is_listed() -> None:
    spec = find_spec("transformers")
    assert spec is not None
    assert spec.origin is not None
    declared: set[str] = set()
    for path in Path(spec.origin).parent.glob("models/*/tokenization_*.py"):
        source = path.read_text(encoding="utf-8")
        for block in re.findall(r"^VOCAB_FILES_NAMES\b[^{]*\{(.*?)\}", source, re.MULTILINE | re.DOTALL):
            declared |= set(re.findall(r'"[^"]*"\s*:\s*"([^"]+)"', block))
    assert len(declared) > 10
    assert sorted(name for name in declared if not is_tokenizer_file(name)) == []
    assert is_vocabulary("spiece.model")


def test_references_to_code_are_left_out() -> None:
    content = {"auto_map": {"AutoProcessor": "evil/repo--x.X"}, "size": 3, "inner": [{"auto_map": 1, "a": None}]}
    written = without_code("processor_config.json", json.dumps(content).encode())
    assert json.loads(written) == {"size": 3, "inner": [{"a": None}]}
    escaped = json.dumps(content).replace("auto_map", "auto\\u005fmap").encode()
    assert json.loads(without_code("tokenizer_config.json", escaped)) == {"size": 3, "inner": [{"a": None}]}


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("generation_config.json", b'{ "max_length":  5 }'),
        ("vocab.json", b'{"auto_map": 7}'),
        ("chat_template.jinja", b"auto_map"),
        ("processor_config.json", b"auto_map, which is no JSON"),
        ("modules.json", b'[{"idx": 0, "type": "sentence_transformers.models.Pooling"}]'),
    ],
)
def test_everything_else_stays_as_it_is(name: str, content: bytes) -> None:
    assert without_code(name, content) == content


def test_modules_of_somebody_else_are_refused() -> None:
    content = json.dumps([{"type": "sentence_transformers.models.Pooling"}, {"type": "os.system"}]).encode()
    with pytest.raises(StackcError, match=r"modules\.json asks for the class 'os\.system', which is not part of"):
        without_code("modules.json", content)


def test_names_that_stayed_behind() -> None:
    names = ["modeling_x.py", "größe.py"]
    assert read_names(list_names(names)) == sorted(names)
    for content in (b"{}", b'["a", 1]', b"[", json.dumps(["a"] * 65).encode()):
        with pytest.raises(ValueError, match=r"."):
            read_names(content)
    assert shapes_the_model("modeling_x.py")
    assert shapes_the_model("2_Dense/model.safetensors")
    assert not shapes_the_model("README.md")
    assert is_kept("modules.json")
