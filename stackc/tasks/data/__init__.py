"""Texts with and without labels from files, from the demo and from Hugging Face data sets: one `Table` whatever the source."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence

import msgspec

from stackc.tasks.data.demo import DEMO, DEMO_TEXTS, check_demo, read_demo
from stackc.tasks.data.files import SUFFIXES, check_file, read_file
from stackc.tasks.data.hub import check_hub, read_hub
from stackc.tasks.data.table import LABEL_COLUMNS, TEXT_COLUMNS, Label, Table, choose_column
from stackc.tasks.data.texts import TEXT_SUFFIXES, check_texts, normal_form, read_texts
from stackc.util.paths import user_path

__all__ = [
    "DEMO",
    "DEMO_TEXTS",
    "LABEL_COLUMNS",
    "SUFFIXES",
    "TEXT_COLUMNS",
    "TEXT_SUFFIXES",
    "Label",
    "Table",
    "check_demo",
    "check_file",
    "check_hub",
    "check_texts",
    "choose_column",
    "fingerprint",
    "kind_of",
    "normal_form",
    "read_demo",
    "read_file",
    "read_hub",
    "read_texts",
]

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")


def kind_of(data: str) -> str:
    """``demo``, ``file`` or ``hub``: what a name of data stands for.

    Examples
    --------
    >>> kind_of("demo/movie-reviews"), kind_of("data/dev.tsv"), kind_of("stanfordnlp/sst2")
    ('demo', 'file', 'hub')
    """
    if data.startswith("demo/"):
        return "demo"
    path = user_path(data)
    return "file" if path.suffix.lower() in SUFFIXES or path.exists() or not _HUB_ID.fullmatch(data) else "hub"


def fingerprint(texts: Sequence[str], labels: Sequence[Label]) -> str:
    """sha256 of texts and labels in their order, so that two reports can be seen to speak of the same rows.

    Examples
    --------
    >>> fingerprint(["a fine film"], [Label.of("1")])[:16]
    '5c3e377f028a6f24'
    """
    digest = hashlib.sha256()
    for text, label in zip(texts, labels, strict=True):
        digest.update(msgspec.json.encode((text, label.key)) + b"\n")
    return digest.hexdigest()
