"""What a model is fed: whether rows fit it, how they are filled up, and what a forward pass that fails says."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from stackc.util.errors import DataError, ModelError, StackcError
from stackc.util.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor, nn

#: What architectures call their table of positions, beside that of tokens.
_POSITIONS = re.compile(r"wpe|(embed_positions?|positions?_embed|pos(itional)?_emb)(ed)?(ding)?s?")


@contextlib.contextmanager
def forward_pass(model: nn.Module, rows: str, inputs: Mapping[str, Tensor], remedy: str = "") -> Iterator[None]:
    """Turn whatever a model raises in the block into one sentence.

    Parameters
    ----------
    model : torch.nn.Module
        The model that runs.
    rows : str
        What it runs on, for the message.
    inputs : mapping
        Its arguments.
    remedy : str
        What may help, for the message.

    Raises
    ------
    ModelError
        With the cause and the shapes of the inputs.

    Examples
    --------
    >>> import torch
    >>> model, ids = torch.nn.Embedding(3, 2), torch.tensor([[1, 3]])
    >>> with forward_pass(model, "the evaluation rows", {"input": ids}):
    ...     model(ids)
    Traceback (most recent call last):
        ...
    stackc.util.errors.ModelError: Embedding does not run on the evaluation rows (input 1x2): IndexError: index out of range in self
    """
    try:
        yield
    except (StackcError, MemoryError):
        raise
    except Exception as error:  # as many kinds as there are architectures
        shapes = ", ".join(f"{name} {'x'.join(map(str, value.shape))}" for name, value in inputs.items())
        raise ModelError(
            f"{type(model).__name__} does not run on {rows} ({shapes}): {type(error).__name__}: "
            f"{' '.join(str(error).split())}{remedy}"
        ) from error


def require_fit(model: nn.Module, inputs: Iterable[Mapping[str, Tensor]], rows: str) -> None:
    """Find out before the first forward pass whether a model has a position and an embedding for every token.

    Parameters
    ----------
    model : torch.nn.Module
        The model; what cannot be known of its architecture is not checked.
    inputs : iterable of mapping
        Its arguments, batch after batch; those without ``input_ids`` are not checked.
    rows : str
        What they are, for messages.

    Raises
    ------
    DataError
        If a text is too long, or a token unknown.
    """
    found = [ids for batch in inputs if (ids := batch.get("input_ids")) is not None and ids.ndim == 2 and ids.numel()]
    if found:
        require_tokens(model, max(ids.shape[1] for ids in found), max(int(ids.max()) for ids in found), rows)


def require_tokens(model: nn.Module, longest: int, largest: int, rows: str) -> None:
    """`require_fit` for the tokens of the longest row and the largest token id.

    Raises
    ------
    DataError
        If a text is too long, or a token unknown.
    """
    limit = usable_positions(model)
    if limit is not None and longest > limit:
        raise DataError(f"a text has {longest} tokens, the model {limit} positions: set 'max_length: {limit}' or less")
    table = _token_table(model)
    if table is not None and largest >= table.num_embeddings:
        raise DataError(
            f"{rows} hold the token id {largest}, and {type(model).__name__} has embeddings for {table.num_embeddings} tokens "
            "only: the tokenizer is that of another model, or got further tokens later; give the model's own tokenizer, or "
            "save the model after model.resize_token_embeddings(len(tokenizer))"
        )


def usable_positions(model: nn.Module) -> int | None:
    """The longest row of tokens that a model has positions for; None if it does not say.

    The config alone does not tell: RoBERTa and its kin never use the first rows of their table, up to the one of padding.

    Parameters
    ----------
    model : torch.nn.Module
        A transformers model, or another.
    """
    configured = getattr(getattr(model, "config", None), "max_position_embeddings", None)
    limits = [configured] if isinstance(configured, int) and configured > 0 else []
    for table in _position_tables(model):
        offset = getattr(table, "offset", None)  # of BART and OPT
        if not isinstance(offset, int):
            offset = 0 if table.padding_idx is None else table.padding_idx + 1
        limits.append(table.num_embeddings - offset)
    return min(limits, default=None)


def _token_table(model: nn.Module) -> nn.Embedding | None:
    find: Any = getattr(model, "get_input_embeddings", lambda: None)
    try:
        table = find()
    except (AttributeError, NotImplementedError):  # of a transformers model without such a table
        return None
    return table if isinstance(table, torch.nn.Embedding) else None


def _position_tables(model: nn.Module) -> Iterator[nn.Embedding]:
    """Tables of positions that stand beside a table of tokens."""
    tokens = _token_table(model)
    if tokens is None:
        return
    for parent in model.modules():
        tables = {name: child for name, child in parent.named_children() if isinstance(child, torch.nn.Embedding)}
        if any(table.weight.shape == tokens.weight.shape for table in tables.values()):
            yield from (table for name, table in tables.items() if _POSITIONS.fullmatch(name))


def padding_token(model: nn.Module, tokenizers: int | None) -> int | None:
    """The token that fills up rows of one batch; None if the model cannot tell padding from text, so that rows go alone.

    A causal model with a classification head looks for the last token that is not its config's ``pad_token_id``. What its
    tokenizer fills up with is text to it if that is another token.

    Parameters
    ----------
    model : torch.nn.Module
        The model.
    tokenizers : int or None
        The tokenizer's ``pad_token_id``, which goes for models without a config.
    """
    config: Any = getattr(model, "config", None)
    if hasattr(config, "get_text_config"):
        config = config.get_text_config()
    if not hasattr(config, "pad_token_id"):
        return tokenizers
    own = config.pad_token_id
    return own if isinstance(own, int) and own >= 0 else None


def as_fed(model: nn.Module, inputs: Mapping[str, Tensor]) -> list[Mapping[str, Tensor]]:
    """A batch as a model can be fed: filled up with its own padding token, or row by row if it has none.

    Parameters
    ----------
    model : torch.nn.Module
        The model.
    inputs : mapping
        Its arguments. Without ``input_ids`` and an ``attention_mask``, which says what is padding, they stay as they are.
    """
    ids, mask = inputs.get("input_ids"), inputs.get("attention_mask")
    if ids is None or mask is None or ids.shape != mask.shape or len(ids) == 1:
        return [inputs]
    blank = mask == 0
    filler = ids[blank]
    token = padding_token(model, int(filler[0]) if len(filler) else 0)
    if token is None:
        return list(single_rows(inputs))
    return [inputs] if bool((filler == token).all()) else [{**inputs, "input_ids": ids.masked_fill(blank, token)}]


def single_rows(inputs: Mapping[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    """The rows of a batch, each as a batch of one, without the padding around it."""
    mask = inputs.get("attention_mask")
    for row in range(len(next(iter(inputs.values())))):
        one = {name: value[row : row + 1] for name, value in inputs.items()}
        if mask is not None and mask.ndim == 2 and bool(mask[row].any()):
            places = mask[row].nonzero()
            first, last = int(places.min()), int(places.max()) + 1
            one = {
                name: value[:, first:last] if value.shape[1:2] == mask.shape[1:] else value
                for name, value in one.items()
            }
        yield one
