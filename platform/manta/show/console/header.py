"""What a run is, in the lines that stand before its first step."""

from __future__ import annotations

from typing import TYPE_CHECKING

from manta.config.units import format_tokens
from manta.record import number_format
from manta.record.run_state import RunState

if TYPE_CHECKING:
    from manta.show.console.remarks import PlannedRun

# What `train.precision` means, as people call it.
PRECISIONS = {"no": "float32", "bf16": "bf16 autocast", "fp16": "fp16 autocast"}
MASTERS = "bf16 weights with float32 masters"
WORTH_SAYING = 2**30  # bytes
# What stands behind float32 on a GPU: Torch's default is several times slower there.
TF32, NO_TF32 = " with TF32", " without TF32"


def plan_lines(plan: PlannedRun, eval_samples: int) -> list[str]:
    """What is known before workers are there.

    Args:
        plan: the run.
        eval_samples: that each evaluation reads; 0 without evaluations.
    """
    return [_training(plan), *_evaluations(plan, eval_samples)]


def _training(plan: PlannedRun) -> str:
    sizes = [plateau.batch * plan.schedule.seq_len for plateau in plan.schedule.plateaus]
    least, most = (number_format.count(size) for size in (min(sizes), max(sizes)))
    each = least if least == most else f"{least} to {most}"
    return f"{each} tokens a step, {plan.epochs:.3g} epochs over the corpus"


def _evaluations(plan: PlannedRun, samples: int) -> list[str]:
    section = plan.config.eval
    if not samples:
        return ["no evaluations: eval.every is left out"]
    when = [f"every {format_tokens(section.every)} tokens"] if section.every else []
    when += [f"at {', '.join(map(format_tokens, section.at))} tokens"] if section.at else []
    tokens = number_format.count(samples * plan.schedule.seq_len)
    return [f"evaluates {' and '.join(when)}, at step 0 and the end: {tokens} validation tokens"]


def model_line(state: RunState) -> str:
    """The model, and what computes it, as the workers found them; "" if they did not say."""
    workers = state.hardware.get("workers") or {}
    if "parameters" not in workers:
        return ""
    total, trained = workers["parameters"], workers["trained_parameters"]
    which = "all trained" if trained == total else f"{number_format.count(trained)} trained"
    device = workers.get("gpu") or f"CPU, {_threads(workers.get('threads', 1))} a worker"
    precision = PRECISIONS.get(workers["precision"], workers["precision"])
    if workers.get("param_dtype") == "bf16":
        precision = MASTERS
    if workers["precision"] == "no" and workers.get("gpu"):
        precision += TF32 if workers.get("matmul_precision") == "high" else NO_TF32
    model = f"{workers['model']}, {number_format.count(total)} parameters, {which}"
    return f"{model}; {precision} on {device}{_host_memory(workers.get('host_memory', 0))}"


def _host_memory(size: float) -> str:
    """Of a node, where it is so much that a node may lack it."""
    if size < WORTH_SAYING:
        return ""
    return f"; snapshots and checkpoints take up to {number_format.memory(size)} of a node's memory"


def _threads(count: int) -> str:
    return f"{count} thread{'' if count == 1 else 's'}"
