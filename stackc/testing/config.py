"""What transforms and packers have in common: their configuration is a frozen value with a wire form."""

from __future__ import annotations

from typing import Any

import msgspec

from stackc.core.packer import Packer
from stackc.core.transform import Transform
from stackc.testing.check import require, said


def check_config(stage: Transform | Packer) -> None:
    """Require that the configuration survives the way through a recipe lock or a manifest.

    Raises
    ------
    AssertionError
        If the stage has no proper name and version, is not equal to its copy, has another hash or repr than its copy,
        takes unknown fields, or can be changed.
    """
    kind = type(stage)
    require(
        isinstance(getattr(kind, "name", None), str) and kind.name.replace("-", "_").isidentifier(),
        f"{kind.__name__}.name must be an identifier (hyphens allowed), it is {getattr(kind, 'name', None)!r}",
    )
    version = getattr(kind, "version", None)
    require(
        type(version) is int and version >= 1, f"{kind.__name__}.version must be an integer from 1, it is {version!r}"
    )
    config = _with_lists(msgspec.to_builtins(stage))
    wired = msgspec.json.decode(msgspec.json.encode(config))
    require(wired == config, f"the configuration {config} of {kind.__name__} changes when written as JSON, to {wired}")
    copy = msgspec.convert(wired, kind)
    require(copy == stage, f"{stage!r} comes back from its configuration {config} as {copy!r}")
    require(repr(copy) == repr(stage), f"{stage!r} and its equal copy print differently, as {copy!r}")
    try:
        require(hash(copy) == hash(stage), f"{stage!r} and its equal copy have different hashes")
    except TypeError as error:
        raise AssertionError(f"{stage!r} cannot be a cache key, because a field is mutable: {error}") from error
    try:
        msgspec.convert({**wired, "no_such_field": 1}, kind)
    except msgspec.ValidationError:
        pass
    else:
        raise AssertionError(
            f"{kind.__name__} takes an unknown field without an error; keep forbid_unknown_fields=True"
        )
    for field in msgspec.structs.fields(kind):
        try:
            setattr(copy, field.name, getattr(copy, field.name))
        except AttributeError:
            continue
        except Exception as error:
            raise AssertionError(f"setting {kind.__name__}.{field.name} raises {said(error)}") from error
        raise AssertionError(f"{kind.__name__}.{field.name} can be set; declare the class with frozen=True")


def _with_lists(value: Any) -> Any:
    """Plain data with lists for tuples, which JSON does not tell apart."""
    if isinstance(value, dict):
        return {key: _with_lists(item) for key, item in value.items()}
    return [_with_lists(item) for item in value] if isinstance(value, (list, tuple)) else value
