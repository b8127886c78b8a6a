"""A gate: bounds of metrics, and metrics that must not be worse than a baseline's."""

from __future__ import annotations

import difflib
import hashlib
import math
import socket
from collections.abc import Callable, Iterator, Mapping

from manta.config.errors import ConfigError, RunError
from manta.config.gate import GateConfig, RegressionSection
from manta.config.thresholds import ThresholdSection
from manta.record.audit_log import GATED, note, user_name
from manta.record.evaluation_record import EvaluationRecord, find_evaluation, read_evaluation
from manta.record.gate_record import GateCheck, GateRecord, write_gate
from manta.record.metric_text import change_text, interval_text, value_text
from manta.record.run_state import utc_now
from manta.show.evaluations.paired_bootstrap import PairedDifference
from manta.show.evaluations.paired_comparison import PairedComparison, compare_evaluations
from manta.storage.place import Place, place_of
from manta.storage.run_folder import EVALUATION


def decide(
    model: Place,
    config: GateConfig,
    evaluation: str | None = None,
    tell: Callable[[str], None] = lambda line: None,
) -> GateRecord:
    """Decide whether a model passes a gate, and write it down.

    The decision lies beside the evaluation and in the model's log.

    Args:
        model: a run, an exported model, or the folder of an evaluation.
        config: the gate.
        evaluation: name of the model's evaluation; by default its newest.
        tell: takes lines for people.

    Raises:
        ConfigError: if the gate asks for a metric that was not measured, or has no direction.
        RunError: if an evaluation can't be read, or two can't be compared.
    """
    folder = find_evaluation(model, evaluation)
    record = read_evaluation(folder)
    checks = list(_thresholds(config, record))
    baseline = None
    if config.baseline is not None:
        baseline = find_evaluation(place_of(config.baseline), record.name)
        checks += _regressions(config, folder, baseline)
    decision = GateRecord(
        name=config.name,
        passed=all(check.passed for check in checks),
        checks=checks,
        time=utc_now(),
        user=user_name(),
        host=socket.gethostname(),
        model=record.model.place,
        fingerprint=record.model.fingerprint,
        evaluation=_digest(folder),
        baseline="" if baseline is None else _digest(baseline),
        final=record.final,
        config=config.model_dump(mode="json", exclude={"alerts"}),
    )
    written = write_gate(folder, decision)
    said = {"name": config.name, "passed": decision.passed, "fingerprint": decision.fingerprint}
    place = place_of(record.model.place)
    if place.exists():  # an evaluation may have been moved away from its model
        note(place, GATED, {**said, "decision": str(written)}, tell)
    return decision


def _digest(folder: Place) -> str:
    return hashlib.sha256((folder / EVALUATION).read_bytes()).hexdigest()


def _thresholds(config: GateConfig, record: EvaluationRecord) -> Iterator[GateCheck]:
    values = record.values()
    for name, bounds in config.thresholds.items():
        value = _value(values, name, f"thresholds.{name}")
        metric = metric_of(name)
        high = bounds.at_most is None or value <= bounds.at_most
        low = bounds.at_least is None or value >= bounds.at_least
        found = value_text(metric, value)
        yield GateCheck(
            metric=name, asked=_bounds(bounds, metric), found=found, passed=high and low
        )


def _bounds(bounds: ThresholdSection, metric: str) -> str:
    said = []
    if bounds.at_least is not None:
        said.append(f"at least {value_text(metric, bounds.at_least)}")
    if bounds.at_most is not None:
        said.append(f"at most {value_text(metric, bounds.at_most)}")
    return " and ".join(said)


def _value(values: Mapping[str, float], name: str, key: str) -> float:
    if name not in values:
        close = difflib.get_close_matches(name, values, n=1)
        hint = f"did you mean '{close[0]}'?" if close else f"there are {', '.join(values)}"
        raise ConfigError(f"{key}: the evaluation has no such metric; {hint}")
    return values[name]


def metric_of(name: str) -> str:
    """The metric of a name such as ``answers/success[topic=sums]``."""
    return name.partition("[")[0].rpartition("/")[2]


# ------------------------------------------------------------------------------------ regressions


def _regressions(config: GateConfig, folder: Place, baseline: Place) -> Iterator[GateCheck]:
    if not config.regressions:
        return
    (found,) = compare_evaluations([baseline, folder], len(config.regressions))
    for name, section in config.regressions.items():
        key = f"regressions.{name}"
        value = _value(found.second.values(), name, key)
        before = found.first.values().get(name)
        if before is None:
            raise ConfigError(f"{key}: the baseline's evaluation has no such metric")
        yield _regression(found, name, key, section, before, value)


def _regression(
    comparison: PairedComparison,
    name: str,
    key: str,
    section: RegressionSection,
    before: float,
    value: float,
) -> GateCheck:
    evaluator, metric = name.partition("/")[0], metric_of(name)
    compared = next(one for one in comparison.evaluators if one.name == evaluator)
    if compared.why:
        raise RunError(f"{key}: it can't be compared with the baseline: {compared.why}")
    better = compared.better.get(metric)
    if better is None:
        raise ConfigError(
            f"{key}: neither less nor more of it is known to be better: say it in own.NAME.better, "
            "or leave it out"
        )
    difference = comparison.differences().get(name)
    margin = f" by more than {change_text(metric, section.margin)[1:]}" if section.margin else ""
    sign = 1 if better == "min" else -1
    if difference is None:
        if section.proven:
            raise ConfigError(
                f"{key}.proven: it is no mean over examples, so that nothing can be proven of it: "
                "leave 'proven' out"
            )
        return GateCheck(
            metric=name,
            asked=f"not worse than the baseline{margin}",
            found=f"{change_text(metric, value - before)} (no interval)",
            passed=sign * (value - before) <= section.margin,
        )
    asked = f"{'proven' if section.proven else 'not found'} {_worse(section)}{margin}"
    return GateCheck(
        metric=name,
        asked=asked,
        found=f"{interval_text(metric, difference.low, difference.high)}, {difference.verdict}",
        passed=_passes(difference, sign, section),
    )


def _worse(section: RegressionSection) -> str:
    return "not to be worse than the baseline" if section.proven else "worse than the baseline"


def _passes(difference: PairedDifference, sign: int, section: RegressionSection) -> bool:
    """Whether a difference passes; too few examples never do."""
    if difference.low is None or difference.high is None:
        return False
    least, most = sorted((sign * difference.low, sign * difference.high))
    if not math.isfinite(least) or not math.isfinite(most):
        return False
    return (most if section.proven else least) <= section.margin
