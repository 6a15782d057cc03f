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
from stackc.planning.encode import EncodedTensor, encode_tensor, walk
from stackc.planning.plan import TensorPlan
from stackc.planning.program import Program, Session
from stackc.planning.zeroed import Zeroed
from stackc.util.errors import TensorError
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
    plan, reference = program.plan, session.reference
    first = len(plan.stages) - len(paths)
    kept, tokenizer = reference.companion_contents(), reference.tokenizer_contents()
    seconds = [0.0] * len(plan.stages)
    entropy: dict[tuple[str, str], float] = {}
    plane_bytes: dict[tuple[str, str], int] = {}
    lossless_bytes = 0
    packers: dict[int, dict[str, Packer]] = {}
    zeroed: list[Zeroed] = []

    with ExitStack() as stack:
        meter = stack.enter_context(MemoryMeter())
        advance = stack.enter_context(session.progress.task("encode", reference.nbytes))
        writers = [stack.enter_context(ArtifactWriter(path, reference.kind, reference.config)) for path in paths]

        def one(tensor: TensorPlan) -> tuple[EncodedTensor, int]:
            try:
                packed = 0
                if not tensor.is_shared:
                    packed = len(_lossless(tensor.spec).pack(reference.tensor(tensor.name), tensor.spec))
                # Read again, so that nothing here holds the tensor when its planes have taken its place.
                encoded = encode_tensor(walk(program, session, tensor), every_stage=first == 0, meter=meter)
                return encoded, packed
            except MemoryError as error:
                raise TensorError(f"{tensor.name} ({tensor.spec}) does not fit in memory") from error

        for encoded, size in map_ordered(one, plan.everything, size=lambda tensor: tensor.spec.nbytes):
            lossless_bytes += size
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
        final = writers[-1]
        weights_bytes = final.projected_bytes(kept)
        lossless_bytes += weights_bytes - final.payload_bytes  # a lossless file needs a container too
        self_contained_bytes = final.projected_bytes(kept | tokenizer) if tokenizer else None
        files = kept | tokenizer if "tokenizer" in plan.recipe.bundle else kept
        for writer in writers:
            for name, content in files.items():
                writer.add_file(name, content)
        sizes = [writer.finish() for writer in writers]
    return EncodedModel(
        sizes,
        seconds,
        entropy,
        plane_bytes,
        lossless_bytes,
        weights_bytes,
        self_contained_bytes,
        meter.peaks,
        packers,
        zeroed,
    )


def _lossless(spec: PlaneSpec) -> Packer:
    """The packer of the lossless file that the ratio is held against: the smallest that stackc has for the dtype."""
    return find_packer("floats") if spec.is_real else find_packer("zstd", level=19)


def write_tensor(writer: ArtifactWriter, tensor: TensorPlan, stack: Stack, planes: Sequence[bytes]) -> None:
    """Hand a file a tensor, or a plane that tensors share, as it is stored."""
    if tensor.is_shared:
        writer.add_shared(tensor.name, tensor.spec, stack, planes)
    else:
        writer.add(tensor.names, tensor.spec, stack, planes)
