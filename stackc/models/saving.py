"""Write a model as a Hugging Face folder."""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from stackc.models.building import build_transformers
from stackc.models.sharing import ties_of
from stackc.util.errors import ModelError, OutputError
from stackc.util.partial import partial_folder

if TYPE_CHECKING:
    from torch import Tensor

#: How the errors of safetensors, which are not of `OSError`, tell what the operating system said.
_OS_ERROR = re.compile(r"\(os error (\d+)\)")


def save_folder(
    path: Path,
    config: Mapping[str, Any] | None,
    state: Mapping[str, Tensor],
    companions: Mapping[str, bytes | Path] | None = None,
) -> Path:
    """Write a folder that ``from_pretrained`` opens: config.json, model.safetensors and what belongs beside them.

    Everything goes to a temporary folder beside ``path`` first, which is renamed when complete.

    Parameters
    ----------
    path : Path
        The new folder.
    config : mapping, optional
        Content of config.json; without it only the weights are written.
    state : mapping of str to Tensor
        The weights. A tied tensor is written once if the config restores the tie, else under each of its names.
    companions : mapping of str to bytes or Path, optional
        Tokenizer and other files: content, or where to copy it from, by file name.

    Returns
    -------
    Path
        The folder.

    Raises
    ------
    OutputError
        If ``path`` exists, or cannot be written.
    """
    if os.path.lexists(path):
        raise OutputError(f"{path} exists already: give another name or remove it first")
    from stackc.util.output import writing

    with writing(path), partial_folder(path) as temporary:
        fill_folder(temporary, config, state, companions)
        temporary.rename(path)
    return path


def fill_folder(
    folder: Path,
    config: Mapping[str, Any] | None,
    state: Mapping[str, Tensor],
    companions: Mapping[str, bytes | Path] | None = None,
) -> None:
    """Write what `save_folder` writes into a folder that exists; all is on the disk when this returns.

    Raises
    ------
    OSError
        If the operating system refuses, whoever of the libraries below asked it.
    OutputError
        If the weights or the other files cannot be written for another reason.
    """
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    write_weights(folder / "model.safetensors", config, state)
    for name, content in (companions or {}).items():
        _write_companion(folder, name, content)
    _sync(*(path for path in folder.rglob("*") if path.is_file()))


def _write_companion(folder: Path, name: str, content: bytes | Path) -> None:
    """Write a file beside the model; what is there already, the model above all, is never written over."""
    parts = PurePosixPath(name).parts
    if "/".join(parts) != name or not 0 < len(parts) <= 2 or ".." in parts or parts[0] == "/":
        raise OutputError(f"{name!r} is not the name of a file in the model's folder")
    path = folder.joinpath(*parts)
    path.parent.mkdir(exist_ok=True)
    if os.path.lexists(path):
        raise OutputError(f"{name!r} stands for a file of the decoded model, which is not written over")
    path.write_bytes(content.read_bytes() if isinstance(content, Path) else content)


def write_weights(path: Path, config: Mapping[str, Any] | None, state: Mapping[str, Tensor]) -> None:
    """Write a .safetensors file that is as readable as any other new file.

    Parameters
    ----------
    path : Path
        The file; one that stands there is replaced and its permissions are kept.
    config : mapping, optional
        Content of config.json; a tied tensor is written once if it restores the tie.
    state : mapping of str to Tensor
        The weights.

    Raises
    ------
    OSError
        If the operating system refuses.
    OutputError
        If safetensors does.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    path.touch()
    # safetensors makes its files private. What a new file is given otherwise, a new file tells: asking for the umask would mean
    # to change it, for all threads.
    mode = stat.S_IMODE(path.stat().st_mode)
    try:
        save_file(_storable(config, state), path, metadata={"format": "pt"})
    except SafetensorError as error:
        found = _OS_ERROR.search(str(error))
        if found is None:
            raise OutputError(f"the weights cannot be written: {error}") from error
        code = int(found[1])
        raise OSError(code, os.strerror(code)) from error
    path.chmod(mode)
    _sync(path)


def _storable(config: Mapping[str, Any] | None, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors under the names to write, in memory of their own as safetensors demands."""
    ties = ties_of(state)
    once = {name: tensor.detach() for name, tensor in state.items() if name not in ties}
    if ties and not (config is not None and _loads(config, once)):
        once = {name: tensor.detach() for name, tensor in state.items()}
    storages: set[int] = set()
    storable: dict[str, Tensor] = {}
    for name, tensor in once.items():
        own = tensor.cpu().contiguous()
        storage = own.untyped_storage().data_ptr()
        storable[name] = own.clone() if storage in storages else own
        storages.add(storage)
    return storable


def _loads(config: Mapping[str, Any], state: Mapping[str, Tensor]) -> bool:
    try:
        build_transformers(config, state)  # shares the memory of the state, so this is cheap
    except ModelError:
        return False
    return True


def _sync(*paths: Path) -> None:
    for path in paths:
        with path.open("rb+") as file:
            os.fsync(file.fileno())
