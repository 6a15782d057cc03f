"""`Reference`: the uncompressed model that a run starts from."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from stackc.core.fingerprint import fingerprint
from stackc.core.spec import RESERVED_NAME, PlaneSpec, total_bytes
from stackc.models.companions import LEFT_BEHIND, list_names, shapes_the_model, without_code
from stackc.util.errors import ModelError
from stackc.util.nearest import nearest

if TYPE_CHECKING:
    from torch import Tensor, nn

#: Where a reference comes from: a Hugging Face folder, a bare weights file, or a module in memory.
Kind = Literal["transformers", "safetensors", "module"]


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Reference(abc.ABC):
    """An uncompressed model: what is known before any weight is read, and how to read and build it.

    Attributes
    ----------
    source : str
        The model as the user named it.
    specs : dict of str to PlaneSpec
        One entry per distinct tensor of the state dict, buffers included, in stored order and under its first name.
    ties : dict of str to str
        Other names of tensors that share storage, each with the first name. Most Hugging Face files store a tie once and
        their config restores it; then it is not among these.
    config : dict, optional
        Content of the Hugging Face ``config.json``; None where transformers cannot build the model.
    tokenizer_files : dict of str to Path
        The files that the tokenizer needs, by name.
    companions : dict of str to Path or bytes
        Small files that shape what the model does and are stored with it, by name: where they are, or their content.
    left_behind : tuple of str
        Names of the folder's files that are neither weights, tokenizer nor companions.
    notes : tuple of str
        What a user should know of this model before using a result, in sentences.
    """

    kind: ClassVar[Kind]

    source: str
    specs: dict[str, PlaneSpec]
    ties: dict[str, str] = dataclasses.field(default_factory=dict)
    config: dict[str, Any] | None = None
    tokenizer_files: dict[str, Path] = dataclasses.field(default_factory=dict)
    companions: dict[str, Path | bytes] = dataclasses.field(default_factory=dict)
    left_behind: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if RESERVED_NAME in self.specs or RESERVED_NAME in self.ties:
            raise ModelError(
                f"a tensor of {self.source} is called {RESERVED_NAME}, which no safetensors file can hold, so that it could "
                "not be decoded to one; rename it"
            )

    @abc.abstractmethod
    def tensor(self, name: str) -> Tensor:
        """Read one tensor: a contiguous copy in main memory. Several threads may call it at once.

        Raises
        ------
        ModelError
            If there is no such tensor or it can no longer be read.
        """

    @abc.abstractmethod
    def build(self, state: Mapping[str, Tensor] | None = None) -> nn.Module:
        """The model in evaluation mode, sharing no memory with ``state``.

        Parameters
        ----------
        state : mapping of str to Tensor, optional
            A tensor for every name in `specs`; the reference's own weights without it. Other names of tied tensors may
            be given and are ignored.

        Raises
        ------
        ModelError
            If the reference has no architecture, or the tensors do not fit it.
        """

    @abc.abstractmethod
    def tokenizer(self) -> Any | None:
        """The tokenizer of the model, or None if it has none."""

    @abc.abstractmethod
    def chunks(self, name: str) -> Iterator[bytes | memoryview]:
        """Bytes of one tensor, little-endian in C order, in pieces of bounded size that hold whole elements."""

    def tokenizer_contents(self) -> dict[str, bytes]:
        """What `tokenizer_files` hold, by name, without references to code.

        Raises
        ------
        ModelError
            If one of them cannot be read.
        """
        return _contents(self.tokenizer_files)

    def companion_contents(self) -> dict[str, bytes]:
        """What is stored with the model by default, by name: `companions`, and the names of what is missed without them.

        Raises
        ------
        ModelError
            If one of the files cannot be read.
        """
        missed = [name for name in self.left_behind if shapes_the_model(name)]
        return _contents(self.companions) | ({LEFT_BEHIND: list_names(missed)} if missed else {})

    @property
    def nbytes(self) -> int:
        """Bytes of the state dict in its own dtypes, tied tensors counted once."""
        return total_bytes(self.specs.values())

    @property
    def parameters(self) -> int:
        """Numbers in the state dict, buffers included, tied tensors counted once."""
        return sum(spec.numel for spec in self.specs.values())

    def fingerprint(self) -> str:
        """SHA-256 of the names, specs, ties and weights, in hexadecimal; reads every weight, one piece at a time.

        Two references have the same fingerprint only if they hold the same weights under the same names; the config
        does not enter.
        """
        return fingerprint(((name, spec, self.chunks(name)) for name, spec in self.specs.items()), self.ties)

    def __repr__(self) -> str:
        return f"<{self.kind} reference {self.source}: {len(self.specs)} tensors, {self.nbytes} bytes>"


def _contents(files: Mapping[str, Path | bytes]) -> dict[str, bytes]:
    try:
        return {
            name: without_code(name, file if isinstance(file, bytes) else file.read_bytes())
            for name, file in files.items()
        }
    except OSError as error:
        raise ModelError(f"{error.filename} cannot be read: {error.strerror}") from error


def require_known(name: str, reference: Reference) -> None:
    """Refuse a tensor name that a reference does not have.

    Raises
    ------
    ModelError
        With the nearest name.
    """
    if name not in reference.specs:
        raise ModelError(f"{reference.source} has no tensor {name!r}{nearest(name, reference.specs)}")


def distinct(state: Mapping[str, Tensor], reference: Reference) -> dict[str, Tensor]:
    """The tensors of a state that a reference stores, in its order; other names of ties are left out.

    Raises
    ------
    ModelError
        If a tensor is missing, unknown or of another shape.
    """
    unknown = [name for name in state if name not in reference.specs and name not in reference.ties]
    if unknown:
        raise ModelError(f"{reference.source} has no tensor {listing(unknown)}{nearest(unknown[0], reference.specs)}")
    missing = [name for name in reference.specs if name not in state]
    if missing:
        raise ModelError(f"the weights given for {reference.source} lack {listing(missing)}")
    chosen = {name: state[name] for name in reference.specs}
    for name, tensor in chosen.items():
        expected = reference.specs[name].shape
        if tuple(tensor.shape) != expected:
            raise ModelError(f"{name} of {reference.source} has shape {expected}, but {tuple(tensor.shape)} was given")
    return chosen


def listing(names: list[str], limit: int = 5) -> str:
    """Names for an error message, shortened.

    Examples
    --------
    >>> listing(["a", "b", "c"], limit=2)
    "'a', 'b' and 1 more"
    """
    shown = ", ".join(map(repr, names[:limit]))
    return f"{shown} and {len(names) - limit} more" if len(names) > limit else shown
