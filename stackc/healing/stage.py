"""One heal stage of a run: from the planes of the stages before it to planes that were trained."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from stackc.artifact.writer import ArtifactWriter
from stackc.core.packer import Packer
from stackc.core.stack import join, stored_planes, with_transforms
from stackc.core.transform import Transform
from stackc.healing.batches import Batches
from stackc.healing.checkpoint import CheckpointFolder
from stackc.healing.checks import heal_settings, heal_stages
from stackc.healing.latents import TrainedTensor
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
from stackc.planning.encode import Walker
from stackc.planning.plan import Choices, Plan, TensorPlan, address
from stackc.planning.settle import settle
from stackc.planning.trained import Hardened
from stackc.recipe.lock import settings_fingerprint, versions
from stackc.recipe.recipe import Recipe
from stackc.tasks.calibration import named_weights
from stackc.util.errors import ModelError, PlanError
from stackc.util.lazy import torch
from stackc.util.parallel import map_ordered
from stackc.util.progress import Progress

if TYPE_CHECKING:
    from torch import Tensor, nn

    from stackc.models import Reference
    from stackc.tasks import Task


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


class AllHealed(NamedTuple):
    """What all heal stages of a recipe leave: the settled plan, all choices, and what was trained, by stage."""

    plan: Plan
    choices: dict[int, dict[str, Transform | Packer]]
    tensors: dict[int, Mapping[str, Hardened]]
    summaries: list[HealingSummary]


class Healing:
    """Everything that the heal stages of one run share.

    Parameters
    ----------
    reference : Reference
        The uncompressed model that the stack was made of.
    teacher : Reference
        Whose answers are matched where a stage names no teacher.
    task : Task
        Gives training rows.
    weights, moments
        Row weights by stage and second moments by tensor, for walking through the stages before.
    files : mapping
        Contents of the files that are bundled.
    checkpoints : CheckpointFolder
        Where trainings are continued from.
    progress : Progress
        Told what is going on.
    """

    def __init__(
        self,
        reference: Reference,
        teacher: Reference,
        task: Task,
        *,
        weights: Sequence[Tensor | None],
        moments: Mapping[str, Tensor],
        files: Mapping[str, bytes],
        checkpoints: CheckpointFolder,
        progress: Progress,
    ) -> None:
        self._reference = reference
        self._teacher = teacher
        self._task = task
        self._weights = weights
        self._moments = moments
        self._files = files
        self._checkpoints = checkpoints
        self._progress = progress

    def run_all(self, plan: Plan, choices: Choices) -> AllHealed:
        """Train at every heal stage, in order; stages before each are settled on what those before have trained.

        Parameters
        ----------
        plan : Plan
            Of the recipe.
        choices : mapping
            Choices that are made already, by stage and plane.
        """
        made: dict[int, dict[str, Transform | Packer]] = {stage: dict(chosen) for stage, chosen in choices.items()}
        healed: dict[int, Mapping[str, Hardened]] = {}
        summaries = []
        load = self._reference.tensor
        for index in heal_stages(plan.recipe):
            plan, made = settle(plan, load, self._weights, made, self._moments, index, healed)
            result = self.run(plan, index, healed)
            healed[index] = result.tensors
            made[index] = {**made.get(index, {}), **result.transforms}
            summaries.append(result.summary)
        plan, made = settle(plan, load, self._weights, made, self._moments, healed=healed)
        return AllHealed(plan, made, healed, summaries)

    def run(self, plan: Plan, index: int, healed: Mapping[int, Mapping[str, Hardened]]) -> Healed:
        """Train at one stage of a plan that is settled up to it.

        Parameters
        ----------
        plan : Plan
            Of the recipe.
        index : int
            The stage.
        healed : mapping
            Results of the heal stages before, by stage.

        Raises
        ------
        DataError
            If there is nothing to train on.
        ModelError
            If the model or the teacher does not run, or their classes differ.
        """
        with _accelerate_as_before():
            return self._run(plan, index, healed)

    def _run(self, plan: Plan, index: int, healed: Mapping[int, Mapping[str, Hardened]]) -> Healed:
        heal = heal_settings(plan.recipe, index)
        accelerator = _accelerator(heal, index)
        starts = {tensor.name: self._start(tensor, index, healed) for tensor in plan.tensors if index in tensor.trained}
        model = self._reference.build().float().to(accelerator.device)
        places = named_weights(model, self._reference)
        tensors = {
            tensor.name: TrainedTensor(
                tensor.stacks[index], tensor.spec, starts[tensor.name], heal.latent, accelerator.device
            )
            for tensor in plan.tensors
            if tensor.name in starts and tensor.name in places
        }
        if not tensors:
            raise PlanError(f"stages[{index}] (heal): none of the tensors that it matches is a parameter of the model")
        measure = _Measure(plan, index, self, healed, tensors)
        with torch.no_grad():
            for tensor in plan.tensors:
                if tensor.name in places and tensor.name not in tensors:
                    value = self._start(tensor, index, healed).value(tensor.stacks[index], tensor.spec, "")
                    places[tensor.name].copy_(value)
        student = Student(model, places, tensors)
        teacher = (
            self._teacher if heal.teacher is None else open_reference(heal.teacher, allow_code=plan.recipe.allow_code)
        )
        texts = training_texts(self._task, heal.data, heal.rows, heal.holdout, heal.augmented)
        rows = self._rows(texts.texts, teacher, model, plan.recipe, index, heal.total_steps(len(texts.texts)))
        held_out = self._rows(texts.held_out, teacher, model, plan.recipe, index)
        _require_classes(model, rows.logits, teacher, index)
        training = Training(
            heal,
            student,
            tensors,
            rows=rows,
            held_out=held_out,
            measure=measure if measure.possible else None,
            reference=self._reference.build().float().to(accelerator.device) if heal.hidden else None,
            accelerator=accelerator,
            checkpoints=self._checkpoints.of_stage(index, self._identity(plan.recipe, index, teacher, texts)),
        )
        with keeping_freed_memory():
            trained = training.run(self._progress)
        hardened = {name: tensor.harden() for name, tensor in tensors.items()}
        return Healed(hardened, self._summary(heal, index, teacher, texts, trained, training, measure))

    def walker(self, tensor: TensorPlan, healed: Mapping[int, Mapping[str, Hardened]]) -> Walker:
        """A walk through the stages of one tensor."""
        x = self._reference.tensor(tensor.name)
        return Walker(tensor, x, self._weights, self._moments, healed, keep_inputs=True)

    @property
    def reference(self) -> Reference:
        """The uncompressed model."""
        return self._reference

    @property
    def files(self) -> Mapping[str, bytes]:
        """Contents of bundled files."""
        return self._files

    def _start(self, tensor: TensorPlan, index: int, healed: Mapping[int, Mapping[str, Hardened]]) -> Start:
        walker = self.walker(tensor, healed)
        for stage in range(index):
            walker.apply(stage)
        return Start({path: plane for path, (_, plane) in walker.planes.items()}, walker.inputs)

    def _rows(
        self,
        texts: Sequence[str],
        teacher: Reference,
        model: nn.Module,
        recipe: Recipe,
        index: int,
        steps: int | None = None,
    ) -> Rows:
        """Rows with the teacher's logits, those that are met in so many steps at least."""
        tokenizer = self._reference.tokenizer()
        ids = self._task.token_ids(texts, tokenizer)
        heal = heal_settings(recipe, index)
        batches = Batches(ids, heal.batch_size, _padding(model, tokenizer, heal, index), recipe.seed)
        require_tokens(model, max(map(len, ids)), max(map(max, ids)), "the training rows")
        # A short training meets few of the rows, and asking the teacher is what takes long.
        met = range(len(texts)) if steps is None or steps >= len(batches) else batches.met(steps)
        if _same_tokenizer(teacher, self._reference):
            asked = [ids[row] for row in met]
        else:
            asked = self._task.token_ids([texts[row] for row in met], teacher.tokenizer())
        labelled = teacher_logits(teacher, asked, progress=self._progress).logits
        logits = torch.zeros(len(texts), labelled.shape[1], dtype=torch.float32)
        logits[torch.tensor(met)] = labelled
        return Rows(batches, logits)

    def _identity(self, recipe: Recipe, index: int, teacher: Reference, texts: TrainingTexts) -> dict[str, Any]:
        return {
            "stage": index,
            "settings": settings_fingerprint(recipe),
            "reference": self._reference.fingerprint(),
            "teacher": teacher.fingerprint(),
            "texts": texts.fingerprint,
            "versions": versions(),
            "threads": torch.get_num_threads(),
        }

    def _summary(
        self,
        heal: Heal,
        index: int,
        teacher: Reference,
        texts: TrainingTexts,
        trained: Trained,
        training: Training,
        measure: _Measure,
    ) -> HealingSummary:
        estimated, packed = training.estimate(measure() if measure.possible and training.prices_bits else None)
        return HealingSummary(
            stage=index,
            latent=heal.latent,
            teacher=teacher.source,
            stronger_teacher=teacher.fingerprint() != self._reference.fingerprint(),
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

    def __init__(
        self,
        plan: Plan,
        index: int,
        healing: Healing,
        healed: Mapping[int, Mapping[str, Hardened]],
        tensors: Mapping[str, TrainedTensor],
    ) -> None:
        self._plan = plan
        self._healing = healing
        self._tensors = tensors
        self._others: dict[str, dict[str, Tensor]] = {}
        self.possible = all(stage.stage.is_packer for stage in plan.stages[index + 1 :])
        if self.possible:
            for tensor in plan.tensors:
                if tensor.name not in tensors:
                    walker = healing.walker(tensor, healed)
                    for stage in range(len(tensor.steps)):
                        walker.apply(stage)
                    self._others[tensor.name] = {path: plane for path, (_, plane) in walker.planes.items()}

    def __call__(self) -> Size:
        """The size of the file if training ended here."""
        reference = self._healing.reference

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
            for tensor, stack, packed, priced in map_ordered(pack, self._plan.tensors):
                writer.add(tensor.names, tensor.spec, stack, packed)
                sizes |= priced
            return Size(writer.projected_bytes(self._healing.files), sizes)


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


def _require_classes(model: Any, logits: Tensor, teacher: Reference, index: int) -> None:
    classes = getattr(getattr(model, "config", None), "num_labels", logits.shape[1])
    if classes != logits.shape[1]:
        raise ModelError(
            f"stages[{index}] (heal): the teacher {teacher.source} has {logits.shape[1]} classes, the model {classes}; "
            "choose a teacher of the same task"
        )
