"""The files that a tokenizer needs, and the tokenizer that they make."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stackc.errors import ModelError, StackcError
from stackc.reference.building import quiet_transformers

_FAST = "tokenizer.json"
_SETTINGS = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "chat_template.jinja")
#: Vocabularies of tokenizers without a tokenizer.json, which holds all of this itself.
_VOCABULARIES = ("vocab.txt", "vocab.json", "merges.txt", "bpe.codes", "source.spm", "target.spm", "spiece.model")
_VOCABULARY_PATTERN = "*.model"


def tokenizer_files(folder: Path) -> dict[str, Path]:
    """The tokenizer files of a model folder by name: only those that the tokenizer needs.

    Examples
    --------
    >>> tokenizer_files(Path("no-such-folder"))
    {}
    """
    names = [_FAST]
    if not (folder / _FAST).is_file():
        names = [*_VOCABULARIES, *sorted(path.name for path in folder.glob(_VOCABULARY_PATTERN))]
    found = {name: folder / name for name in names if (folder / name).is_file()}
    if not found:
        return {}
    return found | {name: folder / name for name in _SETTINGS if (folder / name).is_file()}


def load_tokenizer(files: Mapping[str, Path] | Path, config: Mapping[str, Any] | None = None) -> Any | None:
    """The tokenizer of a model folder, or of tokenizer files by name; see `tokenizer_from_files`."""
    paths = tokenizer_files(files) if isinstance(files, Path) else files
    try:
        contents = {name: path.read_bytes() for name, path in paths.items()}
    except OSError as error:
        raise ModelError(f"the tokenizer file {error.filename} cannot be read: {error.strerror or error}") from error
    return tokenizer_from_files(contents, config)


def tokenizer_from_files(files: Mapping[str, bytes], config: Mapping[str, Any] | None = None) -> Any | None:
    """The tokenizer that these files make, or None if there are none.

    Parameters
    ----------
    files : mapping of str to bytes
        Content by file name, such as ``{"tokenizer.json": ...}``.
    config : mapping, optional
        The model's config, from which transformers takes the tokenizer class where the files do not name it.

    Returns
    -------
    transformers.PreTrainedTokenizerBase or None

    Raises
    ------
    ModelError
        If transformers cannot make a tokenizer of them; code in a model folder is never run.
    """
    if not files:
        return None
    with quiet_transformers(), tempfile.TemporaryDirectory(prefix="stackc-tokenizer-") as temporary:
        from transformers import AutoTokenizer

        folder = Path(temporary)
        for name, content in files.items():
            if Path(name).name != name:
                raise ModelError(f"{name!r} is not the name of a tokenizer file")
            (folder / name).write_bytes(content)
        if config is not None:
            (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
        try:
            tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        except Exception as error:
            if isinstance(error, (MemoryError, StackcError)):
                raise
            raise ModelError(
                f"transformers cannot make a tokenizer of {', '.join(sorted(files))}: "
                f"{type(error).__name__}: {' '.join(str(error).split())}"
            ) from error
    tokenizer.name_or_path = ""  # the folder is gone
    return tokenizer
