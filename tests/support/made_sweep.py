"""A sweep and runs without any training: real run records around made-up losses.

The losses follow a plain law of tokens and learning rate, so that tests know who must win.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

from manta.config import RunConfig
from manta.corpus.manifest import Manifest
from manta.record import run_record
from manta.record.run_record import RunRecord
from manta.record.run_state import GroupStart
from manta.schedule import Schedule

SEQ_LEN = 1024
HORIZON = 2_000_000_000
ROWS = 100
SPEED = 400_000.0  # tokens a second of two workers
START_SECONDS, EVALUATION_SECONDS = 30.0, 2.0

Loss = Callable[[int], float]


def manifest(vocab_size: int = 300) -> Manifest:
    """A manifest of an empty corpus; another `vocab_size` is another fingerprint."""
    return Manifest(
        manta_version="0",
        token_dtype="uint16",
        vocab_size=vocab_size,
        eos_id=0,
        tokenizer_file="tokenizer.json",
        tokenizer_sha256="",
        config={},
        counts={},
        dropped={},
        shards=[],
    ).sealed()


def base(storage: Path, name: str, **sections: Any) -> dict[str, Any]:
    """A config as a mapping; keywords update whole sections key by key."""
    config: dict[str, Any] = {
        "run": {"name": name, "storage": str(storage)},
        "corpus": "corpora/made",
        "model": {"type": "llama", "sizes": {"hidden_size": 768, "num_hidden_layers": 12}},
        "train": {"seq_len": SEQ_LEN, "micro_batch": 16},
        "schedule": {
            "horizon": HORIZON,
            "lr": {"name": "wsd", "peak": 1e-3, "warmup": "2%", "decay": "20%"},
            "batch": 64,
        },
        "scaling": {"min": 2, "resources_per_worker": {"GPU": 1}},
        "eval": {"every": HORIZON // ROWS},
        "cost": {"per_device_hour": 2.5},
        "wandb": {"mode": "disabled"},
    }
    for key, section in sections.items():
        merge = isinstance(section, dict) and isinstance(config.get(key), dict)
        config[key] = {**config[key], **section} if merge else section
    return config


def write_run(
    config: Mapping[str, Any],
    loss: Loss,
    *,
    until: int | None = None,
    status: str = "finished",
    reason: str = "",
    speed: float = SPEED,
    of: Manifest | None = None,
    evaluates: bool = True,
    began: int = 0,
    ends: bool = True,
) -> Path:
    """Record a run with `ROWS` rows of each kind up to `until` tokens; returns its folder.

    Its time is that of its speed, of a start and of evaluations. Tokens up to `began` take none,
    as another run trained them. Unless it `ends`, it is left as a killed driver leaves it.
    """
    now = 0.0
    checked = RunConfig.model_validate(config)
    schedule = Schedule.resolve(checked.schedule, checked.train.seq_len)
    record = RunRecord.open(
        checked,
        of or manifest(),
        total_steps=schedule.steps,
        total_tokens=schedule.horizon,
        clock=lambda: now,
    )
    world = checked.scaling.min
    record.group_started(GroupStart(world, attempt=1, step=0, tokens=0, hardware={}))
    now += START_SECONDS
    before = began
    # Time flies here: the record would be saved with each row.
    with patch.object(run_record, "SAVE_SECONDS", math.inf):
        for number in range(1, ROWS + 1):
            tokens = schedule.horizon * number // ROWS
            if until is not None and tokens > until:
                break
            value = loss(tokens)
            now += max(0, tokens - before) / speed
            before = max(before, tokens)
            row = {"step": number, "tokens": tokens}
            record.add(
                {
                    **row,
                    "loss": value,
                    "lr": float(schedule.lr(tokens)),
                    "batch_size": schedule.batch_size(tokens),
                    "tokens_per_s": speed,
                    "world_size": world,
                }
            )
            if evaluates:
                now += EVALUATION_SECONDS if tokens > began else 0.0
                record.add({**row, "val_loss": value + 0.02})
    outcome = status if status in ("finished", "stopped", "failed") else "interrupted"
    if ends:
        record.finish(outcome, reason=reason, final={})  # type: ignore[arg-type]
    else:
        record.save()
    record.close()
    return record.run_dir


@dataclass
class Made:
    """One trial of a sweep that is being made."""

    name: str
    label: str
    params: dict[str, Any]
    seed: int
    parent: str | None = None
    fork_step: int = 0
    fork_tokens: int = 0
    end_tokens: int = HORIZON
    status: str = "finished"
    reason: str = ""
    until: int = field(default=HORIZON)
    begins: bool = True


def write_sweep(
    folder: Path, trials: list[Made], loss_of: Callable[[Made], Loss], **keys: Any
) -> Path:
    """Write `sweep.json` and the directory of each trial that has begun; returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for trial in trials:
        if trial.status == "waiting" or not trial.begins:
            continue
        config = base(folder, trial.name, run={"seed": trial.seed})
        for key, value in trial.params.items():
            *parents, last = key.split(".")
            section = config
            for part in parents:
                section = section[part]
            section[last] = value
        peak_batch = 1.0 if trial.params.get("schedule.batch", 64) == 64 else 1.25
        write_run(
            config,
            loss_of(trial),
            until=trial.until,
            status=trial.status,
            reason=trial.reason,
            speed=SPEED * peak_batch,
            began=trial.fork_tokens,
        )
    apart = sum(trial.until for trial in trials)
    trained = sum(trial.until - trial.fork_tokens for trial in trials)
    document = {
        "format": 1,
        "name": folder.name,
        "question": "",
        "metric": "val_loss",
        "mode": "min",
        "status": "finished",
        "base": base(folder, "base"),
        "tokens": {"apart": apart, "shared": apart - trained, "trained": trained},
        "trials": [
            {key: value for key, value in asdict(trial).items() if key not in ("until", "begins")}
            for trial in trials
        ],
        **keys,
    }
    (folder / "sweep.json").write_text(json.dumps(document, indent=1))
    return folder


