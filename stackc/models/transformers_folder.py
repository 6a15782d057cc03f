"""A Hugging Face folder as a reference: config.json, safetensors weights (sharded or not) and tokenizer files."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import msgspec

from stackc.models.building import build_transformers, refuse_quantised
from stackc.models.companions import GENERATION
from stackc.models.folder_files import adapter_base, folder_files
from stackc.models.foreign import advice, foreign_weights
from stackc.models.reference import Kind, Reference, distinct, listing, require_known
from stackc.models.safetensors_file import StoredTensor, read_chunks, read_header, read_tensor
from stackc.models.stored_ties import stored_ties
from stackc.models.tokenizers import load_tokenizer, tokenizer_files
from stackc.util.errors import ModelError
from stackc.util.paths import require_regular

if TYPE_CHECKING:
    from torch import Tensor, nn

_CONFIG = "config.json"
_WEIGHTS = "model.safetensors"
_INDEX = "model.safetensors.index.json"
_PICKLES = ("pytorch_model.bin", "pytorch_model.bin.index.json")


class _Index(msgspec.Struct):
    weight_map: dict[str, str]


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class TransformersReference(Reference):
    """A model folder that `transformers.PreTrainedModel.from_pretrained` opens."""

    kind: ClassVar[Kind] = "transformers"

    folder: Path
    stored: Mapping[str, tuple[Path, StoredTensor]] = dataclasses.field(repr=False)

    @classmethod
    def open(cls, folder: Path, source: str) -> TransformersReference:
        """Read the config and the headers of the weight files; no weight is read.

        Raises
        ------
        ModelError
            If the folder has no config or no safetensors weights, a file is damaged, or the model is quantised already.
        """
        config = read_config(folder)
        refuse_quantised(config, source)
        stored = _stored(folder)
        beside = folder_files(folder, config)
        specs = {name: tensor.spec for name, (_, tensor) in stored.items()}
        ties, apart = stored_ties(specs, config, lambda name: read_chunks(*stored[name]))
        return cls(
            source=source,
            specs={name: spec for name, spec in specs.items() if name not in ties},
            ties=ties,
            config=config,
            tokenizer_files=tokenizer_files(folder),
            companions=dict(beside.kept),
            left_behind=(*beside.left_behind,),
            notes=(*(_apart(source, other) for source, other in apart), *beside.notes),
            folder=folder,
            stored=stored,
        )

    def tensor(self, name: str) -> Tensor:
        """Read one tensor; see `Reference.tensor`."""
        require_known(name, self)
        path, stored = self.stored[name]
        return read_tensor(path, name, stored.spec)

    def chunks(self, name: str) -> Iterator[bytes]:
        """Bytes of one tensor; see `Reference.chunks`."""
        require_known(name, self)
        return read_chunks(*self.stored[name])

    def build(self, state: Mapping[str, Tensor] | None = None) -> nn.Module:
        """Build the architecture of the config with these weights; see `Reference.build`."""
        if self.config is None:
            raise ModelError(f"{self.source} has no config")
        weights = (
            {name: self.tensor(name) for name in self.specs}
            if state is None
            else {name: tensor.detach().clone() for name, tensor in distinct(state, self).items()}
        )
        return build_transformers(self.config, weights, self.companion_contents().get(GENERATION))

    def tokenizer(self) -> Any | None:
        """The tokenizer in the folder, or None."""
        return load_tokenizer(self.tokenizer_files, self.config)


def _apart(source: str, other: str) -> str:
    return (
        f"{other} and {source} are one tensor by the config, but differ in the file: both are stored, as transformers 5 "
        f"uses both. Earlier releases use {source} alone; remove {other} from the weights if that is meant, else say "
        '"tie_word_embeddings": false in config.json'
    )


def read_config(folder: Path) -> dict[str, Any]:
    """Content of a folder's ``config.json``.

    Raises
    ------
    ModelError
        If there is none or it is not a JSON object.
    """
    path = folder / _CONFIG
    try:
        require_regular(path)
        config: dict[str, Any] = msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
    except FileNotFoundError as error:
        base = adapter_base(folder)
        if base is not None:
            raise ModelError(
                f"{folder} holds an adapter of {base}, not a model: merge it with merge_and_unload() of peft, write the result "
                "with save_pretrained(), and give that folder"
            ) from error
        foreign = foreign_weights(entry.name for entry in folder.iterdir()) if folder.is_dir() else None
        if (folder / _WEIGHTS).is_file():
            remedy = f"give the file {folder / _WEIGHTS} itself to measure sizes and weight errors only"
        elif foreign is not None:
            remedy = f"{foreign} {advice(folder / foreign)}"
        else:
            remedy = "give a folder that save_pretrained() wrote"
        raise ModelError(f"{folder} is not a Hugging Face model folder, it has no {_CONFIG}: {remedy}") from error
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror or error}") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ModelError(f"{path} is not a JSON object: {error}") from error
    return config


def _stored(folder: Path) -> dict[str, tuple[Path, StoredTensor]]:
    # from_pretrained prefers the single file as well, where a folder has both.
    if (folder / _WEIGHTS).is_file():
        path = folder / _WEIGHTS
        return {name: (path, tensor) for name, tensor in read_header(path).items()}
    if (folder / _INDEX).is_file():
        return _sharded(folder)
    if any((folder / name).is_file() for name in _PICKLES):
        raise ModelError(
            f"{folder} has its weights in pytorch_model.bin only, a pickle, which stackc does not open: convert it once with "
            "model = AutoModel.from_pretrained(folder) of your architecture and model.save_pretrained(new_folder, "
            "safe_serialization=True)"
        )
    foreign = foreign_weights(entry.name for entry in folder.iterdir())
    if foreign is not None:
        raise ModelError(f"{folder} has neither {_WEIGHTS} nor {_INDEX}; {foreign} {advice(folder / foreign)}")
    raise ModelError(f"{folder} has neither {_WEIGHTS} nor {_INDEX}: write it with model.save_pretrained(folder)")


def _sharded(folder: Path) -> dict[str, tuple[Path, StoredTensor]]:
    path = folder / _INDEX
    try:
        weight_map = msgspec.json.decode(path.read_bytes(), type=_Index).weight_map
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror or error}") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ModelError(f"{path} is damaged: {error}") from error
    stored: dict[str, tuple[Path, StoredTensor]] = {}
    for shard in sorted(set(weight_map.values())):
        if not shard.endswith(".safetensors") or "/" in shard or "\\" in shard:
            raise ModelError(f"{path} is damaged: {shard!r} is not the name of a safetensors file in that folder")
        for name, tensor in read_header(folder / shard).items():
            if name in stored:
                raise ModelError(f"{name!r} is in two files of {folder}: {stored[name][0].name} and {shard}")
            stored[name] = (folder / shard, tensor)
    misplaced = [name for name, shard in weight_map.items() if name not in stored or stored[name][0].name != shard]
    if misplaced:
        raise ModelError(f"{path} does not match its files: {listing(misplaced)} is not where it says")
    return stored
