"""What of a program is kept on disk, under keys that say what it was made from; see `stackc.util.memo`."""

from __future__ import annotations

import hashlib
import io
import sys
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from stackc.core.packer import Packer
from stackc.core.registry import find_format
from stackc.core.transform import Transform
from stackc.planning.program import Program, Session
from stackc.planning.trained import Hardened
from stackc.recipe.lock import versions
from stackc.tasks.row_weights import fingerprint
from stackc.util.lazy import torch
from stackc.util.memo import code_fingerprint, key_of

if TYPE_CHECKING:
    from torch import Tensor

    from stackc.core.training import TrainingStage

#: A stage by name, version and fields: what msgspec makes of it and what `find_format` finds again.
Named = tuple[str, int, dict[str, Any]]


def session_key(session: Session, calibration: str) -> str:
    """What results of a session depend on beside the program: code, model, bases, row weights, and the data of
    ``calibration``.
    """
    reference = session.reference
    companions = {name: hashlib.sha256(content).hexdigest() for name, content in session.files.items()}
    weights = [None if weights is None else fingerprint(weights) for weights in session.weights]
    bases = {name: base.fingerprint for name, base in session.bases.items()}
    model = (session.fingerprint, reference.kind, reference.config, companions)
    return key_of(code_key(), *model, weights, calibration, bases)


def code_key() -> str:
    """The code of stackc and its stages, and the versions of what it computes with."""
    folders = (Path(str(files("stackc"))), Path(str(files("stackc.transforms"))))
    return key_of(code_fingerprint(*folders), versions())


def prefix_key(program: Program, session: Session, stages: int) -> str:
    """The first stages of a program with everything that is chosen for them, and the trainings among them.

    Empty for a session that keeps nothing.
    """
    if not session.memo.active:
        return ""
    recipe = program.recipe
    settings = [
        [named(stage.config), _plugin(stage.config), stage.on, stage.allow_empty, stage.weights]
        for stage in recipe.stages[:stages]
    ]
    choices = {
        str(stage): {plane: named(config) for plane, config in chosen.items()}
        for stage, chosen in program.choices.items()
        if stage < stages
    }
    trained = {str(stage): key for stage, key in session.trainings.items() if stage < stages}
    return key_of(session.key, settings, recipe.seed, choices, trained)


def _plugin(config: Transform | Packer | TrainingStage) -> str:
    """The code of a stage that does not come with stackc."""
    module = sys.modules[type(config).__module__]
    if module.__name__.startswith("stackc.") or not module.__file__:
        return ""
    return hashlib.sha256(Path(module.__file__).read_bytes()).hexdigest()


def named(config: Transform | Packer | TrainingStage) -> Named:
    """A stage as plain data."""
    return config.name, config.version, msgspec.to_builtins(config)


def unnamed(content: Named) -> Any:
    """Inverse of `named`."""
    name, version, fields = content
    return msgspec.convert(fields, find_format(name, version))


def choices_bytes(choices: Mapping[str, Transform | Packer], shared: Mapping[str, Tensor]) -> bytes:
    """The choices of one stage, and the planes that it found its groups to have in common."""
    content = {plane: named(config) for plane, config in choices.items()}
    return _saved({"choices": msgspec.json.encode(content), "shared": dict(shared)})


def read_choices(data: bytes) -> tuple[dict[str, Transform | Packer], dict[str, Tensor]]:
    """Inverse of `choices_bytes`."""
    saved = _loaded(data)
    content = msgspec.json.decode(saved["choices"], type=dict[str, Named])
    return {plane: unnamed(fields) for plane, fields in content.items()}, saved["shared"]


def hardened_bytes(tensors: Mapping[str, Hardened], summary: msgspec.Struct) -> bytes:
    """What a training left, and how it went."""
    return _saved(
        {
            "summary": msgspec.json.encode(summary),
            "tensors": {
                name: {
                    "transforms": msgspec.json.encode({path: named(t) for path, t in hardened.transforms.items()}),
                    "planes": hardened.planes,
                    "inputs": hardened.inputs,
                }
                for name, hardened in tensors.items()
            },
        }
    )


def read_hardened(data: bytes) -> tuple[dict[str, Hardened], bytes]:
    """Inverse of `hardened_bytes`; the summary as JSON."""
    saved = _loaded(data)
    tensors = {}
    for name, parts in saved["tensors"].items():
        transforms = msgspec.json.decode(parts["transforms"], type=dict[str, Named])
        tensors[name] = Hardened(
            {path: unnamed(content) for path, content in transforms.items()}, parts["planes"], parts["inputs"]
        )
    return tensors, saved["summary"]


def _saved(content: dict[str, Any]) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def _loaded(data: bytes) -> dict[str, Any]:
    content: dict[str, Any] = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    return content
