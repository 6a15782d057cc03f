"""The report of a run: one row per stage, one row per kind of bytes, and what they mean together.

``report.json`` is this module's `Report` as JSON; the terminal table is rendered from it (`stackc.reporting.table`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from stackc.healing.summary import HealingSummary
from stackc.planning.allocation.summary import AllocationSummary
from stackc.recipe.controls import ControlName
from stackc.tasks import Score
from stackc.util.errors import StackcError
from stackc.util.paths import require_regular, user_path

REPORT_VERSION = 1


class ZeroedRow(msgspec.Struct, frozen=True, kw_only=True):
    """Numbers of one kind of side information that a stage turned to zero.

    Parameters
    ----------
    plane : str
        Path of the planes in the stacks of their tensors, such as ``basis``.
    zeroed, values : int
        Numbers that became zero, and those that were not zero before, in the planes where any did.
    tensors : int
        Number of these planes: each belongs to a tensor of its own.
    """

    plane: str
    zeroed: int
    values: int
    tensors: int


class StageRow(msgspec.Struct, frozen=True, kw_only=True):
    """What one stage saved and what it cost.

    Parameters
    ----------
    use, description : str
        Name as typed, and the stage with its parameters.
    planes, skipped : int
        Planes that it applies to, and planes that its pattern matches but that do not fit.
    skipped_reasons : list of str
        Each reason with how often it occurs.
    bytes_if_stopped_here : int
        Size of the file if all later stages were replaced by the default packer: measured, by writing that file.
    saved_bytes : int
        The same number of the row before, minus this one's; the reference's bytes minus all savings is the file's size.
    stage_ratio, ratio : float
        Quotient of successive sizes; reference bytes divided by ``bytes_if_stopped_here``.
    bits_per_parameter : float
        Bits of the file per parameter of the reference.
    weight_error : float
        Frobenius norm of the difference over that of the reference, all real tensors together.
    score : Score or None
        Task metric of the model decoded from that file.
    encode_seconds, decode_seconds : float
        Time in this stage's encoder and packers, and time to decode that file; both summed over threads.
    peak_memory_bytes : int
        Most resident memory of the process while the stage was encoding.
    caution : str
        Says if the stage's side information takes more bytes of the file than what it is there for, or if the stage turned
        so much side information to zero that it matters, and what would work.
    zeroed : list of ZeroedRow
        All side information that was not zero before the stage and is now, whether it matters or not.
    """

    use: str
    description: str
    planes: int
    skipped: int
    skipped_reasons: list[str]
    bytes_if_stopped_here: int
    saved_bytes: int
    stage_ratio: float
    ratio: float
    bits_per_parameter: float
    weight_error: float
    score: Score | None
    encode_seconds: float
    decode_seconds: float
    peak_memory_bytes: int
    caution: str = ""
    zeroed: list[ZeroedRow] = []


class ByteRow(msgspec.Struct, frozen=True, kw_only=True):
    """One kind of bytes in the file. Every byte of the file is in exactly one row.

    Parameters
    ----------
    role : str
        ``payload`` (coded values), ``side`` (scales, masks, bases, means), ``tables`` (a packer's own tables and
        headers), ``container`` (header and manifest, and the ``companions`` that every model keeps) or ``bundle``
        (tokenizer).
    plane : str
        Name of the planes (``codes``), ``companions`` for files such as a generation config, empty for tensors stored as
        they are, for the manifest and for a tokenizer.
    packer : str
        Who packed them; empty for the manifest.
    count : int
        Number of planes, or of files.
    bytes : int
        Bytes in the file.
    entropy_bytes : float or None
        Order-0 entropy of the same planes, for comparison; None where it makes no sense.
    """

    role: str
    plane: str
    packer: str
    count: int
    bytes: int
    entropy_bytes: float | None = None


class ModelSummary(msgspec.Struct, frozen=True, kw_only=True):
    """The reference: where it came from and how large it is in forms that are not stackc's work.

    ``bytes`` is the state dict in its own dtypes, ``fp16_bytes`` the same with every wider real tensor cast to fp16,
    ``lossless_bytes`` the reference losslessly packed (zstd on byte planes).
    """

    source: str
    kind: str
    parameters: int
    tensors: int
    bytes: int
    fp16_bytes: int
    lossless_bytes: int
    fingerprint: str


class BaseSummary(msgspec.Struct, frozen=True, kw_only=True):
    """A model that the file needs and does not hold: what the recipe calls it, its fingerprint, and its bytes in its own
    dtypes.
    """

    source: str
    sha256: str
    bytes: int


class FileSummary(msgspec.Struct, frozen=True, kw_only=True):
    """The artifact.

    ``weights_bytes`` is the file's size without a tokenizer, ``self_contained_bytes`` with it (None if the reference
    has none); one of the two is ``bytes``. ``left_behind`` names the files of the model's folder that are neither weights
    nor tokenizer and are not in the artifact.

    Where it needs other models, ``bases`` names them, and ``ratio_with_bases`` counts their bytes as if they were in the file;
    all other ratios are those of the file alone.
    """

    name: str
    bytes: int
    sha256: str
    weights_bytes: int
    self_contained_bytes: int | None
    ratio: float
    ratio_to_fp16: float
    ratio_to_lossless: float
    left_behind: list[str] = []
    bases: list[BaseSummary] = []
    ratio_with_bases: float | None = None


class ControlRow(msgspec.Struct, frozen=True, kw_only=True):
    """A run that must lose for the result to mean anything, and whether it did.

    Parameters
    ----------
    control : str
        ``random-init``, ``linear`` or ``no-heal``.
    description : str
        What was run, in words.
    bytes : int
        Size of its file; 0 if it could not be run, and the verdict says why.
    score : Score or None
        Its own score beside the reference, measured on the decoded file; None if it could not be run.
    difference, difference_low, difference_high : float or None
        Result minus control in the metric, paired over the evaluated rows, and its 95 % interval.
    mcnemar_p : float or None
        Exact two-sided p-value of the rows that only one of the two gets right.
    verdict : str
        A sentence that is written from the interval.
    seconds : float
        Time of the control's run.
    """

    control: ControlName
    description: str
    bytes: int
    score: Score | None
    difference: float | None = None
    difference_low: float | None = None
    difference_high: float | None = None
    mcnemar_p: float | None = None
    verdict: str
    seconds: float = 0.0


class SeedRow(msgspec.Struct, frozen=True, kw_only=True):
    """The result of the whole recipe under one seed."""

    seed: int
    bytes: int
    score: Score | None


class Spread(msgspec.Struct, frozen=True, kw_only=True):
    """Mean and sample standard deviation (divisor n - 1) over seeds."""

    mean: float
    deviation: float


class SeedSummary(msgspec.Struct, frozen=True, kw_only=True):
    """The recipe repeated under several seeds; the file of the run is that of the first.

    Parameters
    ----------
    runs : list of SeedRow
        One per seed.
    bytes : Spread
        Of the files' sizes.
    value, retention : Spread or None
        Of the metric and of the retention; None where they are not defined for every seed.
    """

    runs: list[SeedRow]
    bytes: Spread
    value: Spread | None = None
    retention: Spread | None = None


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that a run measured."""

    report_version: int = REPORT_VERSION
    recipe: str
    model: ModelSummary
    task: dict[str, Any]
    reference_score: Score | None
    stages: list[StageRow]
    bytes: list[ByteRow]
    file: FileSummary
    seconds: dict[str, float]
    versions: dict[str, str]
    notes: list[str]
    allocation: AllocationSummary | None = None
    healing: list[HealingSummary] = []
    controls: list[ControlRow] = []
    seeds: SeedSummary | None = None

    @property
    def final(self) -> StageRow:
        """Row of the last stage: the file itself."""
        return self.stages[-1]

    def to_json(self) -> str:
        """Indented JSON."""
        return msgspec.json.format(msgspec.json.encode(self), indent=2).decode() + "\n"


def read_report(path: str | Path) -> Report:
    """Read a ``report.json``.

    Raises
    ------
    StackcError
        If it cannot be read, or is no report of a version that this release knows.
    """
    path = user_path(path)
    try:
        require_regular(path)
        data = path.read_bytes()
    except OSError as error:
        raise StackcError(f"the report {path} cannot be read: {error.strerror}") from error
    try:
        version = msgspec.json.decode(data, type=dict[str, Any]).get("report_version")
        if version != REPORT_VERSION:
            raise StackcError(f"{path} is a report of version {version}; this release reads version {REPORT_VERSION}")
        return msgspec.json.decode(data, type=Report)
    except msgspec.DecodeError as error:
        raise StackcError(f"{path} is not a stackc report: {error}") from error


def report_schema() -> dict[str, Any]:
    """JSON Schema of ``report.json``."""
    return msgspec.json.schema(Report)
