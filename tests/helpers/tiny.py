"""Tiny models and data with the file layout of real ones, built in milliseconds from a fixed seed."""

from __future__ import annotations

import csv
import random
from pathlib import Path

_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_SUBJECTS = ("film", "story", "acting", "script", "music", "plot", "movie", "cast", "camera", "ending")
_GOOD = ("charming", "funny", "moving", "clever", "warm", "brilliant", "gripping", "fresh", "lovely", "great")
_BAD = ("boring", "bleak", "clumsy", "dull", "tedious", "stale", "awful", "messy", "slow", "poor")
_GLUE = ("the", "is", "a", "and", "but", "very", "quite", "rather", "often", "never", "this", "it", "with", "of", "in")
_PIECES = ("##s", "##ly", "##ing", "##er", "un", "re", "view", "watch", ".", ",", "!", "?")

#: Row of the word embeddings by token: 62 in all.
VOCABULARY = {token: row for row, token in enumerate((*_SPECIAL, *_SUBJECTS, *_GOOD, *_BAD, *_GLUE, *_PIECES))}


def tiny_classifier(folder: Path, *, tied: bool = False, seed: int = 4) -> Path:
    """Write a randomly initialised two-class text classifier as a Hugging Face folder.

    Parameters
    ----------
    folder : Path
        Made if missing.
    tied : bool
        False: BertForSequenceClassification, hidden size 16, 2 layers, no tensor shared. True:
        BartForSequenceClassification, hidden size 16, whose ``model.shared``, ``model.encoder.embed_tokens`` and
        ``model.decoder.embed_tokens`` are one tensor (BERT classifiers have no tie).
    seed : int
        Of the weights; with the default both kinds of model predict each class for at least a third of `tiny_reviews`.

    Returns
    -------
    Path
        ``folder``, with config.json, model.safetensors, tokenizer.json and tokenizer_config.json.
    """
    import torch
    from transformers import BartConfig, BartForSequenceClassification, BertConfig, BertForSequenceClassification

    labels = {"id2label": {0: "negative", 1: "positive"}, "label2id": {"negative": 0, "positive": 1}}
    pad, start, end = (VOCABULARY[token] for token in ("[PAD]", "[CLS]", "[SEP]"))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: torch.nn.Module
        # A wide initialisation, so that predictions differ between rows and a rounded weight can flip one.
        if tied:
            model = BartForSequenceClassification(
                BartConfig(
                    vocab_size=len(VOCABULARY),
                    d_model=16,
                    encoder_layers=1,
                    decoder_layers=1,
                    encoder_attention_heads=2,
                    decoder_attention_heads=2,
                    encoder_ffn_dim=32,
                    decoder_ffn_dim=32,
                    max_position_embeddings=64,
                    init_std=0.5,
                    pad_token_id=pad,
                    bos_token_id=start,
                    eos_token_id=end,
                    decoder_start_token_id=end,
                    forced_eos_token_id=None,
                    **labels,
                )
            )
        else:
            model = BertForSequenceClassification(
                BertConfig(
                    vocab_size=len(VOCABULARY),
                    hidden_size=16,
                    num_hidden_layers=2,
                    num_attention_heads=2,
                    intermediate_size=32,
                    max_position_embeddings=64,
                    initializer_range=0.5,
                    pad_token_id=pad,
                    **labels,
                )
            )
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    _tokenizer(token_types=not tied).save_pretrained(folder)
    return folder


def _tokenizer(token_types: bool):
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.WordPiece(VOCABULARY, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(token, VOCABULARY[token]) for token in ("[CLS]", "[SEP]")],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="[UNK]",
        pad_token="[PAD]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_max_length=64,
        model_input_names=["input_ids", *(["token_type_ids"] if token_types else []), "attention_mask"],
    )


def tiny_reviews(folder: Path) -> Path:
    """Write two-class reviews in the words of `VOCABULARY`, in the layout of GLUE's SST-2.

    Returns
    -------
    Path
        ``reviews.tsv``: 60 rows ``sentence<TAB>label`` under a header line, 32 of them positive (1). Beside it lies
        ``reviews-train.tsv``: 90 rows, none of them equal to an evaluation row.
    """
    draw = random.Random(0)  # noqa: S311
    rows: dict[str, int] = {}
    while len(rows) < 150:
        label = int(draw.random() < 0.5)
        words = ["the", draw.choice(_SUBJECTS), "is", draw.choice(("very", "quite", "rather", "often", "never"))]
        words.append(draw.choice(_GOOD if label else _BAD))
        if draw.random() < 0.5:
            words += ["and", draw.choice(_GOOD if label else _BAD), "with", "a", draw.choice(_SUBJECTS)]
        rows.setdefault(" ".join([*words, "."]), label)
    positive = [text for text, label in rows.items() if label]
    negative = [text for text, label in rows.items() if not label]
    evaluation = [text for text in rows if text in {*positive[:32], *negative[:28]}]
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder / "reviews.tsv", [(text, rows[text]) for text in evaluation])
    _write(folder / "reviews-train.tsv", [(text, label) for text, label in rows.items() if text not in evaluation])
    return folder / "reviews.tsv"


def _write(path: Path, rows: list[tuple[str, int]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, delimiter="\t", lineterminator="\n")
        writer.writerow(("sentence", "label"))
        writer.writerows(rows)
