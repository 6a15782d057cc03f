"""The heal stages of a run: from the planes of the stages before to planes that were trained."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from stackc.artifact.writer import ArtifactWriter
from stackc.core.stack import join, stored_planes, with_transforms
from stackc.core.transform import Transform
from stackc.healing.batches import Batches
from stackc.healing.checks import heal_settings, heal_stages
from stackc.healing.latents import SharedTensor, TrainedTensor
from stackc.healing.memory import keeping_freed_memory
from stackc.healing.nodes import Start
from stackc.healing.price import Size
from stackc.healing.settings import Heal
from stackc.healing.student import Student
from stackc.healing.summary import HealingSummary
from stackc.healing.teacher import teacher_logits
from stackc.healing.texts import TrainingTexts, training_texts
from stackc.healing.train import Rows, Trained, Training
from stackc.models import open_reference
from stackc.models.forward import padding_token, require_tokens
from stackc.planning.bases import StandingPlanes, add_outside, base_fingerprints
from stackc.planning.encode import walk
from stackc.planning.encode_model import write_tensor
from stackc.planning.kept import hardened_bytes, prefix_key, read_hardened
from stackc.planning.plan import Place, TensorPlan, address
from stackc.planning.program import Program, Session
from stackc.planning.settle import settle
from stackc.planning.trained import Hardened
from stackc.recipe.lock import settings_fingerprint, versions
from stackc.tasks.calibration import named_weights
from stackc.util.errors import ModelError, PlanError
from stackc.util.lazy import torch
from stackc.util.memo import key_of
from stackc.util.parallel import map_ordered

if TYPE_CHECKING:
    from torch import Tensor, nn

    from stackc.models import Reference


#: Files that decide how a tokenizer splits texts.
_SPLITTING = frozenset({"tokenizer.json", "tokenizer_config.json", "vocab.txt"})


class Healed(NamedTuple):
    """What a heal stage leaves: what is stored of every trained tensor, and how it went."""

    tensors: dict[str, Hardened]
    summary: HealingSummary

    @property
    def transforms(self) -> dict[str, Transform]:
        """Transforms that were settled anew, by the address of the plane that they split."""
        return {
            address(name, path): transform
            for name, hardened in self.tensors.items()
            for path, transform in hardened.transforms.items()
        }


def heal(program: Program, session: Session) -> tuple[Program, list[HealingSummary]]:
    """Train at every heal stage, in order; stages before each are settled on what those before have trained.

    Parameters
    ----------
    program : Program
        Of the recipe, with the choices that are made already.
    session : Session
        Gives the model, the teacher and the training rows.

    Returns
    -------
    Program, list of HealingSummary
        The settled program, and how each training went.
    """
    summaries = []
    for index in heal_stages(program.recipe):
        program = settle(program, session, until=index)
        healed = Healing(program, session, index).recall_or_run()
        choices = {**program.choices, index: {**program.choices.get(index, {}), **healed.transforms}}
        trained = {**program.trained, index: healed.tensors}
        program = program.with_choices(choices)._replace(trained=trained)
        summaries.append(healed.summary)
    return settle(program, session), summaries


class Healing:
    """One heal stage of a program that is settled up to it.

    Parameters
    ----------
    program : Program
        With the results of the heal stages before.
    session : Session
        Gives the model, the teacher and the training rows.
    index : int
        The stage.
    """

    def __init__(self, program: Program, session: Session, index: int) -> None:
        self._program = program
        self._session = session
        self._index = index
        self._settings = heal_settings(program.recipe, index)
        teacher = self._settings.teacher
        self._teacher = (
            session.teacher if teacher is None else open_reference(teacher, allow_code=program.recipe.allow_code)
        )

    def recall_or_run(self) -> Healed:
        """What an earlier run has left of the same training, or `run`."""
        heal, session = self._settings, self._session
        texts = training_texts(session.task, heal.data, heal.rows, heal.holdout, heal.augmented)
        # The price of a bit goes by what later stages pack.
        stages = len(self._program.recipe.stages) if heal.rate or heal.target_bytes else self._index + 1
        key = key_of(
            prefix_key(self._program, session, stages),
            self._index,
            texts.fingerprint,
            self._teacher.fingerprint(),
            torch.get_num_threads(),
        )
        session.trainings[self._index] = key
        known = session.memo.recall("training", key)
        if known is not None:
            tensors, summary = read_hardened(known)
            return Healed(tensors, msgspec.json.decode(summary, type=HealingSummary))
        healed = self.run(texts)
        session.memo.keep("training", key, hardened_bytes(healed.tensors, healed.summary))
        return healed

    def run(self, texts: TrainingTexts) -> Healed:
        """Train on these texts.

        Raises
        ------
        DataError
            If there is nothing to train on.
        ModelError
            If the model or the teacher does not run, or their classes differ.
        """
        with _accelerate_as_before():
            return self._run(texts)

    def _run(self, texts: TrainingTexts) -> Healed:
        heal, index, session = self._settings, self._index, self._session
        plan, reference = self._program.plan, session.reference
        accelerator = _accelerator(heal, index)
        model = reference.build().float().to(accelerator.device)
        places = named_weights(model, reference)
        tensors: dict[str, TrainedTensor] = {}
        shared: dict[str, SharedTensor] = {}
        standing = StandingPlanes(self._program.shared, plan, session.bases)
        for name, outside in plan.outside.items():
            if outside.maker < index:  # nobody trains another model
                shared[name] = SharedTensor(standing[name].to(accelerator.device))
        # A shared plane may use those that later stages made, and tensors use shared ones.
        for tensor in (*reversed(plan.shared), *plan.tensors):
            if tensor.maker >= index:
                continue
            trained = index in tensor.trained and _is_used(tensor, places)
            if trained:
                start = self._start(tensor, shared)
                tensors[tensor.name] = TrainedTensor(
                    tensor.stacks[index], tensor.spec, start, heal.latent, accelerator.device
                )
            if tensor.is_shared:
                shared[tensor.name] = SharedTensor(
                    tensors[tensor.name] if trained else self._value(tensor, shared).to(accelerator.device)
                )
        if not any(name in places for name in tensors):
            raise PlanError(f"stages[{index}] (heal): none of the tensors that it matches is a parameter of the model")
        if not any(tensor.parameters for tensor in tensors.values()):
            raise PlanError(
                f"stages[{index}] (heal): all that the tensors it matches store is shared with tensors that it does not "
                "match, and a shared plane is trained only with all of them; match those too"
            )
        measure = _Measure(self._program, session, index, tensors)
        with torch.no_grad():
            for tensor in plan.tensors:
                if tensor.name in places and tensor.name not in tensors:
                    places[tensor.name].copy_(self._value(tensor, shared))
        student = Student(model, places, tensors, shared.values())
        rows = self._rows(texts.texts, model, heal.total_steps(len(texts.texts)))
        held_out = self._rows(texts.held_out, model)
        _require_classes(model, rows.logits, self._teacher, index)
        training = Training(
            heal,
            student,
            tensors,
            rows=rows,
            held_out=held_out,
            measure=measure if measure.possible else None,
            reference=reference.build().float().to(accelerator.device) if heal.hidden else None,
            accelerator=accelerator,
            checkpoints=session.checkpoints.of_stage(index, self._identity(texts)),
        )
        with keeping_freed_memory():
            result = training.run(session.progress)
        hardened = {name: tensor.harden() for name, tensor in tensors.items()}
        return Healed(hardened, self._summary(texts, result, training, measure))

    def _value(self, tensor: TensorPlan, shared: Mapping[str, SharedTensor]) -> Tensor:
        """What a tensor is before the stage."""
        return self._start(tensor, shared).value(tensor.stacks[self._index], tensor.spec, "")

    def _start(self, tensor: TensorPlan, shared: Mapping[str, SharedTensor]) -> Start:
        walker = walk(self._program, self._session, tensor, keep_inputs=True)
        for stage in range(self._index):
            walker.apply(stage)
        return Start({path: plane for path, (_, plane) in walker.planes.items()}, walker.inputs, shared)

    def _rows(self, texts: Sequence[str], model: nn.Module, steps: int | None = None) -> Rows:
        """Rows with the teacher's logits, those that are met in so many steps at least."""
        reference, task, heal = self._session.reference, self._session.task, self._settings
        tokenizer = reference.tokenizer()
        ids = task.token_ids(texts, tokenizer)
        batches = Batches(
            ids, heal.batch_size, _padding(model, tokenizer, heal, self._index), self._program.recipe.seed
        )
        require_tokens(model, max(map(len, ids)), max(map(max, ids)), "the training rows")
        # A short training meets few of the rows, and asking the teacher is what takes long.
        met = range(len(texts)) if steps is None or steps >= len(batches) else batches.met(steps)
        if _same_tokenizer(self._teacher, reference):
            asked = [ids[row] for row in met]
        else:
            asked = task.token_ids([texts[row] for row in met], self._teacher.tokenizer())
        labelled = teacher_logits(self._teacher, asked, progress=self._session.progress).logits
        logits = torch.zeros(len(texts), labelled.shape[1], dtype=torch.float32)
        logits[torch.tensor(met)] = labelled
        return Rows(batches, logits)

    def _identity(self, texts: TrainingTexts) -> dict[str, Any]:
        return {
            "stage": self._index,
            "settings": settings_fingerprint(self._program.recipe),
            "reference": self._session.fingerprint,
            "teacher": self._teacher.fingerprint(),
            "bases": base_fingerprints(self._program.recipe, self._session.bases),
            "texts": texts.fingerprint,
            "versions": versions(),
            "threads": torch.get_num_threads(),
        }

    def _summary(self, texts: TrainingTexts, trained: Trained, training: Training, measure: _Measure) -> HealingSummary:
        estimated, packed = training.estimate(measure() if measure.possible and training.prices_bits else None)
        return HealingSummary(
            stage=self._index,
            latent=self._settings.latent,
            teacher=self._teacher.source,
            stronger_teacher=self._teacher.fingerprint() != self._session.fingerprint,
            rows=len(texts.texts),
            held_out=len(texts.held_out),
            dropped=texts.dropped,
            sources=[source.name for source in texts.sources],
            steps=trained.steps,
            best_step=trained.best_step,
            seconds=trained.seconds,
            estimated_bytes=estimated,
            packed_bytes=packed,
            price=trained.price,
            curve=trained.curve,
        )


