"""What lies beside the weights of a model folder: what is kept with the model, what stays behind, what to warn of."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from stackc.models.companions import (
    ADAPTERS,
    MAX_KEPT_BYTES,
    MODULE_FOLDER,
    TOKENIZER_SETTINGS,
    is_kept,
    is_tokenizer_file,
    shapes_the_model,
    without_code,
)
from stackc.util.errors import StackcError
from stackc.util.humanise import plural

_CONFIG = "config.json"
#: Weights in the forms of all frameworks, and what trainers leave: the model that is compressed does without them.
_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".h5", ".msgpack", ".ot", ".onnx", ".gguf", ".ckpt", ".index.json")
_TEMPLATES = "additional_chat_templates"
_SHOWN = 5


class FolderFiles(NamedTuple):
    """The companion files of a folder.

    Attributes
    ----------
    kept, left_behind : dict of str to Path
        By name: what is stored with the model, and what is not.
    notes : list of str
        What a user should know before using the result, in sentences.
    """

    kept: dict[str, Path]
    left_behind: dict[str, Path]
    notes: list[str]


def folder_files(folder: Path, config: Mapping[str, Any] | None = None) -> FolderFiles:
    """Look at the files of a model folder; only small ones are read.

    Weights in other forms, tokenizers and hidden files are neither kept nor missed. Of folders, only the modules of
    sentence-transformers and chat templates are looked at.

    Examples
    --------
    >>> folder_files(Path("no-such-folder"))
    FolderFiles(kept={}, left_behind={}, notes=[])
    """
    kept: dict[str, Path] = {}
    left_behind: dict[str, Path] = {}
    notes: list[str] = []
    for name, path in _files(folder):
        reason = _unkept(name, path)
        if reason is None:
            kept[name] = path
        elif _is_missed(name):
            left_behind[name] = path
            notes += [reason] if reason else []
    for name in (*kept, TOKENIZER_SETTINGS[0]):
        notes += _left_out(name, folder / name)
    return FolderFiles(
        kept, left_behind, [*_code(config or {}, left_behind), *_adapter(folder), *notes, *_rest(left_behind)]
    )


def _files(folder: Path) -> Iterator[tuple[str, Path]]:
    try:
        entries = sorted(folder.iterdir())
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_file():
                yield entry.name, entry
            elif entry.is_dir() and (MODULE_FOLDER.fullmatch(entry.name) or entry.name == _TEMPLATES):
                yield from ((f"{entry.name}/{path.name}", path) for path in sorted(entry.iterdir()) if path.is_file())
    except OSError:  # reading what is needed says what is wrong
        return


def _unkept(name: str, path: Path) -> str | None:
    """None if a file is kept; else the reason where there is one to tell."""
    if not is_kept(name):
        return ""
    try:
        size = path.stat().st_size
        if size > MAX_KEPT_BYTES:
            return f"{name} has {size:,} bytes and is not kept with the model: more than {MAX_KEPT_BYTES:,} are no side matter"
        without_code(name, path.read_bytes())
    except OSError as error:
        return f"{name} cannot be read ({error.strerror or error}) and is not kept with the model"
    except StackcError as error:
        return f"{error}: it is not kept with the model"
    return None


def _left_out(name: str, path: Path) -> list[str]:
    try:
        content = path.read_bytes()
    except OSError:
        return []
    if without_code(name, content) == content:
        return []
    return [
        f"{name} names code (auto_map), which stackc neither runs nor stores: the rest of {name} is used without it"
    ]


def _is_missed(name: str) -> bool:
    if shapes_the_model(name):
        return True
    return name != _CONFIG and not is_tokenizer_file(name) and not name.endswith(_WEIGHTS)


def _code(config: Mapping[str, Any], left_behind: Mapping[str, Path]) -> list[str]:
    """A folder that only ``trust_remote_code`` opens."""
    auto_map = config.get("auto_map")
    if not auto_map:
        return []
    named = auto_map.values() if isinstance(auto_map, dict) else [auto_map]
    classes = ", ".join(
        sorted({str(item) for value in named for item in (value if isinstance(value, list) else [value]) if item})
    )
    code = [name for name in left_behind if name.endswith(".py")]
    where = f" ({_listed(code)})" if code else ""
    return [
        f"config.json asks for code of the model's folder{where}: transformers needs trust_remote_code=True for {classes}. stackc "
        "never runs such code: it builds the model only if transformers itself has its architecture. The code stays behind"
    ]


def _adapter(folder: Path) -> list[str]:
    """An adapter that nobody merged: without a word the result would be the base model."""
    present = [name for name in ADAPTERS if (folder / name).is_file()]
    present += sorted(path.relative_to(folder).as_posix() for path in folder.glob(f"*/{ADAPTERS[0]}"))
    if not present:
        return []
    return [
        f"an adapter lies beside the weights ({_listed(present)}) and is not merged into them: what is compressed is the model "
        "without it. Merge it first, with merge_and_unload() of peft and save_pretrained(), and compress that folder"
    ]


def adapter_base(folder: Path) -> str | None:
    """Which model an adapter in a folder is for; None where there is no adapter."""
    try:
        content = msgspec.json.decode((folder / ADAPTERS[0]).read_bytes(), type=dict[str, Any])
    except (OSError, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return str(content.get("base_model_name_or_path") or "an unnamed model")


def _rest(left_behind: Mapping[str, Path]) -> list[str]:
    missed = [name for name in left_behind if shapes_the_model(name) and name not in ADAPTERS]
    if not missed:
        return []
    return [
        f"{plural(len(missed), 'file')} that the model may need {'is' if len(missed) == 1 else 'are'} not stored: "
        f"{_listed(missed)}; 'stackc decode --companions FOLDER' copies them from the model's folder"
    ]


def _listed(names: list[str]) -> str:
    shown = ", ".join(names[:_SHOWN])
    return f"{shown} and {len(names) - _SHOWN} more" if len(names) > _SHOWN else shown
