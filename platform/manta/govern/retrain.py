"""A champion is trained further: what would run, and running it up to the promotion.

Each step is a command that can be given by hand, and that goes on where it was interrupted. So
does the whole: the challenger's name follows from the registry and from gates that were failed.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

import manta
from manta.config.errors import ConfigError, RunError
from manta.config.load import load, read
from manta.config.load_evaluation import load_evaluation
from manta.config.retraining import RetrainConfig
from manta.config.run import RunConfig
from manta.govern.alert_once import alert_of_trigger
from manta.govern.triggers import FoundTrigger, days_since, look_at_triggers
from manta.record.audit_log import RETRAINED, add_entry
from manta.record.evaluation_record import evaluations_of
from manta.record.gate_record import GateRecord, gates_of
from manta.record.model_registry import ModelRegistry
from manta.record.registered_version import REGISTRY, ModelVersion, split_name
from manta.record.run_config import recorded_config
from manta.storage.place import Place, place_of
from manta.storage.run_folder import CONFIG

# What a champion is compared with its challenger on.
PAGE = "champion-against-challenger.html"


@dataclass(frozen=True)
class RetrainStep:
    """One command.

    Attributes:
        what: purpose of the command, in words.
        words: the command's words, without ``manta``.
    """

    what: str
    words: tuple[str, ...]

    @property
    def command(self) -> str:
        """The command as people type it."""
        return shlex.join(["manta", *self.words])


@dataclass(frozen=True)
class Retraining:
    """What was found, and what would run.

    Attributes:
        champion: the champion.
        triggers: all triggers.
        pause: why nothing runs although a trigger fired; "" if nothing holds it back.
        challenger: folder or URL of the challenger's run.
        steps: the commands, in their order.
    """

    champion: ModelVersion
    triggers: list[FoundTrigger]
    pause: str
    challenger: str
    steps: list[RetrainStep]

    @property
    def fired(self) -> bool:
        """Whether a trigger asks for retraining."""
        return any(trigger.fired for trigger in self.triggers)

    def as_json(self) -> dict[str, Any]:
        """The plan as plain data."""
        return {
            "champion": f"{self.champion.name}@{self.champion.version}",
            "fired": self.fired,
            "triggers": [trigger.as_json() for trigger in self.triggers],
            "pause": self.pause,
            "challenger": self.challenger,
            "commands": [step.command for step in self.steps],
        }


def plan_retraining(
    config: RetrainConfig, tell: Callable[[str], None] = lambda line: None
) -> Retraining:
    """Look at all triggers, and say what would run.

    Args:
        config: the config.
        tell: takes lines for people.

    Raises:
        MantaError: if there is no champion, a trigger can't be decided, or a config can't be used.
    """
    name, alias = split_name(config.champion)
    registry = ModelRegistry.at(config.registry)
    version = registry.read(name, registry.number_of(name, alias))
    model = registry.local_model(name, version.version)
    triggers = look_at_triggers(config, version, model, str(registry.place), tell)
    run = _load_run(config)
    challenger, failed = _challenger(run, name, max(registry.numbers(name)) + 1)
    pause = ""
    if failed is not None and (days := days_since(failed.time)) < config.pause_days:
        pause = (
            f"a challenger failed the gate '{failed.name}' {days:.1f} days ago: nothing is trained "
            f"before {config.pause_days:g} days have passed (pause_days)"
        )
    steps = _steps(config, registry, version, model, challenger, run)
    return Retraining(version, triggers, pause, str(challenger), steps)


def alert_of_triggers(
    config: RetrainConfig, plan: Retraining, tell: Callable[[str], None] = lambda line: None
) -> None:
    """Alert people of the triggers that fire, each once for a champion.

    Args:
        config: the config.
        plan: triggers and commands.
        tell: takes lines for people.
    """
    place = ModelRegistry.at(config.registry).place / plan.champion.name
    for trigger in plan.triggers:
        if trigger.fired:
            alert_of_trigger(trigger, plan.champion, place, config.alerts, tell)


def carry_out(
    config: RetrainConfig, plan: Retraining, tell: Callable[[str], None] = lambda line: None
) -> bool:
    """Run the commands of a plan; whether the challenger was promoted.

    Args:
        config: the config.
        plan: triggers and commands.
        tell: takes lines for people.

    Raises:
        RunError: if a command fails for another reason than the gate's decision.
    """
    name, _ = split_name(config.champion)
    place = ModelRegistry.at(config.registry).place / name
    fired = [trigger.name for trigger in plan.triggers if trigger.fired]
    add_entry(place, RETRAINED, {"fired": fired, "challenger": plan.challenger})
    for step in plan.steps:
        tell(f"\n── {step.what} ──\n{step.command}")
        command = [sys.executable, "-m", "manta.cli", *step.words]
        done = subprocess.run(command, env=_environment(), check=False)
        if done.returncode and step.words[0] == "gate" and _failed(place_of(plan.challenger)):
            tell("\nthe challenger did not pass: the champion stays")
            return False
        if done.returncode:
            raise RunError(
                f"'{step.command}' failed ({done.returncode}): mend what it says, and give the "
                "same command again: it goes on from there"
            )
    return True


def _environment() -> dict[str, str]:
    """This process's environment, with this package importable even if it isn't installed."""
    paths = [str(Path(manta.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}


def _load_run(config: RetrainConfig) -> RunConfig:
    """The config of the challenger's run, as far as it is known."""
    return load(config.train, RunConfig, config.overrides)


