"""Row weights that know nothing of the rows which losses are estimated on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from stackc.planning.plan import Plan
from stackc.tasks.calibration import Calibration
from stackc.tasks.phrases import whole_texts
from stackc.tasks.row_weights import SMOOTHING, TOKEN_COUNTS, token_counts
from stackc.util.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor

    from stackc.tasks.task import Task


def counts_tokens(plan: Plan) -> bool:
    """Whether a stage weighs rows by how often their tokens occur."""
    return any(stage.stage.weights == TOKEN_COUNTS for stage in plan.stages)


def unseen_weights(
    plan: Plan, weights: Sequence[Tensor | None], task: Task, tokenizer: Any, pool: Calibration
) -> list[Tensor | None]:
    """Row weights with tokens counted only in texts that losses are not estimated on.

    New texts hold tokens that no training text has (Good 1953, "The population frequencies of species"): every third
    sentence of SST-2's evaluation split does. What it costs to do without their rows shows on texts that were not
    counted, and on no others.

    Parameters
    ----------
    plan : Plan
        Its stages say which weights are token counts.
    weights : sequence of Tensor or None
        Of every stage; those that are no token counts come back as they are.
    task : Task
        Gives the training texts; whole ones are counted.
    tokenizer : transformers.PreTrainedTokenizerBase
        The reference's tokenizer.
    pool : Calibration
        Inputs that losses are estimated on, some of the whole training texts; their tokens are taken off again.
    """
    made = list(weights)
    counts: dict[int, Tensor] = {}
    for index, stage in enumerate(plan.stages):
        found = weights[index]
        if found is None or stage.stage.weights != TOKEN_COUNTS:
            continue
        rows = len(found)
        if rows not in counts:
            counted = token_counts(whole_texts(task.calibration_texts()), rows, task, tokenizer)
            for batch in pool.batches:
                ids, mask = batch.get("input_ids"), batch.get("attention_mask")
                if ids is not None:
                    met = ids.reshape(-1) if mask is None else ids[mask.bool()]
                    counted -= torch.bincount(met.cpu(), minlength=rows)
            counts[rows] = counted.clamp(min=0).double() + SMOOTHING
        made[index] = counts[rows]
    return made