def trial(name: str, peak: float, seed: int = 0, **fields: Any) -> Made:
    """A trial that is known by its peak."""
    return Made(name, name, {"schedule.lr.peak": peak}, seed, **fields)


def ends_at(value: float) -> Loss:
    """A straight line down to `value` at the horizon."""
    return lambda tokens: value + 2.0 * (1 - tokens / HORIZON)


RAMP = {"name": "ramp", "from": 64, "to": 192, "start": "50%", "over": "30%", "multiple_of": 16}


def decay_fan(peaks: tuple[float, ...] = (1e-3, 3e-3), seeds: int = 2) -> list[Made]:
    """Decays of three lengths × constant batch or a ramp × peaks × seeds, as one tree.

    A few trials were paused, and one diverged.
    """
    trials = []
    for peak in peaks:
        for seed in range(1, seeds + 1):
            trunk = None
            for batch in (64, RAMP):
                for decay in (10, 20, 40):
                    params = {
                        "schedule.lr.peak": peak,
                        "schedule.lr.decay": f"{decay}%",
                        "schedule.batch": batch,
                    }
                    kind = "flat" if batch == 64 else "ramp"
                    name = f"{kind}-{decay}-{peak:g}-s{seed}"
                    trial = Made(
                        name, f"{kind} batch, decay {decay} %, peak {peak:g}", params, seed
                    )
                    if trunk is None:
                        trunk = trial
                    else:
                        share = min(100 - decay, 50 if kind == "ramp" else 100)
                        if kind == "ramp" and decay != 10:
                            share, trial.parent = 100 - decay, f"ramp-10-{peak:g}-s{seed}"
                        else:
                            trial.parent = trunk.name
                        trial.fork_tokens = HORIZON * share // 100
                        trial.fork_step = share
                    trials.append(trial)
    for trial in trials:
        if trial.params["schedule.lr.peak"] == max(peaks) and "ramp" in trial.name:
            if trial.seed == 1 and trial.params["schedule.lr.decay"] == "40%":
                trial.status, trial.reason = "diverged", "the loss is no number at step 7,012"
                trial.until = HORIZON * 7 // 10
            elif trial.params["schedule.lr.decay"] == "20%":
                trial.status, trial.reason = "paused", "behind the others at 90 %"
                trial.until = HORIZON * 9 // 10
    return trials


def plausible_loss(trial: Made) -> Loss:
    """A power law of tokens, lower for a decayed rate; the best peak is 1e-3, decay 20 %."""
    peak = trial.params.get("schedule.lr.peak", 1e-3)
    decay = int(str(trial.params.get("schedule.lr.decay", "20%")).rstrip("%")) / 100
    flat = trial.params.get("schedule.batch", 64) == 64
    run_offset = random.Random(f"{peak}{trial.seed}").gauss(0, 0.004)
    noise = random.Random(trial.name)
    own = noise.gauss(0, 0.0015)

    def loss(tokens: int) -> float:
        share = tokens / HORIZON
        value = 2.55 + 1.9 * (tokens / 2e7) ** -0.33 + 0.03 * abs(math.log10(peak / 1e-3))
        value += 4.0 * math.exp(-tokens / 3e7)
        progress = max(0.0, (share - (1 - decay)) / decay)
        value -= (0.11 - 0.35 * abs(decay - 0.2) ** 1.5) * math.sqrt(progress)
        ramped = 0.0 if flat else max(0.0, min(1.0, (share - 0.5) / 0.3))
        value -= 0.004 * ramped
        return value + run_offset + (own if progress or ramped else 0) + noise.gauss(0, 0.0008)

    return loss
