"""A model goes into the registry: its gates are looked at, its weights copied, its alias set."""

from __future__ import annotations

import hashlib
import socket
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import manta
from manta.config.errors import ConfigError, RunError
from manta.config.model_names import holds_adapter_alone
from manta.config.urls import is_url
from manta.evaluate.model_at_hand import run_config_of, scores, weights_sha256
from manta.record.audit_log import PROMOTED, REGISTERED, add_entry, note, user_name
from manta.record.evaluation_record import EvaluationRecord, evaluations_of
from manta.record.gate_record import GateRecord, gates_of
from manta.record.model_origin import ModelOrigin
from manta.record.model_registry import ModelRegistry
from manta.record.registered_version import REGISTRY, ModelVersion, split_name
from manta.record.run_state import utc_now
from manta.show.model_card import CARD, model_card
from manta.state.checkpoint_files import newest, read_state
from manta.storage.place import Place
from manta.storage.run_folder import CHECKPOINTS, CONFIG, EVALUATION, RUN
from manta.train.export import export, load_generator
from manta.train.scoring import Scorer


@dataclass(frozen=True)
class Promoted:
    """What a promotion did.

    Attributes:
        version: the version in the registry.
        known: whether the registry had the version before.
        alias: alias that names it now; "" if none was asked for.
        before: version that the alias named before; None if there was none.
    """

    version: ModelVersion
    known: bool
    alias: str = ""
    before: int | None = None


@dataclass(frozen=True)
class _Evidence:
    """Decisions of gates on a model, the newest of each gate, and metrics that they looked at."""

    gates: list[GateRecord]
    values: dict[str, float]
    stale: list[str]


def promote(
    where: Place,
    step: int | None,
    target: str,
    registry: ModelRegistry,
    *,
    gate: str | None = None,
    without_gate: str | None = None,
    tell: Callable[[str], None] = lambda line: None,
) -> Promoted:
    """Put a model into the registry, and let an alias name it.

    The same weights with the same decisions become no second version, so that a promotion that
    was interrupted can be repeated.

    Args:
        where: folder or URL of a run, or an exported model's folder.
        step: step of a run's checkpoint; by default the newest.
        target: ``NAME``, or ``NAME@ALIAS``.
        registry: the registry.
        gate: name of the gate that counts; by default all gates that have decided.
        without_gate: reason for letting it in without a passed gate.
        tell: takes lines for people.

    Raises:
        ConfigError: if `target` is no name, or a reason is empty.
        RunError: if no gate was passed and no reason is given, or the model can't be used.
    """
    name, alias = _target(target)
    if without_gate is not None and not without_gate.strip():
        raise ConfigError("--without-gate: give the reason in words; it stands in the registry")
    step = _step(where, step)
    evidence = _evidence(where, step)
    refused = _refusal(evidence, gate)
    if refused and without_gate is None:
        raise RunError(f"{where}: {refused}; or give the reason with --without-gate REASON")
    fingerprint, parameters = _weights(where, step)
    if without_gate is None:
        _check_same_weights(where, evidence, fingerprint)
    facts = {
        "name": name,
        "created": utc_now(),
        "user": user_name(),
        "host": socket.gethostname(),
        "manta_version": manta.__version__,
        "source": str(where) if is_url(str(where)) else str(Path(str(where)).absolute()),
        "step": step,
        "parameters": parameters,
        "fingerprint": fingerprint,
        "gates": evidence.gates,
        "without_gate": without_gate if refused and without_gate else "",
        "values": evidence.values,
    }
    promoted = _registered(where, step, facts, alias, registry)
    said = {"to": f"{registry.place}/{name}@{promoted.version.version}", "alias": alias}
    note(where, PROMOTED, {**said, "fingerprint": fingerprint}, tell)
    return promoted


def name_again(model: str, target: str, registry: ModelRegistry) -> Promoted:
    """Let an alias name a version that is in the registry already.

    Args:
        model: ``registry:NAME@TAG``.
        target: ``NAME@ALIAS``, of the same name.
        registry: the registry.

    Raises:
        ConfigError: if `target` is not the alias of that name.
        RunError: if there is no such version.
    """
    name, alias = _target(target)
    there, tag = split_name(model.removeprefix(REGISTRY))
    if there != name or not alias:
        raise ConfigError(
            f"{model}: a version that is in the registry already only gets an alias: give "
            f"{there}@ALIAS, not {target}"
        )
    version = registry.read(name, registry.number_of(name, tag))
    with registry.alone(name):
        before = registry.point(name, alias, version.version)
    return Promoted(version, True, alias, before)


