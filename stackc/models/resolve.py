"""Find the reference that a user named."""

from __future__ import annotations

import contextlib
import importlib
import operator
import os
import re
import sys
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from stackc.models import companions
from stackc.models.foreign import advice
from stackc.models.module import ModuleReference
from stackc.models.reference import Reference
from stackc.models.safetensors_file import SafetensorsReference
from stackc.models.transformers_folder import TransformersReference
from stackc.util.cache import require_download_folder
from stackc.util.errors import DependencyError, ModelError, StackcError
from stackc.util.isolation import contained
from stackc.util.lazy import torch
from stackc.util.nearest import nearest
from stackc.util.paths import require_regular, user_path

if TYPE_CHECKING:
    from torch import nn

#: Models that come with stackc, in the order of interest.
DEMO_MODELS = ("demo/bert-tiny-reviews",)

#: Held while somebody's module runs: where Python looks for modules and prints to belongs to the process.
_running_code = threading.RLock()

_DEMO = "demo/"
_FACTORY = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
# Root files only: many repositories hold the weights again in subfolders and in other precisions.
_HUB_FILES = (
    "config.json",
    "model.safetensors",
    "model-*-of-*.safetensors",
    "model.safetensors.index.json",
    *companions.patterns(),
)


def open_reference(
    source: str | os.PathLike[str] | nn.Module, *, cache: Path | None = None, allow_code: bool = True
) -> Reference:
    """Open the model that a run starts from, without reading its weights.

    Parameters
    ----------
    source : str, path or torch.nn.Module
        In this order: a demo name (``demo/bert-tiny-reviews``), a Hugging Face folder, a ``.safetensors`` file, a factory
        as ``package.module:function``, a Hugging Face id (``org/name``); or a module itself. For all but factories, ids
        and modules neither torch nor transformers is imported.
    cache : Path, optional
        Where downloaded models are kept; the Hugging Face cache without it.
    allow_code : bool
        Whether ``source`` may be a factory. Say False where it comes from a file that somebody else may have written.

    Raises
    ------
    ModelError
        If there is no such model, or it cannot be read, or it is code that may not run.
    DependencyError
        If a download needs a package that is not installed.

    Examples
    --------
    >>> open_reference("./no-such-folder/model.safetensors")
    Traceback (most recent call last):
        ...
    stackc.util.errors.ModelError: ./no-such-folder/model.safetensors does not exist
    """
    if not isinstance(source, (str, os.PathLike)):
        return _module(source, None)
    name = os.fspath(source)
    if name in DEMO_MODELS:
        return _demo(name)
    path = user_path(name)
    if name and path.is_dir():
        return TransformersReference.open(path, name)
    if name and path.exists():
        return _file(path, name)
    if not allow_code:
        refuse_code(name)
    if names_code(name):
        return _factory(name)
    if name.startswith(_DEMO):
        raise ModelError(
            f"there is no demo model {name!r}{nearest(name, DEMO_MODELS)}; there are {', '.join(DEMO_MODELS)}"
        )
    if isinstance(source, os.PathLike) or not _HUB_ID.fullmatch(name) or name.endswith(".safetensors"):
        raise ModelError(f"{name or 'the empty name'} does not exist{_nearest_entry(path)}")
    return TransformersReference.open(_download(name, cache), name)


def names_code(source: str) -> bool:
    """Whether opening a model of this name would run code: ``package.module:function``, where no such file exists.

    Examples
    --------
    >>> names_code("my_models:build"), names_code("demo/bert-tiny-reviews")
    (True, False)
    """
    return _FACTORY.fullmatch(source) is not None and not user_path(source).exists()


def refuse_code(source: str) -> None:
    """Refuse a model that is code, because a recipe names it and nobody has said that this code may run.

    Raises
    ------
    ModelError
        Says what would run, and how to allow it.
    """
    if names_code(source):
        module, _, attribute = source.partition(":")
        raise ModelError(
            f"the recipe names code as a model: opening {source!r} would import the Python module {module} and call "
            f"{attribute}(). If you trust it, allow it with --allow-code (allow_code=True in Python), or name the model "
            "yourself"
        )