class _Measure:
    """Packs all tensors as they are now with the packers of the stages that follow, to know the size of the file."""

    def __init__(self, program: Program, session: Session, index: int, tensors: Mapping[str, TrainedTensor]) -> None:
        self._plan = program.plan
        self._session = session
        self._tensors = tensors
        self._others: dict[str, dict[str, Tensor]] = {}
        self.possible = all(stage.stage.is_packer for stage in program.plan.stages[index + 1 :])
        if self.possible:
            for tensor in program.plan.everything:
                if tensor.name not in tensors:
                    walker = walk(program, session, tensor)
                    for stage in range(len(tensor.steps)):
                        walker.apply(stage)
                    self._others[tensor.name] = {path: plane for path, (_, plane) in walker.planes.items()}

    def __call__(self) -> Size:
        """The size of the file if training ended here."""
        reference = self._session.reference

        def pack(tensor: TensorPlan) -> tuple[TensorPlan, Any, list[bytes], dict[str, int]]:
            stack, planes = tensor.stacks[-1], self._others.get(tensor.name)
            if planes is None:
                hardened = self._tensors[tensor.name].harden()
                stack, planes = with_transforms(stack, hardened.transforms), hardened.planes
            packed, priced = [], {}
            for stored in stored_planes(stack, tensor.spec):
                data = stored.packer.choose(planes[stored.path], stored.spec)[1]
                packed.append(data)
                if not stored.spec.is_real and not stored.side and tensor.name in self._tensors:
                    priced[join(tensor.name, stored.path)] = len(data)
            return tensor, stack, packed, priced

        sizes: dict[str, int] = {}
        with (
            tempfile.TemporaryDirectory(prefix="stackc-heal-") as folder,
            ArtifactWriter(Path(folder) / "size", reference.kind, reference.config) as writer,
        ):
            for tensor, stack, packed, priced in map_ordered(pack, self._plan.everything):
                write_tensor(writer, tensor, stack, packed)
                sizes |= priced
            add_outside(writer, self._plan, self._session.bases)
            return Size(writer.projected_bytes(self._session.files), sizes)


