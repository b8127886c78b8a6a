"""What W&B gets of a run beside its rows: name, config, and how it ended."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel

from manta.config import RunConfig
from manta.config.credentials import without_credentials
from manta.config.metrics import LOSS, VAL_LOSS, in_wandb
from manta.config.units import parse_span, span_tokens
from manta.record.context import RunContext
from manta.record.goodput import device_seconds, goodput
from manta.record.history import Tail
from manta.record.results import run_results
from manta.record.run_state import RunState
from manta.show.wandb.wandb_run import RunInfo
from manta.storage.run_folder import METRICS

JOB_TYPE = "train"
# Longest names and tags that W&B accepts, in characters.
LONGEST_NAME, LONGEST_TAG = 128, 64


def run_info(
    config: RunConfig, state: RunState, run_dir: Path, context: RunContext | None
) -> RunInfo:
    """The facts with which a run's W&B run is opened.

    Args:
        config: the run's config.
        state: the run's record.
        run_dir: the run's folder.
        context: the whole that the run is part of, such as a sweep; None for a lone run.
    """
    shown: dict[str, Any] = config.model_dump(mode="json")
    if not config.faults:  # faults are for tests: the W&B config leaves them out
        del shown["faults"]
    del shown["alerts"]  # arguments of a command, such as an address that should stay private
    shown["corpus"] = without_credentials(config.corpus)
    shown["corpus_fingerprint"] = state.corpus_fingerprint
    shown["numbers"] = {
        **numbers(config),
        "total_tokens": state.total_tokens,
        "total_steps": state.total_steps,
    }
    shown["environment"] = {
        "manta": state.manta_version,
        "git": state.git,
        "packages": state.packages,
        "hardware": state.hardware,
    }
    name, section = state.name, config.wandb
    best: dict[str, Literal["min", "max"]] = {VAL_LOSS: "min"}
    if context is None:
        tags = dict.fromkeys([*section.tags, _kind(config)[:LONGEST_TAG]])
        section = section.model_copy(update={"tags": list(tags)})
    else:
        parts = {key: _with_numbers(part, config) for key, part in context.config.items()}
        shown |= parts
        best[context.metric] = context.mode
        if context.label:
            name = f"{name} {context.label}"[:LONGEST_NAME]
    return RunInfo(
        id=state.wandb.id,
        name=name,
        run_dir=run_dir,
        section=section,
        config=shown,
        job_type=context.job_type if context else JOB_TYPE,
        alerts=len(state.alerts) if config.alerts.wandb else None,
        val_tokens_per_byte=state.val_tokens_per_byte,
        best=best,
    )


def _kind(config: RunConfig) -> str:
    """The model's type, or the name of the pretrained model."""
    model = config.model
    return model.type or (model.pretrained or "").rstrip("/").rpartition("/")[2]


def numbers(config: RunConfig) -> dict[str, int | float]:
    """Values that the config has as text, as numbers that W&B can sort and draw.

    ``horizon: 1B`` is `horizon_tokens`; ``lr.decay: 20%`` is `lr_decay_tokens` and, as a share of
    the horizon, `lr_decay_share`. Values that are numbers already are added as they are.
    """
    schedule = config.schedule
    found: dict[str, int | float] = {"horizon_tokens": schedule.horizon}
    for part, spec in (("lr", schedule.lr), ("batch", schedule.batch)):
        if isinstance(spec, BaseModel):
            for key, value in spec.model_dump(by_alias=True, exclude_none=True).items():
                found |= _number(f"{part}_{key}", value, schedule.horizon)
        else:
            found |= _number(part, spec, schedule.horizon)
    for key, tokens in (
        ("eval_every", config.eval.every),
        ("eval", config.eval.tokens),
        ("checkpoint_every", config.checkpoint.every),
        ("log_every", config.log.every),
    ):
        if tokens is not None:
            found[f"{key}_tokens"] = tokens
    return found


SPANS = ("warmup", "decay", "start", "over")


def _number(name: str, value: Any, horizon: int) -> dict[str, int | float]:
    if isinstance(value, bool | list | dict):
        return {}
    if not isinstance(value, str) and name.rpartition("_")[2] not in SPANS:
        return {name: value}
    try:
        tokens = span_tokens(parse_span(value), horizon)
    except ValueError:  # text that is no number
        return {}
    return {f"{name}_tokens": tokens, f"{name}_share": tokens / horizon}


def _with_numbers(part: Any, config: RunConfig) -> Any:
    """A trial's parameters, with numbers added for those that are text."""
    if not isinstance(part, Mapping):
        return part
    found = dict(part)
    for key, value in part.items():
        if isinstance(value, str):
            found |= _number(key, value, config.schedule.horizon)
    return found


def run_summary(
    state: RunState, config: RunConfig, run_dir: Path, context: RunContext | None
) -> dict[str, Any]:
    """How the run ended, for the W&B summary."""
    results = state.results.model_dump(exclude={LOSS, VAL_LOSS}, exclude_none=True)
    stands = _results(state, config, run_dir, context)
    found = {
        "status": state.status,
        "reason": state.reason,
        "ledger_digest": state.ledger_digest,
        "corpus_fingerprint": state.corpus_fingerprint,
        "restarts": state.restarts,
        "totals": state.totals.model_dump(exclude_none=True),
        **results,
        **stands,
        **state.final,
    }
    if (share := goodput(state)) is not None:
        found |= {"goodput": share, "device_seconds": device_seconds(state)}
    # W&B forgets the best value of rows sent before a restart, so the summary sets it.
    if context is not None and "metric" in stands:
        best = {context.mode: stands["best_metric"], "last": stands["metric"]}
        found[in_wandb(context.metric)] = best
    if (value := state.results.best_val_loss) is not None:
        found[in_wandb(VAL_LOSS)] = {"min": value, "last": state.results.val_loss}
    return found


def _results(
    state: RunState, config: RunConfig, run_dir: Path, context: RunContext | None
) -> dict[str, Any]:
    compared = (context.metric, context.mode) if context else ()
    try:
        return run_results(state, config, Tail(run_dir / METRICS).rows(), *compared).as_dict()
    except OSError:
        return {}  # W&B has the rows already, and errors of the files are reported elsewhere
