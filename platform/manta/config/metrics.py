"""The metrics of a run: unit and meaning, which direction is better, their names in W&B.

Rows of `metrics.jsonl` use `Metric.name`. In W&B, the part of a name before the first slash makes
a section of charts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

LOSS = "loss"
SEQ_LEN = "seq_len"
VAL_LOSS = "val_loss"
# The same with the average of the weights in their place (`optimizer.average`).
VAL_LOSS_AVERAGE = "val_loss_average"
# Prefix of a source's validation loss: `val_loss/NAME` is the loss over that source's samples.
VAL_LOSS_OF = f"{VAL_LOSS}/"
# Key of a row with what evaluators found beside training, which has the evaluation's name. The
# values in it are those of metrics called `EVALUATOR/METRIC`.
EVALUATION = "evaluation"
# Prefix of a source's tokens: of a mixture, `tokens/NAME` are those consumed of that source.
TOKENS_OF = "tokens/"
# Before a term's name, where an objective has several: its mean in training and in validation.
TERM, VAL_TERM = "term/", "val_term/"
# Parts before a slash that rows of training have, and that no evaluator may be called.
RESERVED = tuple(prefix.rstrip("/") for prefix in (VAL_LOSS_OF, TOKENS_OF, TERM, VAL_TERM))
# Activities that the device time of a run is counted by; `record/goodput.py` has their meanings.
COMPUTING, AGAIN = "computing", "again"
WAITING_FOR_DATA, WAITING_FOR_OTHERS = "waiting_for_data", "waiting_for_others"
EVALUATING, SAVING, OTHER, ENDING = "evaluating", "saving", "other", "ending"
STARTING, REGROUPING = "starting", "regrouping"
# What objectives show beside their loss, if more of it is better.
MORE_IS_BETTER = ("accuracy", "f1", "margin")


@dataclass(frozen=True)
class Metric:
    """One metric.

    Attributes:
        name: the metric's key in a row of `metrics.jsonl`.
        wandb: the metric's name in W&B.
        unit: the unit of its values; "" for a plain number.
        meaning: the quantity that the metric measures, for people.
        best: whether "min" or "max" is the better direction; None where neither is.
    """

    name: str
    wandb: str
    unit: str
    meaning: str
    best: Literal["min", "max"] | None = None


METRICS = {
    metric.name: metric
    for metric in (
        Metric(VAL_LOSS, "val/loss", "nats a token", "mean loss of the validation samples", "min"),
        Metric(
            VAL_LOSS_AVERAGE,
            "val/loss_average",
            "nats a token",
            "validation loss of the average of the weights",
            "min",
        ),
        Metric(LOSS, "train/loss", "nats a token", "mean loss of the batch of a step", "min"),
        Metric(
            "bits_per_byte",
            "val/bits_per_byte",
            "bits a byte of text",
            "validation loss, whatever the tokenizer",
            "min",
        ),
        Metric("tokens", "tokens", "tokens", "consumed by the run; the x-axis of all charts"),
        Metric("epoch", "train/epoch", "", "number of the epoch, from 0"),
        Metric("skipped", "train/skipped", "", "whether the update of the step was dropped"),
        Metric("lr", "optim/lr", "", "learning rate of the step"),
        Metric("batch_size", "optim/batch_size", "samples", "samples of the step, all workers"),
        Metric(SEQ_LEN, "optim/seq_len", "tokens", "tokens of the rows that the model saw"),
        Metric(
            "grad_norm", "optim/grad_norm", "", "L2 norm of the gradient before clipping", "min"
        ),
        Metric(
            "grad_norm_pass",
            "optim/grad_norm_pass",
            "",
            "L2 norm of the mean gradient of a first pass, in steps of several passes",
        ),
        Metric("pass_samples", "optim/pass_samples", "samples", "samples of such a first pass"),
        Metric("world_size", "perf/workers", "workers", "workers that trained the step"),
        Metric("tokens_per_s", "perf/tokens_per_s", "tokens/s", "speed since the last row", "max"),
        Metric("mfu", "perf/mfu", "share of 1", "model FLOPs of the devices' peak", "max"),
        Metric("peak_memory", "perf/peak_memory_bytes", "bytes", "peak memory of a device so far"),
        Metric("time_data", "perf/wait_data_s", "s a step", "waiting for the next batch"),
        Metric(
            "time_communication", "perf/wait_workers_s", "s a step", "waiting for other workers"
        ),
        Metric("time_compute", "perf/compute_s", "s a step", "forward and backward pass"),
        Metric("time_optimizer", "perf/optimizer_s", "s a step", "clipping and update"),
    )
}
# Runs and trials may be compared by metrics that have a better direction.
COMPARABLE = {
    name: metric.best
    for name, metric in METRICS.items()
    if metric.best is not None and name != "bits_per_byte"  # computed for display; no row has it
}


# What evaluators measure, by the part of a metric's name after the evaluator's; results of
# `manta evaluate` have these, and metrics of the user's own beside them.
EVALUATED = {
    metric.name: metric
    for metric in (
        Metric("loss", "eval/loss", "nats a token", "mean cross-entropy of the next token", "min"),
        Metric("perplexity", "eval/perplexity", "", "e to the loss", "min"),
        Metric("bits_per_byte", "eval/bits_per_byte", "bits a byte of text", "loss", "min"),
        Metric("accuracy", "eval/accuracy", "share of 1", "the likeliest is right", "max"),
        Metric("ece", "eval/ece", "share of 1", "expected calibration error", "min"),
        Metric("brier", "eval/brier", "", "squared error of all probabilities", "min"),
        Metric("nll", "eval/nll", "nats", "minus the log-probability of what is right", "min"),
        Metric("aurc", "eval/aurc", "share of 1", "error averaged over all coverages", "min"),
        Metric("confidence", "eval/confidence", "share of 1", "probability of the likeliest"),
        Metric("success", "eval/success", "share of 1", "answers that pass all checks", "max"),
        Metric(
            "refused_rightly",
            "eval/refused_rightly",
            "share of 1",
            "declined, of the prompts that should be",
            "max",
        ),
        Metric(
            "refused_wrongly",
            "eval/refused_wrongly",
            "share of 1",
            "declined, of the prompts that should be answered",
            "min",
        ),
        Metric(
            "hallucination_rate",
            "eval/hallucination_rate",
            "share of 1",
            "answers with a claim that their context doesn't support",
            "min",
        ),
        Metric(
            "unsupported_per_100",
            "eval/unsupported_per_100",
            "claims",
            "claims without support in 100 answers",
            "min",
        ),
        Metric(
            "policy_violations",
            "eval/policy_violations",
            "share of 1",
            "answers that match an unwanted pattern, or lack a wanted one",
            "min",
        ),
        Metric("answer_tokens", "eval/answer_tokens", "tokens", "length of an answer"),
        Metric("cut_off", "eval/cut_off", "share of 1", "answers that end for lack of tokens"),
        Metric("first_token_p50", "eval/first_token_p50", "s", "time to the first token", "min"),
        Metric("first_token_p95", "eval/first_token_p95", "s", "time to the first token", "min"),
        Metric("latency_p50", "eval/latency_p50", "s", "time to the whole answer", "min"),
        Metric("latency_p95", "eval/latency_p95", "s", "time to the whole answer", "min"),
        Metric("tokens_per_s", "eval/tokens_per_s", "tokens/s", "speed of writing", "max"),
        Metric("peak_memory", "eval/peak_memory", "bytes", "most memory meanwhile", "min"),
        Metric(
            "cost_per_1000", "eval/cost_per_1000", "", "price of 1,000 answers on the device", "min"
        ),
    )
}
# What depends on the machine and its load, not on the model alone.
TIMED = frozenset(
    f"{name}_{share}" for name in ("first_token", "latency") for share in ("p50", "p95")
) | {"tokens_per_s", "peak_memory", "cost_per_1000"}


def better(name: str) -> Literal["min", "max"] | None:
    """The better direction of a metric that runs and trials may be compared by; None for another.

    Of a term's mean less is better, as of a loss, unless it is one of `MORE_IS_BETTER`.
    """
    if of_evaluator(name):
        known = EVALUATED.get(name.rpartition("/")[2])
        return None if known is None else known.best
    if not name.startswith((TERM, VAL_TERM)):
        return COMPARABLE.get(name)
    return "max" if name.removeprefix(VAL_TERM).removeprefix(TERM) in MORE_IS_BETTER else "min"


def of_evaluator(name: str) -> bool:
    """Whether a metric is one of an evaluator beside training: ``EVALUATOR/METRIC``."""
    evaluator, slash, _ = name.partition("/")
    return bool(slash) and evaluator not in RESERVED


def is_loss(name: str) -> bool:
    """Whether a metric is the loss, in training or over validation samples."""
    return name in (LOSS, VAL_LOSS, VAL_LOSS_AVERAGE) or name.startswith(VAL_LOSS_OF)


def in_wandb(name: str) -> str:
    """The W&B name of a row's metric; an unlisted metric goes into the section `train/`."""
    if name.startswith(VAL_LOSS_OF):
        return f"{METRICS[VAL_LOSS].wandb}/{name.removeprefix(VAL_LOSS_OF)}"
    if name.startswith(TOKENS_OF):
        return f"data/{name}"
    if name.startswith(VAL_TERM):
        return f"val/{name.removeprefix('val_')}"
    if of_evaluator(name):
        return f"eval/{name}"
    return METRICS[name].wandb if name in METRICS else f"train/{name}"
