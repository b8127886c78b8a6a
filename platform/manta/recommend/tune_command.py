"""The `manta tune` command: check, plan, run one phase after the other, write what was found."""

from __future__ import annotations

import math
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console

from manta.cluster.session import ray_session
from manta.config.errors import RunError
from manta.config.load import dump
from manta.config.tuning import PHASES, Phase, TuningConfig
from manta.elastic.checks.preflight import absolute_path, check
from manta.elastic.worker.preload import preloaded_for
from manta.recommend.confirmation import CONSTANT, NOTHING, TUNED, confirmed
from manta.recommend.critical_batch import BatchFork, critical_sizes
from manta.recommend.measured import RateLosses, SizeLosses
from manta.recommend.phase_sweep import PhaseSweep, working_folder_of
from manta.recommend.range_test import recommend_rate, smoothed_ramp
from manta.recommend.savings import savings, step_times
from manta.recommend.tuning_page import write_tuning_page
from manta.recommend.tuning_phases import Tuning
from manta.recommend.tuning_plan import PhaseCost, cost_of, tuning_plan
from manta.recommend.tuning_state import TuningState, write_tuning
from manta.recommend.tuning_summary import summary
from manta.record.noise_scale import NoiseScale
from manta.schedule import Schedule
from manta.storage.exclusive import RunHold
from manta.storage.place import put
from manta.storage.probe import check_writable
from manta.storage.run_folder import TUNED as TUNED_CONFIG
from manta.storage.run_folder import TUNING_PAGE
from manta.storage.store import StorePath
from manta.storage.working import push
from manta.tune.sweep_command import run_sweep
from manta.tune.sweep_plan import Outline

SWEEPS: tuple[Phase, ...] = PHASES[1:]
Say = Callable[[str], None]


def show_tuning_plan(config: TuningConfig) -> None:
    """Print what a tuning would train.

    Raises:
        MantaError: if the config, the run or a phase isn't valid, or the folder is another's.
    """
    tuning = Tuning(_absolute(config))
    state = tuning.state()
    Console(highlight=False).print(tuning_plan(tuning, _costs(tuning, state)))


def check_phases(config: TuningConfig) -> None:
    """Check a tuning as far as that is possible without its corpus.

    Raises:
        ConfigError: if the config, the run or a phase isn't valid.
    """
    tuning = Tuning(_absolute(config))
    _costs(tuning, TuningState(name=config.tuning.name, asked={}, base={}))


def run_tuning(config: TuningConfig, address: str | None = None) -> bool:
    """Run or continue a tuning; returns whether it finished, and was not interrupted.

    Raises:
        MantaError: naming what is wrong and what to do.
    """
    console = Console(highlight=False, file=sys.stdout)

    def say(line: str) -> None:
        console.print(line, soft_wrap=True)

    tuning = Tuning(_absolute(config))
    state = tuning.state()
    costs = _costs(tuning, state)
    check_writable(tuning.place, "tuning.storage")
    folder = working_folder_of(tuning.config)
    folder.mkdir(parents=True, exist_ok=True)
    console.print(tuning_plan(tuning, costs))
    hold = RunHold(tuning.place)
    try:
        finished = all(
            _run(phase, tuning, state, address, say) for phase in PHASES if phase in config.phases
        )
    except BaseException:
        state.status = "interrupted"
        write_tuning(tuning.place, state)
        raise
    finally:
        hold.release()
    state.status = "finished" if finished else "interrupted"
    _write(tuning, state)
    if finished:
        say("\n".join(summary(tuning, state)))
    return finished


def _absolute(config: TuningConfig) -> TuningConfig:
    section = config.tuning.model_copy(update={"storage": absolute_path(config.tuning.storage)})
    return config.model_copy(update={"tuning": section})


def _costs(tuning: Tuning, state: TuningState) -> dict[Phase, PhaseCost]:
    """What each sweep trains, once it is checked; one that waits for another by what is known."""
    with tempfile.TemporaryDirectory(prefix="manta-tune-") as folder:
        return {
            phase: cost_of(
                _outline(tuning.sweep(phase, state), tuning, Path(folder)), _done(phase, state)
            )
            for phase in SWEEPS
            if phase in tuning.config.phases
        }


def _outline(sweep: PhaseSweep, tuning: Tuning, folder: Path) -> Outline:
    return Outline(sweep.written(folder, tuning.horizon, tuning.run.wandb.group))


def _done(phase: Phase, state: TuningState) -> bool:
    return getattr(state, phase) is not None


