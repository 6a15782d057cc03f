"""`TextClassification`: where labelled texts come from and how a model is fed them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from msgspec import Meta

from stackc.tasks import data as sources
from stackc.tasks.calibration import spread
from stackc.tasks.classification import Batch, ClassificationEvaluation, require_head
from stackc.tasks.labels import class_numbers
from stackc.tasks.phrases import whole_texts
from stackc.tasks.task import Task
from stackc.util.errors import DataError
from stackc.util.lazy import torch
from stackc.util.paths import user_path

if TYPE_CHECKING:
    from torch import Tensor, nn

_DEFAULT_SPLIT = "test"


class TextClassification(Task, frozen=True):
    """Classify texts; the metric is accuracy.

    Parameters
    ----------
    data : str
        A .csv, .tsv, .json, .jsonl or .parquet file, ``demo/movie-reviews``, or the name of a Hugging Face data set.
    split : str
        Split to evaluate, of the demo or of a Hugging Face data set. A file is one split.
    subset : str, optional
        Configuration of a Hugging Face data set, such as ``sst2`` of ``nyu-mll/glue``.
    train : str, optional
        Training texts for statistics and healing: a split of the same data, or a file. The demo's default is ``train``.
    text, label : str, optional
        Names of the columns; guessed if there is one with a usual name (sentence, text, review; label, labels, target).
        Labels are class names that the model's config knows, or class numbers.
    labels : names, numbers or mapping, optional
        How labels are to be read, or what each of them means: a class number, or the name of a class of the model. Needed
        where a label is the name of one class and the number of another, or unknown to the model.
    max_length : int
        Tokens of a text that the model sees, special tokens included.
    batch_size : int
        Texts per forward pass. On a CPU larger batches are slower: more padding, and activations outgrow the caches.
    limit : int, optional
        Evaluate the first rows only; the report says so.

    Examples
    --------
    >>> TextClassification(data="dev.tsv", limit=100).max_length
    64
    """

    name: ClassVar[str] = "text-classification"

    data: str
    split: str = _DEFAULT_SPLIT
    subset: str | None = None
    train: str | None = None
    text: str | None = None
    label: str | None = None
    labels: Literal["names", "numbers"] | dict[str, int | str] | None = None
    max_length: Annotated[int, Meta(ge=1)] = 64
    batch_size: Annotated[int, Meta(ge=1)] = 32
    limit: Annotated[int, Meta(ge=1)] | None = None

    def check(self) -> None:
        """Find out cheaply whether the data can be there.

        Raises
        ------
        DataError
            If a file, column, demo split or package is missing, or a key does not go with this kind of data.
        DependencyError
            If reading needs a package that is not installed.
        """
        kind = sources.kind_of(self.data)
        if kind != "hub" and self.subset is not None:
            raise DataError(f"'subset: {self.subset}' is for Hugging Face data sets; {self.data} has no subsets")
        if kind == "file":
            if self.split != _DEFAULT_SPLIT:
                raise DataError(
                    f"'split: {self.split}' does not go with the file {self.data}: name the file of that split"
                )
            sources.check_file(self.data, {"text": self.text, "label": self.label})
        elif kind == "demo":
            sources.check_demo(self.data, self.split)
        else:
            sources.check_hub(self.data)
        if self._training is not None:
            self._check_training(kind, self._training)

    def _check_training(self, kind: str, train: str) -> None:
        if self._is_file(train):
            sources.check_file(train, {"text": self.text})
            same = kind == "file" and user_path(train).resolve() == user_path(self.data).resolve()
        elif kind == "file":
            raise DataError(
                f"'train: {train}' is not a file, and {self.data} has no splits: name a file of training texts"
            )
        else:
            if kind == "demo":
                sources.check_demo(self.data, train)
            same = train == self.split
        if same:
            raise DataError(f"'train: {train}' is the evaluated split itself; training texts must be others")

    def _is_file(self, train: str) -> bool:
        """Whether the training texts are a file rather than a split; a folder called ``train`` hides no split."""
        path = user_path(train)
        return path.suffix.lower() in sources.SUFFIXES or (sources.kind_of(self.data) == "file" and path.exists())

    @property
    def _training(self) -> str | None:
        """Split or file of the training texts; the demo's default gives way when that split is the evaluated one."""
        if self.train is None and sources.kind_of(self.data) == "demo" and self.split != "train":
            return "train"
        return self.train

    def check_model(self, model: nn.Module) -> None:
        """Refuse models of transformers that have no sequence-classification head.

        Raises
        ------
        ModelError
            If it has another head, or none.
        """
        require_head(model)

    def prepare(self, tokenizer: Any, config: Any) -> ClassificationEvaluation:
        """Read, check and tokenise the evaluation split.

        Parameters
        ----------
        tokenizer : transformers.PreTrainedTokenizerBase
            The reference's tokenizer.
        config : transformers.PretrainedConfig or None
            The reference's module config: ``num_labels``, ``id2label``, ``label2id``.

        Raises
        ------
        DataError
            If the data are missing or malformed, hold one class only, or do not fit the model's classes.
        """
        self._need(tokenizer)
        self.check()
        table = self._table(self.split)
        texts, raw = table.texts(self.text)[: self.limit], table.labels(self.label)
        # How labels are read depends on which there are, so all of them are looked at.
        labels = class_numbers(raw, table.place, config, self.labels)[: self.limit]
        raw = raw[: self.limit]
        if len(set(labels)) < 2:
            cause = f"the first {self.limit} rows of " if self.limit is not None else ""
            raise DataError(
                f"all labels of {cause}{table.source} are {raw[0].key!r}; accuracy means nothing with one class only"
            )
        ids = self.token_ids(texts, tokenizer)
        shortest = min(range(len(ids)), key=lambda row: len(ids[row]))
        if not ids[shortest]:
            raise DataError(
                f"{table.place(shortest)}: the tokenizer makes no token of the text {texts[shortest]!r:.40}; mend or remove "
                "the row"
            )
        counts = Counter(label.key for label in raw)
        description = {
            "task": self.name,
            "data": self.data,
            "subset": self.subset,
            "split": None if sources.kind_of(self.data) == "file" else self.split,
            "rows": len(texts),
            "rows_available": len(table.places),
            "max_length": self.max_length,
            "cut_texts": sum(len(row) == self.max_length for row in ids),
            "label_counts": {str(label): counts[label] for label in sorted(counts, key=str)},
            "label_classes": {str(label.key): number for label, number in zip(raw, labels, strict=True)},
            "sha256": sources.fingerprint(texts, raw),
        }
        return ClassificationEvaluation(
            description=description,
            labels=torch.tensor(labels),
            batches=tuple(self._batches(texts, ids, tokenizer)),
        )

    def calibration_texts(self) -> list[str]:
        """Texts of the training split without those that are, but for case and spaces, texts of the evaluation split.

        Raises
        ------
        DataError
            If no training split is configured, it cannot be read, or nothing is left of it.
        """
        table = self._training_table()
        evaluated = set(map(sources.normal_form, self.evaluation_texts()))
        texts = [text for text in table.texts(self.text) if sources.normal_form(text) not in evaluated]
        if not texts:
            raise DataError(
                f"every text of {table.source} is also a text of the evaluation split; training texts must be others"
            )
        return texts

    def training_texts(self) -> list[str]:
        """Texts of the training split as they are.

        Raises
        ------
        DataError
            If no training split is configured, or it cannot be read.
        """
        return self._training_table().texts(self.text)

    def evaluation_texts(self) -> list[str]:
        """Texts of the evaluation split, also those beyond ``limit``.

        Raises
        ------
        DataError
            If they cannot be read.
        """
        return self._table(self.split).texts(self.text)

    def token_ids(self, texts: Sequence[str], tokenizer: Any) -> list[list[int]]:
        """Token ids of each text with special tokens, cut at ``max_length``.

        Raises
        ------
        DataError
            If there is no tokenizer, or it fails.
        """
        self._need(tokenizer)
        if not texts:
            return []
        try:
            encoded = tokenizer(list(texts), truncation=True, max_length=self.max_length, verbose=False)
        except Exception as error:  # the package tokenizers raises plain ones
            raise DataError(
                f"the tokenizer fails on the texts of {self.data}: {' '.join(str(error).split())}; give the tokenizer that the "
                "model was trained with"
            ) from error
        return [list(ids) for ids in encoded["input_ids"]]

    def calibration_inputs(self, rows: int, tokenizer: Any) -> list[Mapping[str, Tensor]]:
        """Batches of texts that are spread evenly over `calibration_texts`, tokenised as for the evaluation.

        Texts that are part of another one are left out: see `stackc.tasks.phrases.whole_texts`.

        Raises
        ------
        DataError
            If there is no tokenizer, or there are no training texts.
        """
        self._need(tokenizer)
        texts = spread(whole_texts(self.calibration_texts()), rows)
        return [batch.inputs for batch in self._batches(texts, self.token_ids(texts, tokenizer), tokenizer)]

    def _need(self, tokenizer: Any) -> None:
        if tokenizer is None:
            raise DataError(
                f"the task {self.name} needs the model's tokenizer: give a model folder that holds one, "
                "or leave the task out (--no-eval, evaluate=False)"
            )

    def _training_table(self) -> sources.Table:
        self.check()
        train = self._training
        if train is None:
            raise DataError(f"the task has no training texts: add 'train: ...' (a file, or a split of {self.data})")
        return sources.read_file(train) if self._is_file(train) else self._table(train)

    def _table(self, split: str) -> sources.Table:
        match sources.kind_of(self.data):
            case "file":
                return sources.read_file(self.data)
            case "demo":
                return sources.read_demo(self.data, split)
            case _:
                return sources.read_hub(self.data, self.subset, split)

    def _batches(self, texts: list[str], ids: list[list[int]], tokenizer: Any) -> Iterator[Batch]:
        """Batches of texts of about the same length, so that little is spent on padding; longest first."""
        order = sorted(range(len(texts)), key=lambda row: -len(ids[row]))
        # What the model makes of padding is a matter of `stackc.models.forward.as_fed`.
        size = self.batch_size if tokenizer.pad_token is not None else 1
        for start in range(0, len(order), size):
            rows = order[start : start + size]
            inputs = tokenizer(
                [texts[row] for row in rows],
                padding=size > 1,
                truncation=True,
                max_length=self.max_length,
                return_tensors="pt",
                verbose=False,
            )
            yield Batch(torch.tensor(rows), dict(inputs))
