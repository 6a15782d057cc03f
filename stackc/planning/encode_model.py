"""Stream all tensors of a model through all stages, into one file or one for each stage."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

from stackc.artifact.writer import ArtifactWriter
from stackc.core.packer import Packer
from stackc.core.registry import find_packer
from stackc.core.spec import PlaneSpec
from stackc.core.stack import Stack
from stackc.planning.bases import add_outside
from stackc.planning.encode import EncodedTensor, encode_tensor, walk
from stackc.planning.kept import code_key, named, unnamed
from stackc.planning.plan import TensorPlan
from stackc.planning.program import Program, Session
from stackc.planning.stage_files import ResultRecord, StageFiles, StageRecord
from stackc.planning.zeroed import Zeroed
from stackc.util.errors import TensorError
from stackc.util.memo import key_of
from stackc.util.parallel import map_ordered
from stackc.util.peak_memory import MemoryMeter


class EncodedModel(NamedTuple):
    """Sizes, times and entropies from the encoding pass.

    Attributes
    ----------
    file_bytes : list of int
        Size of every file that was written.
    encode_seconds : list of float
        By stage, summed over tensors.
    entropy_bits : dict
        Order-0 entropy of the planes of the last file, by tensor and path.
    plane_bytes : dict
        Bytes of the packed planes of the last file, by tensor and path; of shared planes too.
    lossless_bytes : int
        What a file without loss would have.
    weights_bytes : int
        Of the last file without the tokenizer.
    self_contained_bytes : int or None
        Of the last file with the tokenizer; None if there is none.
    peaks : dict
        Peak memory in bytes by stage, as ``str(stage)``.
    packers : dict
        Packers that stages such as ``auto`` chose in their own place, by stage and address of the plane.
    zeroed : list of Zeroed
        What stages turned to zero in side information, for every plane where they did.
    recalled : int
        How many of the files are from an earlier run.
    """

    file_bytes: list[int]
    encode_seconds: list[float]
    entropy_bits: dict[tuple[str, str], float]
    plane_bytes: dict[tuple[str, str], int]
    lossless_bytes: int
    weights_bytes: int
    self_contained_bytes: int | None
    peaks: dict[str, int]
    packers: dict[int, dict[str, Packer]]
    zeroed: list[Zeroed]
    recalled: int


def encode_model(program: Program, session: Session, paths: Sequence[Path]) -> EncodedModel:
    """Stream all tensors through all stages.

    Parameters
    ----------
    program : Program
        Settled.
    session : Session
        Gives the tensors and what stages are given beside them.
    paths : sequence of Path
        A file for each of the last stages; the last one is the result.

    Raises
    ------
    StackcError
        In one sentence, with stage and tensor.
    """
    files = StageFiles(program, session, paths)
    lossless = session.memo.recall("lossless", lossless_key := _lossless_key(session))
    if files.complete is not None and lossless is not None:
        return _recalled(files.records, int(lossless), files.recalled)
    plan, reference = program.plan, session.reference
    if files.complete is not None:
        files.records.pop()
    recalled = files.recalled
    first = files.done or len(plan.stages) - len(paths)
    paths = paths[len(files.records) :]
    kept, tokenizer = reference.companion_contents(), reference.tokenizer_contents()
    before = files.records[-1] if files.records else StageRecord(0, [], {}, [])
    seconds = before.seconds + [0.0] * (len(plan.stages) - len(before.seconds))
    entropy: dict[tuple[str, str], float] = {}
    plane_bytes: dict[tuple[str, str], int] = {}
    lossless_payload = int(lossless or 0)
    packers: dict[int, dict[str, Packer]] = {}
    zeroed = list(before.zeroed)

    with ExitStack() as stack:
        meter = stack.enter_context(MemoryMeter())
        advance = stack.enter_context(session.progress.task("encode", reference.nbytes))
        writers = [stack.enter_context(ArtifactWriter(path, reference.kind, reference.config)) for path in paths]
        artifact = stack.enter_context(files.open()) if files.records else None

        def one(tensor: TensorPlan) -> tuple[EncodedTensor, int]:
            try:
                packed = 0
                if not tensor.is_shared and lossless is None:
                    packed = len(_lossless(tensor.spec).pack(reference.tensor(tensor.name), tensor.spec))
                if artifact is not None and tensor.maker < files.done:
                    walker = files.walker(artifact, tensor)
                else:  # read again, so that nothing here holds the tensor when its planes have taken its place
                    walker = walk(program, session, tensor)
                return encode_tensor(walker, every_stage=len(paths) > 1, meter=meter), packed
            except MemoryError as error:
                raise TensorError(f"{tensor.name} ({tensor.spec}) does not fit in memory") from error

        for encoded, size in map_ordered(one, plan.everything, size=lambda tensor: tensor.spec.nbytes):
            lossless_payload += size
            seconds = [total + more for total, more in zip(seconds, encoded.seconds, strict=True)]
            entropy |= {(encoded.plan.name, path): bits for path, bits in encoded.entropy_bits.items()}
            lengths = zip(encoded.paths, map(len, encoded.stages[-1]), strict=True)
            plane_bytes |= {(encoded.plan.name, path): length for path, length in lengths}
            for stage, writer in enumerate(writers, start=first):
                if stage >= encoded.plan.maker:
                    write_tensor(writer, encoded.plan, encoded.stacks[stage], encoded.stages[stage])
            zeroed += encoded.zeroed
            for stage, chosen in encoded.chosen_packers.items():
                packers.setdefault(stage, {}).update(chosen)
            if not encoded.plan.is_shared:
                advance(encoded.plan.spec.nbytes)
        for writer in writers:
            add_outside(writer, plan, session.bases)
        final = writers[-1]
        weights_bytes = final.projected_bytes(kept)
        if lossless is None:
            session.memo.keep("lossless", lossless_key, str(lossless_payload).encode())
        payload_bytes = final.payload_bytes
        self_contained_bytes = final.projected_bytes(kept | tokenizer) if tokenizer else None
        bundled = kept | tokenizer if "tokenizer" in plan.recipe.bundle else kept
        for writer in writers:
            for name, content in bundled.items():
                writer.add_file(name, content)
        sizes = [writer.finish() for writer in writers]
    peaks = {**before.peaks, **meter.peaks}
    result = ResultRecord(
        [(*place, bits) for place, bits in entropy.items()],
        [(*place, length) for place, length in plane_bytes.items()],
        weights_bytes,
        payload_bytes,
        self_contained_bytes,
        {stage: {plane: named(packer) for plane, packer in chosen.items()} for stage, chosen in packers.items()},
    )
    records = list(files.records)
    for stage, (path, size) in enumerate(zip(paths, sizes, strict=True), first):
        until = [one for one in zeroed if one.stage <= stage]
        record = StageRecord(size, seconds[: stage + 1], peaks, until, result if path is paths[-1] else None)
        files.keep(stage, path, record)
        records.append(record)
    return _recalled(records, lossless_payload, recalled)


def _recalled(records: Sequence[StageRecord], lossless_payload: int, recalled: int) -> EncodedModel:
    """What the records of all files say together."""
    last = records[-1]
    result = last.result
    assert result is not None
    return EncodedModel(
        [record.file_bytes for record in records],
        last.seconds,
        {(tensor, path): bits for tensor, path, bits in result.entropy_bits},
        {(tensor, path): length for tensor, path, length in result.plane_bytes},
        # a lossless file needs a container too
        lossless_payload + result.weights_bytes - result.payload_bytes,
        result.weights_bytes,
        result.self_contained_bytes,
        last.peaks,
        {stage: {plane: unnamed(one) for plane, one in chosen.items()} for stage, chosen in result.packers.items()},
        last.zeroed,
        recalled,
    )


def _lossless_key(session: Session) -> str:
    return key_of(code_key(), session.fingerprint) if session.memo.active else ""


def _lossless(spec: PlaneSpec) -> Packer:
    """The packer of the lossless file that the ratio is held against: the smallest that stackc has for the dtype."""
    return find_packer("floats") if spec.is_real else find_packer("zstd", level=19)


def write_tensor(writer: ArtifactWriter, tensor: TensorPlan, stack: Stack, planes: Sequence[bytes]) -> None:
    """Hand a file a tensor, or a plane that tensors share, as it is stored."""
    if tensor.is_shared:
        writer.add_shared(tensor.name, tensor.spec, stack, planes)
    else:
        writer.add(tensor.names, tensor.spec, stack, planes)
