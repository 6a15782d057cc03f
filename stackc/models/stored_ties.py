"""Ties that a model folder stores more than once: one tensor under each of its names."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import zip_longest
from typing import Any

from stackc.core.spec import PlaneSpec
from stackc.util.errors import ModelError

#: Tensors that architectures tie: input and output embeddings, and biases of output layers. Only for names like these, if
#: two of them have the same shape, is transformers imported and asked; that takes seconds.
_HEAD = re.compile(
    r"(^|[._])(\w*head|lm_loss|lm_head\.\w+|output|proj_out|output_projection|unembedding_projection|vocab_projector|embed_out|"
    r"pred_layer\.proj|encoder\.out|decoder|predictions)\.(weight|bias)$"
)
_EMBEDDING = re.compile(r"(^|[._])(\w*embed\w*(\.proj)?|shared|wte|w)(\.weight|\.bias)?$")


def stored_ties(
    specs: Mapping[str, PlaneSpec], config: Mapping[str, Any], chunks: Callable[[str], Iterator[bytes]]
) -> tuple[dict[str, str], list[tuple[str, str]]]:
    """Names of a weight file that stand for one tensor of the model.

    Parameters
    ----------
    specs : mapping of str to PlaneSpec
        The stored tensors.
    config : mapping
        Content of ``config.json``.
    chunks : callable
        Gives the bytes of a tensor by its name, in pieces; read only for tensors that the model ties.

    Returns
    -------
    ties : dict of str to str
        Names whose bytes are those of another name, which the model ties them to.
    apart : list of (str, str)
        Names that the model ties, and whose bytes or dtypes differ: the source, and the other.
    """
    ties: dict[str, str] = {}
    apart: list[tuple[str, str]] = []
    for names in _groups(specs, config):
        source, *others = names
        for other in others:
            if specs[source] == specs[other] and _equal(chunks(source), chunks(other)):
                ties[other] = source
            else:
                apart.append((source, other))
    return ties, apart


def _groups(specs: Mapping[str, PlaneSpec], config: Mapping[str, Any]) -> Iterator[list[str]]:
    """Stored names that the model ties and that have one shape, that of the source first."""
    by_shape: dict[tuple[int, ...], list[str]] = {}
    for name in _suspects(specs, untied=config.get("tie_word_embeddings") is False):
        by_shape.setdefault(specs[name].shape, []).append(name)
    if all(len(names) < 2 for names in by_shape.values()):
        return
    from stackc.models.building import tied_names  # imports transformers

    try:
        tied = tied_names(config)
    except ModelError:  # of code in a folder, or damaged: building it says so, and says more
        return
    for names in by_shape.values():
        for group in tied:
            found = dict.fromkeys(stored for name in group if (stored := _stored(name, names)) is not None)
            if len(found) > 1:
                yield list(found)


def _suspects(names: Iterable[str], *, untied: bool) -> list[str]:
    # A config that says that word embeddings are not tied to the head may still share them between encoder and decoder.
    return [name for name in names if _EMBEDDING.search(name) or (not untied and _HEAD.search(name))]


def _stored(name: str, stored: Sequence[str]) -> str | None:
    """The stored name of a parameter: the same, or the only one with the same end where transformers has renamed modules."""
    if name in stored:
        return name
    end = _end(name)
    same = [other for other in stored if _end(other) == end]
    return same[0] if len(same) == 1 else None


def _end(name: str) -> list[str]:
    return name.split(".")[-2:]


def _equal(one: Iterator[bytes], other: Iterator[bytes]) -> bool:
    # Of tensors of one spec the pieces are of one size.
    return all(a == b for a, b in zip_longest(one, other))
