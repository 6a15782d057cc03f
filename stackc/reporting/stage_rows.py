"""Decode and judge the file of every stage: the rows of the report."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from stackc.planning.balance import cautions
from stackc.planning.bases import open_with_bases
from stackc.planning.encode_model import EncodedModel
from stackc.planning.kept import code_key
from stackc.planning.plan import StagePlan
from stackc.planning.program import Program, Session
from stackc.planning.zeroed import Zeroed, zero_cautions
from stackc.reporting.report import StageRow, ZeroedRow
from stackc.reporting.weight_errors import Compared, Decoded, decode_and_compare
from stackc.tasks.judge import Judge
from stackc.util.memo import key_of

if TYPE_CHECKING:
    from torch import Tensor


def stage_rows(
    program: Program, session: Session, paths: Sequence[Path], encoded: EncodedModel, judge: Judge | None
) -> list[StageRow]:
    """Decode and judge every file: one row for each stage, or one for the whole recipe if there is one file only.

    Parameters
    ----------
    program : Program
        What was encoded.
    session : Session
        Has the model that decoded weights are compared with; its clock is told of the seconds of ``decode`` and ``evaluate``.
    paths : sequence of Path
        The files, in the order of the stages.
    encoded : EncodedModel
        How the files were made.
    judge : Judge or None
        Gives scores; without one there are none.
    """
    plan, reference, clock = program.plan, session.reference, session.clock
    rows: list[StageRow] = []
    before = reference.nbytes
    known: Mapping[str, Compared] = {}
    first = len(plan.stages) - len(paths)
    heavy = cautions(plan, lambda tensor, plane: encoded.plane_bytes[tensor.name, plane.path])
    lost = zero_cautions(plan, encoded.zeroed)
    for last, (path, size) in enumerate(zip(paths, encoded.file_bytes, strict=True), start=first):
        stages = plan.stages if len(paths) == 1 else plan.stages[last : last + 1]
        label = plan.recipe.name if len(stages) > 1 else stages[0].stage.use
        with clock.measure("decode"):
            decoded = _decoded(path, session, f"after {label}", known, keep=judge is not None)
            known = decoded.compared
        score = None
        if judge is not None:
            with clock.measure("evaluate"):
                score = judge.score(f"after {label}", partial(_state, decoded, path, session), decoded.digest)
        indices = range(last + 1 - len(stages), last + 1)
        rows.append(
            StageRow(
                use=label,
                description=", ".join(stage.stage.describe() for stage in stages),
                planes=sum(stage.matched for stage in stages),
                skipped=sum(len(stage.skipped) for stage in stages),
                skipped_reasons=_reasons(stages),
                bytes_if_stopped_here=size,
                saved_bytes=before - size,
                stage_ratio=before / size,
                ratio=reference.nbytes / size,
                bits_per_parameter=8 * size / max(reference.parameters, 1),
                weight_error=decoded.weight_error,
                score=score,
                encode_seconds=sum(encoded.encode_seconds[index] for index in indices),
                decode_seconds=decoded.seconds,
                peak_memory_bytes=max((encoded.peaks.get(str(index), 0) for index in indices), default=0),
                caution="; ".join(found[index] for index in indices for found in (heavy, lost) if index in found),
                zeroed=_zeroed(encoded.zeroed, indices),
            )
        )
        before = size
    return rows


def _decoded(path: Path, session: Session, label: str, compared: Mapping[str, Compared], *, keep: bool) -> Decoded:
    """What decoding a file shows, or has shown in an earlier run."""
    key = ""
    if session.memo.active:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        key = key_of(code_key(), session.fingerprint, digest)
        known = session.memo.recall("decoded", key)
        if known is not None:
            return Decoded(*msgspec.msgpack.decode(known, type=tuple[float, float, str, dict[str, Compared]]), None)
    bases = session.bases.values()
    decoded = decode_and_compare(
        path, session.reference, label, session.progress, keep=keep, known=compared, bases=bases
    )
    session.memo.keep("decoded", key, msgspec.msgpack.encode(decoded[:4]))
    return decoded


def _state(decoded: Decoded, path: Path, session: Session) -> Mapping[str, Tensor]:
    if decoded.state is not None:
        return decoded.state
    with open_with_bases(path, session.bases.values()) as artifact:
        return artifact.state_dict()


def _reasons(stages: Sequence[StagePlan]) -> list[str]:
    counts = Counter(skipped.reason for stage in stages for skipped in stage.skipped)
    return [f"{count} x {reason}" for reason, count in counts.most_common()]


def _zeroed(found: Sequence[Zeroed], stages: range) -> list[ZeroedRow]:
    planes: dict[tuple[int, str], list[Zeroed]] = {}
    for one in found:
        if one.stage in stages:
            planes.setdefault((one.stage, one.path), []).append(one)
    return [
        ZeroedRow(
            plane=path,
            zeroed=sum(one.zeros for one in several),
            values=sum(one.values for one in several),
            tensors=len(several),
        )
        for (_, path), several in sorted(planes.items())
    ]