@contextmanager
def _accelerate_as_before() -> Iterator[None]:
    """accelerate has one state for the process; a program that trains with it gets its own back."""
    from accelerate.state import AcceleratorState, GradientState, PartialState

    states = [kind._shared_state for kind in (AcceleratorState, GradientState, PartialState)]
    before = [dict(state) for state in states]
    try:
        yield
    finally:
        for state, kept in zip(states, before, strict=True):
            state.clear()
            state.update(kept)


def _accelerator(heal: Heal, index: int) -> Any:
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    precision = {"float32": "no", "bfloat16": "bf16", "float16": "fp16"}[heal.precision]
    AcceleratorState._reset_state(True)  # else the precision of an earlier stage would be kept
    try:
        return Accelerator(mixed_precision=precision)
    except (ValueError, RuntimeError, ImportError) as error:
        raise ModelError(
            f"stages[{index}] (heal): precision: {heal.precision} is not to be had here ({' '.join(str(error).split())}); "
            "float32 works everywhere"
        ) from error


def _padding(model: nn.Module, tokenizer: Any, heal: Heal, index: int) -> int:
    """The token that rows of a batch are filled up with."""
    # A model without a config goes by the attention mask.
    token = padding_token(model, getattr(tokenizer, "pad_token_id", None) or 0)
    if token is None and heal.batch_size > 1:
        raise ModelError(
            f"stages[{index}] (heal): {type(model).__name__} cannot tell padding from text, so rows of several lengths are no "
            "batch: write pad_token_id, the token id that fills up, into the model's config.json, or set batch_size: 1 here"
        )
    return token or 0


def _same_tokenizer(one: Reference, other: Reference) -> bool:
    """Whether two models split texts in the same way, as far as their files tell."""
    if one is other:
        return True
    files = [
        {name: content for name, content in reference.tokenizer_contents().items() if name in _SPLITTING}
        for reference in (one, other)
    ]
    return bool(files[0]) and files[0] == files[1]


def _is_used(tensor: TensorPlan, places: Mapping[str, nn.Parameter]) -> bool:
    """Whether training a tensor reaches the model, and nothing but the model."""
    return all(user.names[0] in places for user in tensor.users or (Place(tensor.names, ""),))


def _require_classes(model: Any, logits: Tensor, teacher: Reference, index: int) -> None:
    classes = getattr(getattr(model, "config", None), "num_labels", logits.shape[1])
    if classes != logits.shape[1]:
        raise ModelError(
            f"stages[{index}] (heal): the teacher {teacher.source} has {logits.shape[1]} classes, the model {classes}; "
            "choose a teacher of the same task"
        )
