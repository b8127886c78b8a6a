"""Whether a champion should be trained further: each trigger, and what it found."""

from __future__ import annotations

import glob
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from manta.config.drift import load_drift
from manta.config.errors import ConfigError, RunError
from manta.config.retraining import MetricTrigger, NewDataTrigger, RetrainConfig
from manta.record.evaluation_record import find_evaluation, read_evaluation
from manta.record.metric_text import value_text
from manta.record.registered_version import REGISTRY, ModelVersion
from manta.storage.place import Place

SECONDS_A_DAY = 86400.0


@dataclass(frozen=True)
class FoundTrigger:
    """A trigger.

    Attributes:
        name: name of the trigger.
        fired: whether retraining is asked for.
        found: facts behind that, in words.
    """

    name: str
    fired: bool
    found: str

    def as_json(self) -> dict[str, Any]:
        """The trigger as plain data."""
        return asdict(self)


def look_at_triggers(
    config: RetrainConfig,
    version: ModelVersion,
    model: Place,
    registry: str,
    tell: Callable[[str], None],
) -> list[FoundTrigger]:
    """Each trigger of a config, the cheapest first.

    Args:
        config: the config.
        version: the champion.
        model: folder of the champion's model.
        registry: place of the registry.
        tell: takes lines for people.

    Raises:
        MantaError: if a trigger can't be decided.
    """
    return list(_all(config, version, model, registry, tell))


def _all(
    config: RetrainConfig,
    version: ModelVersion,
    model: Place,
    registry: str,
    tell: Callable[[str], None],
) -> Iterator[FoundTrigger]:
    triggers = config.triggers
    days = days_since(version.created)
    if triggers.age is not None:
        found = f"promoted {days:.1f} days ago, at most {triggers.age.days:g}"
        yield FoundTrigger("age", days > triggers.age.days, found)
    if triggers.new_data is not None:
        yield _new_data(triggers.new_data, version.created)
    if triggers.metric is not None:
        yield _metric(triggers.metric, model)
    if (drift := triggers.drift) is not None:
        from manta.govern.drift_page import verdict
        from manta.govern.drift_report import look_for_drift

        against = f"{REGISTRY}{registry}/{version.name}@{version.version}"
        report = look_for_drift(drift.new, against, load_drift(drift.config), tell)
        yield FoundTrigger("drift", report.drifted, verdict(report))


def days_since(time: str) -> float:
    """Days since a time in UTC."""
    before = datetime.fromisoformat(time)
    return (datetime.now(UTC) - before).total_seconds() / SECONDS_A_DAY


def _new_data(trigger: NewDataTrigger, since: str) -> FoundTrigger:
    begin = datetime.fromisoformat(since).timestamp()
    files = {Path(name) for path in trigger.paths for name in glob.glob(path, recursive=True)}
    newer = [file for file in files if file.is_file() and file.stat().st_mtime > begin]
    size = sum(file.stat().st_size for file in newer) / 1e6
    found = f"{size:.3g} MB in {len(newer)} newer files, at least {trigger.megabytes:g} MB"
    return FoundTrigger("new_data", size >= trigger.megabytes, found)


def _metric(trigger: MetricTrigger, model: Place) -> FoundTrigger:
    try:
        record = read_evaluation(find_evaluation(model, trigger.evaluation))
    except RunError as error:
        raise RunError(f"triggers.metric: the champion was not evaluated: {error}") from None
    value = record.values().get(trigger.name)
    if value is None:
        known = ", ".join(name for name in record.values() if "[" not in name)
        raise ConfigError(
            f"triggers.metric.name = '{trigger.name}': the evaluation '{record.name}' has no such "
            f"metric; there are {known}"
        )
    metric = trigger.name.partition("[")[0].rpartition("/")[2]
    low = trigger.at_least is not None and value < trigger.at_least
    high = trigger.at_most is not None and value > trigger.at_most
    bounds = [
        f"{word} {value_text(metric, bound)}"
        for word, bound in (("at least", trigger.at_least), ("at most", trigger.at_most))
        if bound is not None
    ]
    found = f"{trigger.name} is {value_text(metric, value)}, asked is {' and '.join(bounds)}"
    return FoundTrigger("metric", low or high, found)