def _challenger(run: RunConfig, name: str, number: int) -> tuple[Place, GateRecord | None]:
    """The run of the next challenger, and the newest gate that one before it failed."""
    storage, failed, again = place_of(run.run.storage), None, 1
    while True:
        text = f"{name}-{number}" + (f"-{again}" if again > 1 else "")
        folder = storage / text
        if (newest := _failed(folder)) is None:
            return folder, failed
        failed, again = newest, again + 1


def _failed(run: Place) -> GateRecord | None:
    """The newest decision of a gate on a run, if it was not passed."""
    decisions = [one for found in evaluations_of(run) for one in gates_of(found)]
    newest = max(decisions, key=lambda one: one.time, default=None)
    return None if newest is None or newest.passed else newest


def _steps(
    config: RetrainConfig,
    registry: ModelRegistry,
    version: ModelVersion,
    model: Path,
    challenger: Place,
    run: RunConfig,
) -> list[RetrainStep]:
    champion = f"{REGISTRY}{registry.place}/{version.name}@{version.version}"
    steps, changes = list[RetrainStep](), [f"run.name={challenger.name}"]
    if config.prepare is not None:
        old = _corpus(version)
        new = str(Path(old).parent / f"{challenger.name}-corpus")
        words = ("prepare", config.prepare, f"out={new}", f"extends={old}")
        steps.append(RetrainStep("old and new data", words))
        changes.append(f"corpus={new}")
    changes.append(_warm_start(config, model))
    evaluation = load_evaluation(config.evaluate).name
    where = str(challenger)
    told = ("--evaluation", evaluation)
    steps += [
        RetrainStep(
            "the challenger, from the champion's weights",
            ("train", config.train, *config.overrides, *changes),
        ),
        RetrainStep("the champion's evaluation", ("evaluate", champion, config.evaluate)),
        RetrainStep("the challenger's evaluation", ("evaluate", where, config.evaluate)),
        RetrainStep(
            "champion against challenger",
            ("compare", champion, where, *told, "--output", _page(challenger)),
        ),
        RetrainStep("the gate", ("gate", where, config.gate, f"baseline={model}", *told)),
        RetrainStep(
            "promotion",
            ("promote", where, config.champion, "--registry", str(registry.place)),
        ),
    ]
    return steps


def _page(challenger: Place) -> str:
    """Where the comparison is written: beside the challenger, or here if that is in a store."""
    return str(challenger / PAGE) if isinstance(challenger, Path) else PAGE


def _warm_start(config: RetrainConfig, model: Path) -> str:
    """The override that lets a run begin with the champion's weights."""
    written: dict[str, Any] = read(config.train, config.overrides).data
    section = written.get("model")
    if isinstance(section, dict) and section.get("pretrained") is not None:
        return f"model.pretrained={model}"
    # A model from scratch becomes one that goes on; what says how it is trained stays.
    dropped = ("type", "sizes", "parametrization", "pretrained")
    kept = {key: one for key, one in (section or {}).items() if one and key not in dropped}
    kept["pretrained"] = str(model)
    text = yaml.safe_dump(kept, default_flow_style=True, width=10**6).strip()
    return f"model={text}"


def _corpus(version: ModelVersion) -> str:
    """The folder of the corpus that the champion was trained on."""
    run = None if version.origin is None else place_of(version.origin.folder)
    if run is None or not (run / CONFIG).exists():
        raise ConfigError(
            f"prepare: the run of {version.name}@{version.version} is gone, and with it the name "
            "of its corpus: leave 'prepare' out, and name the corpus in the run's config"
        )
    return recorded_config(run).corpus


def plan_lines(plan: Retraining) -> Sequence[str]:
    """Triggers, and the commands that follow."""
    lines = [
        f"{'fired' if one.fired else 'quiet'}  {one.name}: {one.found}" for one in plan.triggers
    ]
    if not plan.fired:
        return [*lines, "nothing to do"]
    lines += [plan.pause] if plan.pause else []
    return [*lines, "", *(f"{step.command}    # {step.what}" for step in plan.steps)]