def _demo(name: str) -> Reference:
    import importlib.resources  # slow, and needed for the demo only

    folder = Path(str(importlib.resources.files("stackc.models.demo"))) / name.removeprefix(_DEMO)
    if not folder.is_dir():
        raise ModelError(f"the demo model {name} is missing from this installation: install stackc again")
    return TransformersReference.open(folder, name)


def _file(path: Path, name: str) -> Reference:
    try:
        require_regular(path)
    except OSError as error:
        raise ModelError(f"{name} cannot be opened: {error.strerror}") from error
    if path.suffix != ".safetensors":
        raise ModelError(f"{name} {advice(path)}")
    return SafetensorsReference.open(path, name)


def _nearest_entry(path: Path) -> str:
    parent = path.parent
    try:
        entries = {entry.name: str(parent / entry.name) for entry in parent.iterdir()}
    except OSError:
        return ""
    return nearest(path.name, entries)


def _download(name: str, cache: Path | None) -> Path:
    try:
        import huggingface_hub
        from huggingface_hub.utils import HfHubHTTPError, HFValidationError
    except ImportError as error:
        raise DependencyError(
            "downloading a model needs the package huggingface_hub: pip install huggingface_hub"
        ) from error
    try:
        if cache is None:
            require_download_folder()
        return Path(huggingface_hub.snapshot_download(name, cache_dir=cache, allow_patterns=list(_HUB_FILES)))
    except (OSError, HFValidationError, *HfHubHTTPError.__bases__) as error:
        # The base is the HTTP error of whichever client this release of huggingface_hub speaks through.
        local = nearest(name, [*DEMO_MODELS, *(entry.name for entry in _entries(Path()))])
        reason = str(error).strip().partition("\n")[0].rstrip(". ")
        raise ModelError(
            f"{name!r} is no local folder and cannot be had from the Hugging Face hub ({type(error).__name__}: {reason})"
            f"{local}; give the path of a folder with config.json and model.safetensors instead"
        ) from error


def _entries(folder: Path) -> Iterable[Path]:
    try:
        return list(folder.iterdir())
    except OSError:
        return ()


def _factory(name: str) -> Reference:
    module_name, _, attribute = name.partition(":")
    # What a user's module prints must not end up in the middle of a report on standard output.
    with _running_code, contained(), _working_folder_importable(), contextlib.redirect_stdout(sys.stderr):
        try:
            module = importlib.import_module(module_name)
        except (Exception, SystemExit) as error:  # an imported file may fail in any way
            raise ModelError(f"the module of {name!r} does not import: {type(error).__name__}: {error}") from error
        try:
            factory = operator.attrgetter(attribute)(module)
        except AttributeError as error:
            near = nearest(attribute, [public for public in vars(module) if not public.startswith("_")])
            raise ModelError(f"{module_name} has no {attribute!r}{near}") from error
        if not callable(factory):
            raise ModelError(
                f"{name!r} is a {type(factory).__name__}: give a function without arguments that returns the model"
            )
        if isinstance(factory, torch.nn.Module):
            return _module(factory, name)
        try:
            made = factory()
        except StackcError:
            raise
        except (Exception, SystemExit) as error:
            raise ModelError(f"{name!r} failed: {type(error).__name__}: {error}") from error
    return _module(made, name)


def _module(value: object, name: str | None) -> Reference:
    if not isinstance(value, torch.nn.Module):
        where = f"{name!r} returned" if name else "the model is"
        raise ModelError(f"{where} a {type(value).__name__} instead of a torch.nn.Module")
    return ModuleReference.of(value, name)


@contextlib.contextmanager
def _working_folder_importable() -> Iterator[None]:
    # A console script does not see the modules beside the recipe. Last in line, so that none of them hides an installed one.
    folder = os.getcwd()
    added = folder not in sys.path and "" not in sys.path
    if added:
        sys.path.append(folder)
    try:
        yield
    finally:
        if added and folder in sys.path:
            sys.path.remove(folder)
