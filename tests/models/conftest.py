"""Folders that the tests of references share: written once, never changed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from stackc.models.building import quiet_transformers
from tests.helpers.tiny import tiny_classifier

os.environ.setdefault("HF_HUB_OFFLINE", "1")


@pytest.fixture(scope="session")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT classifier with its tokenizer."""
    with quiet_transformers():
        return tiny_classifier(tmp_path_factory.mktemp("models") / "classifier")


@pytest.fixture(scope="session")
def tied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BART classifier, whose embeddings are tied."""
    with quiet_transformers():
        return tiny_classifier(tmp_path_factory.mktemp("models") / "tied", tied=True)


@pytest.fixture(scope="session")
def masked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT language model whose decoder is tied to its word embeddings; no tokenizer."""
    folder = tmp_path_factory.mktemp("models") / "masked"
    with quiet_transformers():
        import torch
        from transformers import BertConfig, BertForMaskedLM

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            config = BertConfig(
                vocab_size=40,
                hidden_size=8,
                num_hidden_layers=1,
                num_attention_heads=2,
                intermediate_size=16,
                max_position_embeddings=16,
            )
            BertForMaskedLM(config).save_pretrained(folder)
    return folder
