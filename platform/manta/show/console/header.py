"""The lines printed before a run's first step: what will be trained, and on what."""

from __future__ import annotations

from typing import TYPE_CHECKING

from manta.config.units import format_tokens
from manta.record import number_format
from manta.record.run_state import RunState

if TYPE_CHECKING:
    from manta.show.console.remarks import PlannedRun

# Value of `train.precision` → its usual name.
PRECISIONS = {"no": "float32", "bf16": "bf16 autocast", "fp16": "fp16 autocast"}
MASTERS = "bf16 weights with float32 masters"
WORTH_SAYING = 2**30  # bytes of host memory from which on the line names them
# Added to float32 on a GPU, because without TF32 (Torch's default) it is several times slower.
TF32, NO_TF32 = " with TF32", " without TF32"


def plan_lines(plan: PlannedRun, eval_samples: int) -> list[str]:
    """The lines on what is known before there are workers.

    Args:
        plan: the planned run.
        eval_samples: number of samples that each evaluation reads; 0 without evaluations.
    """
    return [_training(plan), *length_lines(plan), *evaluation_lines(plan, eval_samples)]


def evaluation_lines(plan: PlannedRun, eval_samples: int) -> list[str]:
    """The lines on what is evaluated, and when; `eval_samples` as for `plan_lines`."""
    return [*_evaluations(plan, eval_samples), *_evaluators(plan)]


def _training(plan: PlannedRun) -> str:
    sizes = [plateau.batch * plan.schedule.seq_len for plateau in plan.schedule.plateaus]
    least, most = (number_format.count(size) for size in (min(sizes), max(sizes)))
    each = least if least == most else f"{least} to {most}"
    return f"{each} tokens a step, {plan.often_seen}"


def length_lines(plan: PlannedRun) -> list[str]:
    """A line on lengths of rows that change; none if they never do."""
    from manta.schedule.lengths import Lengths, words  # NumPy

    lengths = Lengths.resolve(plan.config.train, plan.config.schedule.horizon)
    return [words(lengths)] if lengths.ends else []


def _evaluations(plan: PlannedRun, samples: int) -> list[str]:
    section = plan.config.eval
    if not samples:
        return ["no evaluations: eval.every is not set"]
    when = [f"every {format_tokens(section.every)} tokens"] if section.every else []
    when += [f"at {', '.join(map(format_tokens, section.at))} tokens"] if section.at else []
    tokens = number_format.count(samples * plan.schedule.seq_len)
    return [f"evaluates {' and '.join(when)}, at step 0 and the end: {tokens} validation tokens"]


def _evaluators(plan: PlannedRun) -> list[str]:
    section = plan.config.eval.evaluators
    if section is None or isinstance(section.config, str):
        return []
    when = "each scheduled checkpoint"
    if section.every is not None:
        when = f"every {format_tokens(section.every)} tokens and at the end"
    return [f"evaluators beside training: {section.config.get('name')}, {when}"]


def model_line(state: RunState) -> str:
    """The model and its devices, as the workers reported them; "" if they did not."""
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
    """A note on the host memory that a node needs; "" if it is little."""
    if size < WORTH_SAYING:
        return ""
    return f"; snapshots and checkpoints take up to {number_format.memory(size)} of a node's memory"


def _threads(count: int) -> str:
    return f"{count} thread{'' if count == 1 else 's'}"
