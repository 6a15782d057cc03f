"""The files that a tokenizer needs, and the tokenizer that they make."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stackc.models.building import quiet_transformers
from stackc.models.companions import (
    TOKENIZER,
    TOKENIZER_SETTINGS,
    VOCABULARIES,
    is_tokenizer_file,
    is_vocabulary,
    without_code,
)
from stackc.models.offline import offline
from stackc.util.errors import ModelError, StackcError


def tokenizer_files(folder: Path) -> dict[str, Path]:
    """The tokenizer files of a model folder by name: only those that the tokenizer needs.

    Examples
    --------
    >>> tokenizer_files(Path("no-such-folder"))
    {}
    """
    names = [TOKENIZER]
    if not (folder / TOKENIZER).is_file():
        others = sorted(path.name for path in folder.glob("*") if is_vocabulary(path.name))
        names = [*VOCABULARIES, *(name for name in others if name not in VOCABULARIES)]
    found = {name: folder / name for name in names if (folder / name).is_file()}
    if not found:
        return {}
    return found | {name: folder / name for name in TOKENIZER_SETTINGS if (folder / name).is_file()}


def load_tokenizer(files: Mapping[str, Path] | Path, config: Mapping[str, Any] | None = None) -> Any | None:
    """The tokenizer of a model folder, or of tokenizer files by name; see `tokenizer_from_files`."""
    paths = tokenizer_files(files) if isinstance(files, Path) else files
    try:
        contents = {name: path.read_bytes() for name, path in paths.items()}
    except OSError as error:
        raise ModelError(f"the tokenizer file {error.filename} cannot be read: {error.strerror or error}") from error
    return tokenizer_from_files(contents, config)


def tokenizer_from_files(files: Mapping[str, bytes], config: Mapping[str, Any] | None = None) -> Any | None:
    """The tokenizer that these files make, or None if no vocabulary is among them.

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
    foreign = next((name for name in files if not is_tokenizer_file(name)), None)
    if foreign is not None:
        raise ModelError(f"{foreign!r} is not the name of a tokenizer file")
    if not any(map(is_vocabulary, files)):
        return None  # a chat template alone
    with quiet_transformers(), offline(), tempfile.TemporaryDirectory(prefix="stackc-tokenizer-") as temporary:
        from transformers import AutoTokenizer

        folder = Path(temporary)
        for name, content in files.items():
            (folder / name).write_bytes(without_code(name, content))
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
