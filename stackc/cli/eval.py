"""``stackc eval``: how good a model is on a task, compressed or not."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from stackc.cli.options import BaseOption, JsonOption, open_bases

if TYPE_CHECKING:
    from torch import nn

    from stackc.models import Reference
    from stackc.tasks import Evaluation, Outcome, Score
    from stackc.util.progress import Progress

_COMPARED = (
    "retention",
    "retention_low",
    "retention_high",
    "skill_retention",
    "agreement",
    "kl",
    "mcnemar_p",
    "verdict",
)


#: What tells the folder of a model from that of a run.
_CONFIG = "config.json"


class _Subject(NamedTuple):
    """A model to evaluate, and the tokenizer that came with it."""

    name: str
    model: nn.Module
    tokenizer: Any | None


def evaluate(
    target: Annotated[
        str,
        typer.Argument(metavar="TARGET", help="A .stackc file, the folder of a run, or a model folder, file or id."),
    ],
    task: Annotated[
        str, typer.Option(help="A task name, a YAML mapping, or a data file to classify.", show_default=False)
    ],
    tokenizer: Annotated[
        str | None, typer.Option(metavar="FOLDER", help="Tokenizer, instead of the one that comes with the target.")
    ] = None,
    reference: Annotated[
        str | None, typer.Option(metavar="MODEL", help="Compare with this model on the same rows.")
    ] = None,
    base: BaseOption = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Evaluate a compressed or uncompressed model on a task."""
    from stackc.cli.options import open_task
    from stackc.cli.progress import showing_progress
    from stackc.cli.terminal import output, say, write_json
    from stackc.reporting.table import score_sentence
    from stackc.util.errors import DataError
    from stackc.util.isolation import isolated

    judge = open_task(task)
    judge.check()
    with isolated(), showing_progress(quiet=quiet) as progress:
        bases = open_bases(base)
        subject = _open(target, bases)
        other = None if reference is None else _open(reference, bases, needed=False)
        for model in (subject.model, *(() if other is None else (other.model,))):
            judge.check_model(model)
        chosen = (
            _load_tokenizer(tokenizer) if tokenizer is not None else subject.tokenizer or (other and other.tokenizer)
        )
        if chosen is None:
            raise DataError(f"{target} comes without a tokenizer; give the folder that holds it with --tokenizer")
        evaluation = judge.prepare(chosen, getattr(subject.model, "config", None))
        if evaluation is None:
            raise DataError(f"the task {judge.name!r} measures nothing; choose another --task")
        outcome = _measure(evaluation, subject, progress)
        other_outcome = None if other is None else _measure(evaluation, other, progress)
        score = evaluation.score(outcome, outcome if other_outcome is None else other_outcome)
        other_score = None if other_outcome is None else evaluation.score(other_outcome, other_outcome)
    if as_json:
        write_json(
            {
                "target": target,
                "task": evaluation.describe(),
                "score": _plain(score, alone=other is None),
                "reference": None if other_score is None else {"model": reference, **_plain(other_score, alone=True)},
            }
        )
        return
    console = output()
    say(console, f"{target}: {score_sentence(score)}")
    if other_score is not None:
        say(console, f"{reference}: {score_sentence(other_score)}", _comparison(score))
    elif score.majority is not None:
        say(console, f"naming the most frequent class everywhere would reach {100 * score.majority:.1f} %")


def _open(name: str, bases: Sequence[Reference], *, needed: bool = True) -> _Subject:
    """A model, with its bases; unless these are ``needed``, a file may do without."""
    from stackc.artifact.reader import Artifact
    from stackc.models import open_reference

    file = _artifact(name)
    if file is not None:
        with Artifact(file) as artifact:
            for base in bases if needed or artifact.bases else ():
                artifact.attach(base)
            return _Subject(name, artifact.build(), artifact.tokenizer())
    reference = open_reference(name)
    return _Subject(name, reference.build(), reference.tokenizer())


def _artifact(name: str) -> Path | None:
    """The compressed model that is meant, in the folder of a run too; None if it is another model.

    By its name or its first bytes, so that a renamed file and a damaged one are both recognised.
    """
    from stackc.artifact.container import MAGIC
    from stackc.runs.runner import ARTIFACT_NAME
    from stackc.util.paths import user_path

    path = user_path(name)
    if path.is_dir():
        is_run = (path / ARTIFACT_NAME).is_file() and not (path / _CONFIG).is_file()
        return path / ARTIFACT_NAME if is_run else None
    if path.suffix == ".stackc":
        return path
    if not path.is_file():
        return None
    with path.open("rb") as file:
        return path if file.read(len(MAGIC)) == MAGIC else None


def _load_tokenizer(source: str) -> Any:
    from stackc.artifact.reader import Artifact
    from stackc.models import load_tokenizer, open_reference
    from stackc.util.errors import ModelError
    from stackc.util.paths import user_path

    path, file = user_path(source), _artifact(source)
    if file is not None:
        with Artifact(file) as artifact:
            found = artifact.tokenizer()
    else:
        found = load_tokenizer(path) if path.is_dir() else open_reference(source).tokenizer()
    if found is None:
        raise ModelError(f"{source} holds no tokenizer files such as tokenizer.json or vocab.txt")
    return found


def _measure(evaluation: Evaluation, subject: _Subject, progress: Progress) -> Outcome:
    with progress.task(f"evaluate {subject.name}", evaluation.describe()["rows"]) as advance:
        before = 0

        def forward(done: int, total: int) -> None:
            nonlocal before
            advance(done - before)
            before = done

        return evaluation.measure(subject.model, forward)


def _plain(score: Score, *, alone: bool) -> dict[str, Any]:
    import msgspec

    fields: dict[str, Any] = msgspec.to_builtins(score)
    # A model compared with itself keeps everything; that is no result.
    return {key: value for key, value in fields.items() if not (alone and key in _COMPARED)}


def _comparison(score: Score) -> str:
    parts = [score.verdict]
    if score.agreement is not None:
        parts.append(f"both predict the same on {100 * score.agreement:.1f} % of the rows")
    if score.kl is not None:
        parts.append(f"mean KL divergence {score.kl:.3g} nats")
    return "; ".join(parts)