def _run(phase: Phase, tuning: Tuning, state: TuningState, address: str | None, say: Say) -> bool:
    """Run a phase, unless it is over; returns whether it is now."""
    if _done(phase, state):
        return True
    say(f"\n{phase}")
    if phase == "micro_batch":
        _find_micro_batch(tuning, state, address, say)
    elif phase == "confirm" and len(tuning.stairs(state)) == 1:
        state.confirm = NOTHING
    else:
        sweep = tuning.sweep(phase, state)
        folder = working_folder_of(tuning.config)
        if not run_sweep(sweep.written(folder, tuning.horizon, tuning.run.wandb.group), address):
            return False
        TAKES[phase](tuning, state, sweep)
        state.tokens[phase] = sweep.tokens
    _write(tuning, state)
    return True


def _find_micro_batch(tuning: Tuning, state: TuningState, address: str | None, say: Say) -> None:
    from manta.recommend.largest_pass import largest_pass

    if not tuning.finds_micro_batch:
        say("left out: parallel.shard or train.reproducible makes it a part of the run")
        return
    run = tuning.tuned_run(state).model_copy(update={"run": tuning.run.run})
    checked = check(run)
    with preloaded_for(run, address), ray_session(address):
        state.micro_batch = largest_pass(checked, tuning.most_rows(), say)


def _take_range(tuning: Tuning, state: TuningState, sweep: PhaseSweep) -> None:
    by_name = sweep.losses()
    losses = []
    for point in tuning.rate_points:
        here = by_name[point.name]
        kept = [loss for loss in here if loss is not None and math.isfinite(loss)]
        losses.append(
            RateLosses(
                rate=point.rate, tokens=point.tokens, losses=kept, diverged=len(here) - len(kept)
            )
        )
    highest = max(tuning.rate_points, key=lambda each: (each.rate, each.tokens))
    rows = list(sweep.rows(highest.name, sweep.seeds[0]))
    ramp = smoothed_ramp(rows, tuning.end_of_ramp)
    state.range = recommend_rate(losses, tuning.horizon, ramp)


def _take_critical(tuning: Tuning, state: TuningState, sweep: PhaseSweep) -> None:
    forks, by_name = tuning.forks(state), sweep.losses()
    losses = [
        SizeLosses(depth=fork.depth, size=fork.size, losses=by_name[fork.name]) for fork in forks
    ]
    section = tuning.config.critical
    state.critical = critical_sizes(losses, section.tolerance, tuning.size)
    for at in state.critical.at:
        at.noise_scale = _noise_scale(at.depth, forks, sweep)
    runs = [sweep.rows(fork.name, seed) for fork in forks for seed in sweep.seeds]
    state.times = step_times(runs, tuning.run.train.seq_len)
    if state.times is not None and len(tuning.stairs(state)) > 1:
        price = tuning.run.cost.usual_price
        state.savings = savings(
            tuning.tuned_schedule(state, constant=True),
            tuning.tuned_schedule(state),
            state.times,
            tuning.config.devices,
            price,
        )


def _noise_scale(depth: int, forks: Sequence[BatchFork], sweep: PhaseSweep) -> float | None:
    """The noise scale over the rows of the forks at a depth that have several passes a step."""
    noise, found = NoiseScale(), None
    for fork in forks:
        for seed in sweep.seeds if fork.depth == depth else ():
            for row in sweep.rows(fork.name, seed):
                if row["tokens"] > depth and "loss" in row:
                    found = noise.after(row) or found
    return found


def _take_confirm(tuning: Tuning, state: TuningState, sweep: PhaseSweep) -> None:
    losses = sweep.losses()
    steps = [_steps(tuning, sweep, name) for name in (CONSTANT, TUNED)]
    state.confirm = confirmed(losses[CONSTANT], losses[TUNED], (steps[0], steps[1]))


def _steps(tuning: Tuning, sweep: PhaseSweep, name: str) -> int:
    from manta.config.schedule import ScheduleSection

    section = ScheduleSection.model_validate(sweep.points[name]["schedule"])
    return Schedule.resolve(section, tuning.run.train.seq_len).steps


TAKES: dict[Phase, Callable[[Tuning, TuningState, PhaseSweep], None]] = {
    "range": _take_range,
    "critical": _take_critical,
    "confirm": _take_confirm,
}


def _write(tuning: Tuning, state: TuningState) -> None:
    """Write the state, the run's config and the page.

    Raises:
        RunError: if they can't be written.
    """
    write_tuning(tuning.place, state)
    folder = working_folder_of(tuning.config)
    write_tuning_page(folder / TUNING_PAGE, tuning, state)
    try:
        put(tuning.place / TUNED_CONFIG, dump(tuning.tuned_run(state)).encode())
        if isinstance(tuning.place, StorePath):
            push(folder, tuning.place, [TUNING_PAGE])
    except OSError as error:
        raise RunError(f"{tuning.place}: can't be written: {error}") from None
