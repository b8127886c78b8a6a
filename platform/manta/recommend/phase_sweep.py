"""A phase of a tuning as a sweep: its runs as points of a space, and the losses they ended with."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from pprint import pformat
from typing import Any

from manta.config.errors import TrainingError
from manta.config.sweep import SweepConfig, SweepSection
from manta.config.tuning import Phase, TuningConfig
from manta.config.units import format_tokens
from manta.record.history import Tail
from manta.record.sweep_state import SweepTrial, read_sweep
from manta.storage.atomic import replace_text
from manta.storage.place import Place, place_of
from manta.storage.run_folder import METRICS
from manta.storage.working import working_folder

POINT = "_point"
SPACE = '''"""{question}"""

from ray import tune

POINTS = {points}


def of(key):
    """The value of a key at the point of a trial."""
    return tune.sample_from(lambda trial: POINTS[trial["_point"]][key])


space = {{"_point": tune.grid_search(list(POINTS)), {keys}}}
metric = "val_loss"
mode = "min"
seeds = {seeds}
'''
# What the base says of its own evaluations and checkpoints suits a whole run. A spike or a bad
# step ends a run of a tuning: that it does is what a rate is tried for.
OWN = (
    *("eval.at=[]", "eval.patience=null", "checkpoint.every=null", "checkpoint.at=[]"),
    *("checkpoint.keep=1", "log.every=0", "guards.nonfinite=stop", "guards.spike=off"),
)


@dataclass(frozen=True)
class PhaseSweep:
    """The sweep of a phase.

    Attributes:
        config: the tuning.
        phase: the phase, after which the sweep's folder is called.
        question: the question that the phase answers.
        points: values of dotted keys by the name of each run; all have the same keys.
        seeds: seeds of each run.
        overrides: changes of the base by what was found before, as dotted.key=value.
    """

    config: TuningConfig
    phase: Phase
    question: str
    points: Mapping[str, Mapping[str, Any]]
    seeds: Sequence[int]
    overrides: tuple[str, ...] = ()

    @property
    def place(self) -> Place:
        """Folder or URL of the sweep."""
        return folder_of(self.config) / self.phase

    def written(self, folder: Path, horizon: int, group: str | None) -> SweepConfig:
        """The sweep's config, once its space is written.

        Args:
            folder: where the space is written.
            horizon: tokens of the whole run, beyond which no run of a phase goes.
            group: the base's group in W&B; the tuning's name if it has none.
        """
        path = folder / f"{self.phase}_space.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_text(path, self._space())
        overrides = [
            *self.config.overrides,
            *OWN,
            f"eval.every={format_tokens(horizon)}",
            f"wandb.group={group or self.config.tuning.name}",
            *self.overrides,
        ]
        return SweepConfig(
            sweep=SweepSection(name=self.phase, storage=str(folder_of(self.config))),
            base=self.config.base,
            overrides=overrides,
            space=str(path.absolute()),
            concurrent=self.config.concurrent,
        )

    def _space(self) -> str:
        keys = next(iter(self.points.values()))
        return SPACE.format(
            question=self.question,
            points=pformat({name: dict(each) for name, each in self.points.items()}, width=96),
            keys=", ".join(f'"{key}": of("{key}")' for key in keys),
            seeds=list(self.seeds),
        )

    def losses(self) -> dict[str, list[float | None]]:
        """The validation loss at the end of each run, by seed; None where it diverged.

        Raises:
            TrainingError: if a run failed otherwise.
        """
        found = {(str(t.params[POINT]), t.seed): t for t in read_sweep(self.place).trials}
        return {name: [_loss(found[name, seed]) for seed in self.seeds] for name in self.points}

    def rows(self, name: str, seed: int) -> Iterable[Mapping[str, Any]]:
        """The rows of metrics of a run, those included that it shares with others."""
        trial = next(
            t for t in read_sweep(self.place).trials if (t.params[POINT], t.seed) == (name, seed)
        )
        return Tail(working_folder(self.place) / trial.name / METRICS).rows()

    @property
    def tokens(self) -> int:
        """Tokens that the sweep has trained."""
        return read_sweep(self.place).tokens.trained


def _loss(trial: SweepTrial) -> float | None:
    if trial.status == "diverged":
        return None
    if trial.status != "finished" or trial.value is None:
        raise TrainingError(
            f"run {trial.name} ({trial.label}) of the tuning {trial.status}: "
            f"{trial.reason or 'no loss was measured'}; the same command continues the tuning"
        )
    return trial.value


def folder_of(config: TuningConfig) -> Place:
    """Folder or URL where a tuning is kept."""
    return place_of(config.tuning.storage) / config.tuning.name


def working_folder_of(config: TuningConfig) -> Path:
    """Folder on the driver's node in which a tuning works."""
    return working_folder(folder_of(config))