def _target(target: str) -> tuple[str, str]:
    name, alias = split_name(target)
    if alias.isdecimal():
        raise ConfigError(
            f"{target}: the registry numbers versions itself: give {name}, or {name}@ALIAS"
        )
    return name, alias


def _registered(
    where: Place, step: int | None, facts: dict[str, Any], alias: str, registry: ModelRegistry
) -> Promoted:
    name = str(facts["name"])
    with registry.alone(name):
        version = _same(registry, facts)
        known = version is not None
        if version is None:
            with _folder_of(where, step) as folder:
                version = registry.add(folder, {**facts, "origin": ModelOrigin.read(folder)})
            said = {
                "version": version.version,
                "fingerprint": version.fingerprint,
                "from": version.source,
                "step": step,
                "gates": {gate.name: gate.passed for gate in version.gates},
                "without_gate": version.without_gate,
            }
            add_entry(registry.place / name, REGISTERED, said)
        before = registry.point(name, alias, version.version) if alias else None
    return Promoted(version, known, alias, before)


def _same(registry: ModelRegistry, facts: Mapping[str, Any]) -> ModelVersion | None:
    """The version with these weights and decisions, if there is one."""
    kept = ("fingerprint", "gates", "without_gate", "values")
    for number in reversed(registry.numbers(str(facts["name"]))):
        version = registry.read(str(facts["name"]), number)
        if all(getattr(version, key) == facts[key] for key in kept):
            return version
    return None


@contextmanager
def _folder_of(where: Place, step: int | None) -> Iterator[Path]:
    """The folder of a model as other runs begin with it: of a run it is exported."""
    config = run_config_of(where)
    if config is None:
        if not isinstance(where, Path) or holds_adapter_alone(where):
            raise RunError(
                f"{where}: an adapter without the model that it is for, or a folder in a store: "
                "promote the run, or a folder of this machine with the whole model"
            )
        yield where
        return
    with tempfile.TemporaryDirectory() as folder:
        card = {CARD: model_card(where, step)} if (where / RUN).exists() else {}
        merge = config.model.adapter is not None
        yield export(where, Path(folder) / "model", step, card, merge=merge)


def _step(where: Place, step: int | None) -> int | None:
    """The step of a run's checkpoint; None for an exported folder."""
    if not (where / CONFIG).exists():
        return None
    return read_state(newest(where / CHECKPOINTS)).step if step is None else step


def _weights(where: Place, step: int | None) -> tuple[str, int]:
    """Fingerprint and number of a model's weights, as an evaluation has them."""
    if scores(where, run_config_of(where)):
        lm: Any = Scorer(where, step).model
    else:
        lm, _ = load_generator(where, step)
    return weights_sha256(lm), sum(parameter.numel() for parameter in lm.parameters())


# --------------------------------------------------------------------------------------- the gates


def _evidence(where: Place, step: int | None) -> _Evidence:
    found = dict[str, tuple[GateRecord, EvaluationRecord]]()
    stale = list[str]()
    for folder, record in evaluations_of(where).items():
        if record.model.step != step:
            continue
        digest = hashlib.sha256((folder / EVALUATION).read_bytes()).hexdigest()
        for decision in gates_of(folder):
            if decision.evaluation != digest:
                stale.append(decision.name)
            elif decision.name not in found or found[decision.name][0].time <= decision.time:
                found[decision.name] = (decision, record)
    values = dict[str, float]()
    for _, record in found.values():
        values |= {name: value for name, value in record.values().items() if "[" not in name}
    return _Evidence([decision for decision, _ in found.values()], values, stale)


def _refusal(evidence: _Evidence, gate: str | None) -> str:
    """Why a model may not be promoted by its gates; "" if it may."""
    gates = [one for one in evidence.gates if gate in (None, one.name)]
    if not gates:
        asked = f"the gate '{gate}' has" if gate else "no gate has"
        said = f"{asked} decided on this step of it"
        if evidence.stale:
            said += f" since it was evaluated again ({', '.join(evidence.stale)} did before)"
        return f"{said}: ask one: manta gate MODEL GATE.yaml"
    if failed := [one.name for one in gates if not one.passed]:
        return f"it did not pass the gate '{failed[0]}'"
    return ""


def _check_same_weights(where: Place, evidence: _Evidence, fingerprint: str) -> None:
    for one in evidence.gates:
        if one.fingerprint != fingerprint:
            raise RunError(
                f"{where}: the gate '{one.name}' decided on other weights "
                f"({one.fingerprint[:12]}…, not {fingerprint[:12]}…): evaluate the model again, "
                "and ask the gate"
            )
