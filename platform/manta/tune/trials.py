"""The trials of a sweep: from parameters to run configs and trainings.

A trial is an ordinary run in the folder of its sweep. Trials are numbered in the order in which
they are drawn, so that the same sweep gives the same names.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from pydantic import JsonValue

from manta.config.errors import ConfigError
from manta.config.on_change import OnChange, keys_of
from manta.config.run import RunConfig, WandbSection
from manta.config.schedule import Past
from manta.config.sweep import SweepConfig
from manta.corpus.manifest import Manifest
from manta.elastic.checks.preflight import absolute
from manta.record.param_names import SEED
from manta.schedule.lengths import Lengths
from manta.schedule.shares import Mixture
from manta.show.compare.comparison_stats import short
from manta.show.compare.config_differences import without
from manta.storage.place import place_of
from manta.stream.mixed_sources import mixture_of
from manta.tune.base import Base
from manta.tune.space import Space
from manta.tune.tree import Training
from manta.tune.trial import named_after, trial_config, trial_schedule

# Keys in which trials that share steps may differ. Keys that a run may change with a note
# (`OnChange.NOTE`) are not among them: they can change the order of additions, and shared steps are
# equal to the bit. Schedules, mixtures and lengths are compared step by step; of the section `run`
# the seed counts.
INDIFFERENT = (
    *keys_of(RunConfig, OnChange.KEEP, OnChange.LABEL),
    "schedule",
    "data.mixture",
    "train.seq_len_warmup",
    "run",
)


@dataclass(frozen=True)
class Trial:
    """One trial.

    Attributes:
        name: name of the trial's run.
        label: the trial's parameters, as people read them.
        params: the trial's parameters by dotted key, without the seed.
        config: the run's config, complete but for the steps to save for trials that fork from it.
        training: the training that the trial does.
    """

    name: str
    label: str
    params: dict[str, JsonValue]
    config: RunConfig
    training: Training

    @property
    def seed(self) -> int:
        """Seed of the initial weights and the sample order."""
        return self.config.run.seed

    @property
    def end_tokens(self) -> int:
        """Tokens of the trial's whole history, shared steps included."""
        return self.training.tokens_after(self.training.schedule.steps)


class Trials:
    """Makes trials from parameters, and names them.

    Args:
        config: the sweep's config.
        space: the sweep's search space.
        base: the sweep's base config.
        made: trials that were made before, in the order in which they were made.
    """

    def __init__(self, config: SweepConfig, space: Space, base: Base, made: Sequence[Trial] = ()):
        self._config, self._space, self._base = config, space, base
        self._numbers: dict[str, int] = {}
        self._names: set[str] = set()
        self._manifests: dict[str, Manifest] = {}
        for trial in made:
            self._name(trial.params, trial.seed)

    def make(
        self, params: Mapping[str, JsonValue], history: Sequence[Past] = (), seed: int | None = None
    ) -> Trial:
        """The next trial: see `unnamed`."""
        return self.named(self.unnamed(params, history, seed))

    def unnamed(
        self, params: Mapping[str, JsonValue], history: Sequence[Past] = (), seed: int | None = None
    ) -> Trial:
        """A trial that has no name yet.

        Args:
            params: the parameters by dotted key.
            history: schedules before this one, if the trial takes over another trial's weights.
            seed: seed that replaces the base's, for such a trial.

        Raises:
            ConfigError: if its config isn't valid, or keeps it from sharing steps.
        """
        run = trial_config(self._base, self._space, params)
        if history:
            schedule = run.schedule.model_copy(update={"history": list(history)})
            run = run.model_copy(update={"schedule": schedule})
        if seed is not None:
            run = run.model_copy(update={"run": run.run.model_copy(update={"seed": seed})})
        _check(run, self._space)
        shown = {key: value for key, value in params.items() if key != SEED}
        run = run.model_copy(
            update={
                "eval": run.eval.model_copy(update={"at": self._rungs(run)}),
                "wandb": in_wandb(run.wandb, self._config, self._space),
            }
        )
        resolved = trial_schedule(self._base, self._space, run)
        training = Training("", identity(run), resolved, self._mixture(run), self._lengths(run))
        return Trial("", label(shown), shown, absolute(run), training)

    def named(self, trial: Trial) -> Trial:
        """The trial with the next name, and a folder of this name in the sweep's."""
        name = self._name(trial.params, trial.seed)
        folder = place_of(self._config.sweep.storage) / self._config.sweep.name
        place = {"name": name, "storage": str(folder)}
        run = trial.config.model_copy(update={"run": trial.config.run.model_copy(update=place)})
        training = replace(trial.training, name=name)
        return replace(trial, name=name, config=absolute(run), training=training)

    def _mixture(self, run: RunConfig) -> Mixture | None:
        """The mixture of a trial; raises ConfigError naming the space if it isn't valid."""
        if run.data.mixture is None:
            return None
        manifest = self._manifests.get(run.corpus)
        if manifest is None:
            manifest = self._manifests[run.corpus] = Manifest.read(run.corpus)
        with named_after(self._space, self._base):
            return mixture_of(run, manifest)

    def _lengths(self, run: RunConfig) -> Lengths | None:
        """The lengths of a trial; raises ConfigError naming the space if they aren't valid."""
        if not run.train.seq_len_warmup:
            return None
        with named_after(self._space, self._base):
            return Lengths.resolve(run.train, run.schedule.horizon)

    def _name(self, params: Mapping[str, JsonValue], seed: int) -> str:
        """``t007``, with the seed if there are several; equal parameters have the same number."""
        key = json.dumps(params, sort_keys=True)
        number = self._numbers.setdefault(key, len(self._numbers))
        name = f"t{number:03d}"
        if len(self._space.seeds or ()) > 1:
            name += f"-s{seed}"
        while name in self._names:  # equal parameters were drawn or suggested again
            name += "-again"
        self._names.add(name)
        return name

    def _rungs(self, run: RunConfig) -> list[int]:
        rungs = self._config.scheduler.marks_at(run.schedule.horizon)
        return sorted({*run.eval.at, *rungs})


