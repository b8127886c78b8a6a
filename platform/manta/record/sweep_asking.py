"""Asks a change of a sweep: checks what its files tell, and waits for the answer if it runs."""

from __future__ import annotations

import time

from manta.config.errors import RunError
from manta.config.load import build, change, given
from manta.config.run import RunConfig
from manta.record.sweep_request import SweepRequest, TakenRequest, write_request
from manta.record.sweep_state import SweepState, SweepTrial, read_sweep
from manta.storage.exclusive import lives
from manta.storage.place import Place

# Keys that a request may not set, as a trial's name and folder follow from the sweep's.
OWN_KEYS = ("run", "run.name", "run.storage")
# Statuses of trials that can't be stopped any more.
ENDED = ("finished", "stopped", "diverged", "failed")
POLL_SECONDS = 0.3
# Longest time to wait for an answer: a sweep in a store is heard of some seconds late.
ANSWER_SECONDS = 40.0


def ask_sweep(sweep: Place, request: SweepRequest) -> TakenRequest | None:
    """Have a sweep take a request; returns its answer, or None if no driver answers in time.

    Without a driver the request stays in the sweep's folder until the sweep goes on.

    Raises:
        RunError: if there is no sweep, or the request can't be met.
        ConfigError: if the parameters of a trial to add aren't valid.
    """
    state = read_sweep(sweep)
    refuse_if_impossible(state, request)
    if request.action != "stop":
        _check_params(sweep, state, request)
    write_request(sweep, request)
    until = time.monotonic() + ANSWER_SECONDS
    while lives(sweep) and time.monotonic() < until:
        for taken in read_sweep(sweep).requests:
            if taken.id == request.id:
                return taken
        time.sleep(POLL_SECONDS)
    return None


def refuse_if_impossible(state: SweepState, request: SweepRequest) -> None:
    """Refuse a request that the sweep's state rules out.

    Raises:
        RunError: naming the reason and the remedy.
    """
    if state.population:
        raise RunError(
            f"{state.name}: population-based training replaces its trials by itself and compares "
            "all of them at each mark, so none can be added or stopped: start another sweep with "
            "other settings"
        )
    by_name = {trial.name: trial for trial in state.trials}
    named = [*request.trials, *([request.like] if request.like else [])]
    for name in named:
        if name not in by_name:
            raise RunError(f"{state.name}: no trial {name!r}: there are {_few(list(by_name))}")
    for name in request.trials:
        _refuse_if_ended(by_name[name])
    for key in OWN_KEYS:
        if key in request.params:
            raise RunError(f"{key}: the sweep names its trials; leave this key out")


def _refuse_if_ended(trial: SweepTrial) -> None:
    if trial.status in ENDED:
        reason = f" ({trial.reason})" if trial.reason else ""
        raise RunError(f"{trial.name} has ended: it is {trial.status}{reason}")
    if trial.stop_asked:
        raise RunError(f"{trial.name} already stops: {trial.stop_asked}")


def _check_params(sweep: Place, state: SweepState, request: SweepRequest) -> None:
    """Refuse parameters with which the base is no valid config, as far as files tell."""
    like = next((trial.params for trial in state.trials if trial.name == request.like), {})
    params = {**like, **request.params}
    # Others are choices that keys are derived from.
    values = {key: value for key, value in params.items() if not key.startswith("_")}
    origins = dict.fromkeys(values, "the new trial")
    build(change(given(state.base, f"the base of {sweep}"), values, origins), RunConfig)


def _few(names: list[str]) -> str:
    return ", ".join([*names[:8], *(["…"] if len(names) > 8 else [])])
