"""The files beside the weights of a model folder: which of them may travel in an artifact, and which stay behind.

A file may come from anywhere, and `decode` writes what it bundles into a folder that people open with `from_pretrained`.
So there is one list of names: data that make a model behave, never code, never pickles, and nothing that stackc writes
itself. ``docs/format.md`` has the same list for other readers.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from typing import Any

from stackc.util.errors import StackcError

GENERATION = "generation_config.json"
MODULES = "modules.json"
#: A bundled list of names: what the model's folder held, shapes what it does, and is not in the file.
LEFT_BEHIND = "left_behind.json"

#: Larger ones of what is kept by default stay behind: they would not be a side matter any more.
MAX_KEPT_BYTES = 256 << 10

#: What shapes a model's behaviour in a few hundred bytes: kept by default.
KEPT = (
    GENERATION,
    "preprocessor_config.json",
    "processor_config.json",
    "video_preprocessor_config.json",
    "audio_tokenizer_config.json",
    "chat_template.jinja",
    "chat_template.json",
    MODULES,
    "config_sentence_transformers.json",
    "sentence_bert_config.json",
    "sentence_roberta_config.json",
    "sentence_distilbert_config.json",
    "sentence_camembert_config.json",
    "sentence_albert_config.json",
    "sentence_xlm-roberta_config.json",
    "sentence_xlnet_config.json",
)
#: The same one folder down: modules of sentence-transformers that have no weights, and further chat templates. A config of
#: other modules is of no use without their weights, and may name a function to call.
_KEPT_BELOW = re.compile(
    r"[0-9]{1,2}_(Pooling|Normalize|Dropout)/config\.json|additional_chat_templates/[A-Za-z0-9_-]{1,60}\.jinja"
)

#: How a tokenizer is set up, whatever its vocabulary.
TOKENIZER_SETTINGS = (
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
)
#: What a fast tokenizer is in one file.
TOKENIZER = "tokenizer.json"
#: Vocabularies of tokenizers without a tokenizer.json, which holds all of this itself: the ``vocab_files_names`` of transformers.
VOCABULARIES = (
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "bpe.codes",
    "byte_maps.json",
    "dict.txt",
    "emoji.json",
    "entity_vocab.json",
    "normalizer.json",
    "prophetnet.tokenizer",
    "target_vocab.json",
    "tekken.json",
    "vocab-src.json",
    "vocab-tgt.json",
    "word_pronunciation.json",
    "word_shape.json",
)
#: Vocabularies whose first names differ: sentencepiece and tiktoken.
_VOCABULARY_ENDINGS = (".model", ".spm", ".tiktoken")
_VOCABULARY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,80}(\.model|\.spm|\.tiktoken)")

#: Adapters that stand beside a model instead of being merged into it.
ADAPTERS = ("adapter_config.json", "adapter_model.safetensors", "adapter_model.bin")
#: A folder of a module of sentence-transformers.
MODULE_FOLDER = re.compile(r"[0-9]{1,2}_[A-Za-z0-9]{1,40}(/|$)")
_MAX_NAMES = 64


def is_kept(name: str) -> bool:
    """Whether a companion file is stored with every model that has it, if it is small.

    Examples
    --------
    >>> is_kept("generation_config.json"), is_kept("1_Pooling/config.json"), is_kept("vocab.txt"), is_kept("config.json")
    (True, True, False, False)
    """
    return name in KEPT or _KEPT_BELOW.fullmatch(name) is not None


def is_vocabulary(name: str) -> bool:
    """Whether a tokenizer can be made of this file, with or without further ones.

    Examples
    --------
    >>> is_vocabulary("spiece.model"), is_vocabulary("tokenizer_config.json")
    (True, False)
    """
    return name == TOKENIZER or name in VOCABULARIES or _VOCABULARY.fullmatch(name) is not None


def is_tokenizer_file(name: str) -> bool:
    """Whether this is a file of a tokenizer."""
    return name in TOKENIZER_SETTINGS or is_vocabulary(name)


def may_be_bundled(name: str) -> bool:
    """Whether a file of this name may be in an artifact, and be written by `decode`.

    Examples
    --------
    >>> may_be_bundled("tokenizer.json"), may_be_bundled("1_Pooling/config.json")
    (True, True)
    >>> [may_be_bundled(name) for name in ("config.json", "model.safetensors", "modeling_x.py", "../tokenizer.json")]
    [False, False, False, False]
    """
    return name == LEFT_BEHIND or is_kept(name) or is_tokenizer_file(name)


def patterns() -> list[str]:
    """Globs of all companion files of a repository, for a download."""
    below = ("[0-9]*_*/config.json", "additional_chat_templates/*.jinja")
    endings = [f"*{ending}" for ending in _VOCABULARY_ENDINGS]
    return [*KEPT, *below, TOKENIZER, *TOKENIZER_SETTINGS, *VOCABULARIES, *endings, "adapter_config.json"]


def shapes_the_model(name: str) -> bool:
    """Whether a file that stays behind would change what the model does, as code, adapters and module weights do."""
    return name.endswith(".py") or name in ADAPTERS or is_kept(name) or MODULE_FOLDER.match(name) is not None


def list_names(names: Iterable[str]) -> bytes:
    """Content of `LEFT_BEHIND`."""
    return json.dumps(sorted(names)[:_MAX_NAMES], ensure_ascii=False, separators=(",", ":")).encode()


def read_names(content: bytes) -> list[str]:
    """What `list_names` wrote.

    Raises
    ------
    ValueError
        If it is something else.
    """
    names = json.loads(content)
    if not isinstance(names, list) or len(names) > _MAX_NAMES or not all(isinstance(name, str) for name in names):
        raise ValueError("it is not a list of names")
    return names


def without_code(name: str, content: bytes) -> bytes:
    """The content of a companion file without what would make other libraries run somebody's code.

    That is ``auto_map``, which names classes in files or repositories; transformers offers to run them. Everything else, and
    a file without it, stays as it is to the byte.

    Raises
    ------
    StackcError
        If it is a list of modules that are not those of sentence-transformers.
    """
    if not name.endswith(".json") or not (is_kept(name) or name == TOKENIZER_SETTINGS[0]):
        return content
    try:
        value = json.loads(content)
    except (ValueError, RecursionError):
        return content  # nobody else can read it either
    if name == MODULES:
        foreign = [kind for kind in _module_types(value) if not str(kind).startswith("sentence_transformers.")]
        if foreign:
            raise StackcError(f"{name} asks for the class {foreign[0]!r}, which is not part of sentence-transformers")
    cleaned = _without_auto_map(value)
    return content if cleaned == value else json.dumps(cleaned, ensure_ascii=False, indent=2).encode() + b"\n"


def _module_types(value: Any) -> Iterator[Any]:
    for module in value if isinstance(value, list) else ():
        yield module.get("type") if isinstance(module, dict) else module


def _without_auto_map(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_auto_map(item) for key, item in value.items() if key != "auto_map"}
    return [_without_auto_map(item) for item in value] if isinstance(value, list) else value
