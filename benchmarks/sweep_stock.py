"""The stock side of `sweep.py`: Ray Tune, and for each trial a TorchTrainer with a plain loop.

    python benchmarks/sweep_stock.py grid|asha SWEEP.yaml FOLDER

The trials are those of the sweep file. What is trained is the same as Manta's to the sample: the
batches of `local_stream`, the model, AdamW's groups, the rate of each step, validation. Only how
it is trained is what a person would write. The settings are kind to it: Ray Train looks at its
workers as often as Manta does, the workers have Manta's allocator settings, and nothing is saved.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sweep_log import TrialLog

if TYPE_CHECKING:
    from manta.elastic.checks.preflight import Checked

# A trial asks Tune for a little, which two workers of a whole CPU would leave nothing of.
TRIAL_CPUS, WORKER_CPUS = 0.01, 0.95
# ASHA's rungs are the grace period, in percent of the horizon, times powers of the factor. With
# 30 % it would compare trials that have hardly begun to differ, and then at 90 % save nothing.
GRACE, FACTOR = 40, 3


class PlainEngine:
    """What `manta.train.evaluate` asks of an engine, on one rank."""

    def __init__(self, config: Any, lm: Any):
        import torch

        from manta.objective.causal import Causal
        from manta.parallel.ranks import Ranks

        self.objective = Causal()
        self.config, self.lm, self.device = config, lm, torch.device("cpu")
        self.ranks = Ranks(self.device)

    def losses(self, samples: Any) -> tuple[Any, Any]:
        """Summed loss and count of labels, shape (1,) each."""
        import torch
        import torch.nn.functional as F

        from manta.model.cross_entropy import IGNORE
        from manta.objective.causal import labels_of

        tokens = torch.from_numpy(samples["tokens"].astype("int64"))
        labels = labels_of(tokens, None)
        logits = self.lm(input_ids=tokens, use_cache=False).logits
        loss = F.cross_entropy(
            logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORE, reduction="sum"
        )
        return loss.reshape(1), (labels != IGNORE).sum().reshape(1)

    def compiles_for(self, kind: str) -> bool:
        """Nothing is compiled."""
        return False

    def measure(self, samples: Any, most: int = 1) -> tuple[Any, Any]:
        """The same without gradients."""
        import torch

        self.lm.eval()
        with torch.no_grad():
            found = self.losses(samples)
        self.lm.train()
        return found


def work(given: dict[str, Any]) -> None:
    """Train one trial as the one worker of a TorchTrainer."""
    import torch

    from manta.model import hf_config, language_model
    from manta.optimizer.build import build
    from manta.stream.plan import local_stream

    checked: Checked = given["checked"]
    config, schedule = checked.config, checked.schedule
    log = TrialLog(config.run.name)
    lm = language_model.build(config, hf_config.resolve(config, checked.manifest.vocabulary))
    adamw = build(config.optimizer, lm, 1)
    engine = PlainEngine(config, lm)
    validated = _validation(checked, engine, log)
    validated(0)
    every = config.eval.every
    for batch in local_stream(checked.corpus, schedule, cursor=0, rank=0, world_size=1):
        step = batch.step
        loss, count = engine.losses(batch.samples)
        (loss / count).backward()
        torch.nn.utils.clip_grad_norm_(lm.parameters(), config.train.clip_norm)
        for group in adamw.param_groups:
            group["lr"] = step.lr
        adamw.step()
        adamw.zero_grad(set_to_none=True)
        log.stepped(step.tokens_after)
        if step.number == schedule.steps or step.tokens // every < step.tokens_after // every:
            validated(step.tokens_after)


def _validation(checked: Checked, engine: PlainEngine, log: TrialLog) -> Any:
    """Validates and reports, at a token count."""
    import ray.train

    from manta.train.evaluate import evaluate

    noted = log.timed(lambda *given: evaluate(*given).loss)

    def validated(tokens: int) -> None:
        value = noted(engine, checked.validation)
        ray.train.report({"tokens": tokens, "val_loss": value})

    return validated


def trial(config: dict[str, Any], checked: dict[str, Checked], folder: str) -> None:
    """What Ray Tune runs: one trial from its begin to its end."""
    from ray.train import RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer
    from ray.tune.integration.ray_train import TuneReportCallback

    from manta.elastic.worker.environment import CPU_ALLOCATOR

    name = config["trial"]
    log = TrialLog(name)
    log.began()
    TorchTrainer(
        work,
        train_loop_config={"checked": checked[name]},
        scaling_config=ScalingConfig(num_workers=1, resources_per_worker={"CPU": WORKER_CPUS}),
        run_config=RunConfig(
            name=name,
            storage_path=f"{folder}/trials",
            callbacks=[TuneReportCallback()],
            worker_runtime_env={"env_vars": {"OMP_NUM_THREADS": "1", **CPU_ALLOCATOR}},
        ),
    ).fit()
    log.ended()


def run(kind: str, file: Path, folder: Path) -> None:
    """All trials of a sweep file by Ray Tune."""
    import ray
    from ray import tune
    from ray.tune.schedulers import ASHAScheduler, FIFOScheduler

    from manta.config import load_sweep
    from manta.elastic.checks.preflight import check
    from manta.tune.sweep_plan import Outline

    outline = Outline(load_sweep(file))
    checked = {one.name: check(one.config) for one in outline.trials}
    horizon = outline.base.horizon
    asha = ASHAScheduler(
        time_attr="tokens",
        grace_period=horizon * GRACE // 100,
        reduction_factor=FACTOR,
        max_t=horizon,
    )
    ray.init(address="local", log_to_driver=False)
    given = tune.with_parameters(trial, checked=checked, folder=str(folder))
    results = tune.Tuner(
        tune.with_resources(given, {"CPU": TRIAL_CPUS}),
        param_space={"trial": tune.grid_search(list(checked))},
        tune_config=tune.TuneConfig(
            metric="val_loss",
            mode="min",
            max_concurrent_trials=outline.config.concurrent,
            scheduler=asha if kind == "asha" else FIFOScheduler(),
        ),
        run_config=tune.RunConfig(name="tune", storage_path=str(folder), verbose=0),
    ).fit()
    ray.shutdown()
    if results.errors:
        raise results.errors[0]


if __name__ == "__main__":
    # Before Ray is imported, and for all of its processes.
    os.environ["RAY_AUTH_MODE"] = "disabled"
    os.environ["OMP_NUM_THREADS"] = "1"
    os.environ["RAY_TRAIN_HEALTH_CHECK_INTERVAL_S"] = "0.25"
    # By its name, so that Ray's processes import it instead of being sent a copy.
    from sweep_stock import run as run_by_name

    run_by_name(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