def in_wandb(section: WandbSection, config: SweepConfig, space: Space) -> WandbSection:
    """The W&B section of the sweep's runs: all in one group, with the sweep's tags."""
    tags = [*section.tags, "sweep", f"space:{space.name}"]
    group = section.group or config.sweep.name
    return section.model_copy(update={"group": group, "tags": list(dict.fromkeys(tags))})


def _check(run: RunConfig, space: Space) -> None:
    """Refuse settings that make a trial depend on more than its config and its earlier steps."""
    if run.eval.patience is not None:
        raise ConfigError(
            f"eval.patience can't be set in a sweep ({space.path}), which compares trials at equal "
            "tokens; remove it, and set scheduler.type = 'halving' to stop the worse trials early"
        )
    if "rewind" in (run.guards.nonfinite, run.guards.spike):
        raise ConfigError(
            f"guards can't be 'rewind' in a sweep ({space.path}): the step that it rewinds to "
            "depends on the checkpoints that exist, so that a trial which shares steps would not "
            "equal the trial trained alone; set 'stop' or 'skip'"
        )


def identity(run: RunConfig) -> str:
    """A digest of what can change a weight or what is measured, but what is compared by step."""
    content = without(run.model_dump(mode="json"), INDIFFERENT)
    content["run"] = run.run.seed
    text = json.dumps(content, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def label(params: Mapping[str, JsonValue]) -> str:
    """Parameters for people, each by the last part of its key.

    If there are choices (keys with an underscore), structures derived from them are left out.
    """
    chosen = {key: value for key, value in params.items() if key.startswith("_")}
    plain = {k: v for k, v in params.items() if not (chosen and isinstance(v, dict | list))}
    return " ".join(
        f"{key.split('.')[-1].strip('_')}={short(value)}" for key, value in plain.items()
    )


def joints(training: Training, parts: int = 16) -> set[int]:
    """Steps at which trials that are suggested later may fork: ends of segments, and a grid."""
    schedule = training.schedule
    ends = [s.end for s in (*schedule.lr_segments, *schedule.batch_segments)]
    stretches = training.mixture.stretches if training.mixture else ()
    ends += [stretch.start * schedule.seq_len for stretch in stretches]
    ends += [end for end, _ in training.lengths.ends] if training.lengths else []
    grid = [schedule.horizon * part // parts for part in range(1, parts)]
    found = set()
    for tokens in {t for t in (*ends, *grid) if 0 < t < schedule.horizon}:
        step = schedule.reaching(tokens)
        found.add(step if training.tokens_after(step) == tokens else step - 1)
    return found - {0, schedule.steps}
