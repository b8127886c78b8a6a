"""`manta schedule`, `train`, `fork`, `sweep`, `tune` and others: the commands that train."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from manta.cli.arguments import (
    Address,
    ConfigFile,
    Overrides,
    PrintConfig,
    RunPlace,
    interrupted,
    say_checking,
)


def schedule(
    config: ConfigFile,
    overrides: Overrides = None,
    html: Annotated[Path | None, typer.Option(help="Where to write the HTML page.")] = None,
) -> None:
    """Draw learning rate, batch size, steps, and the mixture of sources, over tokens."""
    from rich.console import Console

    from manta.config import RunConfig, load
    from manta.corpus.manifest import Manifest
    from manta.schedule import Schedule
    from manta.schedule.draw import draw_terminal
    from manta.schedule.lengths import Lengths, words
    from manta.show.pages.schedule_page import write_schedule

    loaded = load(config, RunConfig, overrides or ())
    resolved = Schedule.resolve(loaded.schedule, loaded.train.seq_len)
    mixture = None
    if loaded.data.mixture is not None:  # only its names and sizes need the corpus
        from manta.stream.mixed_sources import mixture_of

        mixture = mixture_of(loaded, Manifest.read(loaded.corpus))
    console = Console()
    draw_terminal(resolved, console, mixture)
    lengths = Lengths.resolve(loaded.train, loaded.schedule.horizon)
    if lengths.ends:
        console.print(words(lengths))
    page = html or Path(f"schedule-{loaded.run.name}.html")
    write_schedule(resolved, page, loaded.run.name, mixture)
    console.print(f"page: {page}")


def train(
    config: ConfigFile,
    overrides: Overrides = None,
    print_config: PrintConfig = False,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Refuse to continue a run that exists.")
    ] = False,
    restart: Annotated[
        bool, typer.Option("--restart", help="Move the run's files aside, and start it anew.")
    ] = False,
    plan: Annotated[
        bool, typer.Option("--plan", help="Print what would be trained, at what cost, and stop.")
    ] = False,
    address: Address = None,
) -> None:
    """Train a run, or continue it from its newest checkpoint."""
    submitted = time.time()
    from manta.config import RunConfig, dump, load

    loaded = load(config, RunConfig, overrides or ())
    if not print_config:
        say_checking(config)
    from manta.elastic.checks.preflight import absolute, remarks_of

    loaded = absolute(loaded)
    if print_config:
        print(dump(loaded), end="")
        for remark in remarks_of(loaded):
            print(f"note: {remark}", file=sys.stderr)
        return
    if plan:
        from manta.elastic.checks.plan_run import show_run_plan

        show_run_plan(loaded)
        return
    try:
        from manta.elastic.driver.train_command import run_training

        run_training(loaded, address, submitted, fresh=fresh, restart=restart)
    except KeyboardInterrupt:
        raise interrupted("the same command continues the run") from None


def precompute(config: ConfigFile, overrides: Overrides = None, address: Address = None) -> None:
    """Have a run's teacher or reference say of each sample what the run is to learn by, once."""
    from manta.config import RunConfig, load

    loaded = load(config, RunConfig, overrides or ())
    say_checking(config)
    from manta.corpus.progress_bar import short
    from manta.elastic.checks.preflight import absolute
    from manta.elastic.driver.precompute import finished, plan

    planned = plan(absolute(loaded))
    if finished(planned):
        print(f"{planned.folder}: already there; nothing to do")
        return
    tokens = short(planned.samples * planned.settings.seq_len)
    print(f"{tokens} tokens, about {short(planned.bytes)}B in {planned.folder}", flush=True)
    try:
        from manta.cluster.session import ray_session

        with ray_session(address):
            from manta.elastic.driver.precompute import precompute as run

            run(planned)
    except KeyboardInterrupt:
        raise interrupted("the same command continues from here") from None
    print(f"{planned.folder} is ready; to train by it: manta train {config}")


def fork(
    run: Annotated[
        str,
        typer.Argument(
            metavar="RUN@STEP", help="A run and the step of a checkpoint; by default the newest."
        ),
    ],
    name: Annotated[str, typer.Argument(metavar="NEW", help="Name of the new run.")],
    overrides: Overrides = None,
) -> None:
    """Make a run that continues from another run's checkpoint with changed keys."""
    from manta.elastic.checks.fork_run import fork_run
    from manta.elastic.checks.warm_start import run_at_step
    from manta.storage.place import place_of
    from manta.storage.run_folder import CONFIG

    place, step = run_at_step(run)
    child = fork_run(place_of(place), step, name, overrides or ())
    from manta.record.audit_log import BEGUN_AS_FORK, FORKED, note

    note(place_of(place), FORKED, {"step": step, "to": str(child)}, print)
    note(child, BEGUN_AS_FORK, {"of": place, "step": step, "changes": overrides or []}, print)
    print(f"{child} is ready; to train it: manta train {child / CONFIG}")


def replay(
    run: RunPlace,
    first: Annotated[int, typer.Argument(metavar="FROM", help="Step of a checkpoint, or 0.")],
    last: Annotated[int, typer.Argument(metavar="TO", help="Step of a later checkpoint.")],
    overrides: Overrides = None,
    keep: Annotated[
        bool, typer.Option("--keep", help="Keep the run that trained the stretch again.")
    ] = False,
    address: Address = None,
) -> None:
    """Train a stretch of a run again, on any number of workers, and compare it to the bit."""
    submitted = time.time()
    from manta.elastic.checks.replay import compare, plan_replay
    from manta.storage.place import place_of

    planned = plan_replay(place_of(run), first, last, overrides or ())
    if planned.config.train.reproducible is None:
        print("note: without train.reproducible, only the same number of workers gives the same")
    planned.begin()
    try:
        from manta.elastic.driver.train_command import run_training

        run_training(planned.config, address, submitted)
    except BaseException as error:
        planned.remove()
        if isinstance(error, KeyboardInterrupt):
            raise interrupted("what was trained again is removed") from None
        raise
    print("\n".join(compare(planned)))
    if not keep:
        planned.remove()
        print(f"{planned.place} is removed (--keep keeps it)")


def sweep(
    config: Annotated[Path, typer.Argument(metavar="SWEEP.yaml", help="The sweep's config file.")],
    overrides: Overrides = None,
    plan: Annotated[
        bool, typer.Option("--plan", help="Print what would be trained, at what cost, and stop.")
    ] = False,
    address: Address = None,
) -> None:
    """Train the trials of a search space; steps that trials share are trained once."""
    from manta.config.sweep import load_sweep

    loaded = load_sweep(config, overrides or ())
    if not plan:
        say_checking(config)
    from manta.tune.sweep_command import run_sweep, show_plan

    if plan:
        show_plan(loaded)
        return
    if not run_sweep(loaded, address):
        raise interrupted("the same command continues the sweep")


def tune(
    config: Annotated[
        Path,
        typer.Argument(
            metavar="CONFIG.yaml", help="The config file of a tuning, or of the run to tune."
        ),
    ],
    overrides: Overrides = None,
    plan: Annotated[
        bool, typer.Option("--plan", help="Print what would be trained, at what cost, and stop.")
    ] = False,
    address: Address = None,
) -> None:
    """Find a run's learning rate, micro-batch and batch schedule by short runs, and check them."""
    from manta.config.tuning import load_tuning

    loaded = load_tuning(config, overrides or ())
    if not plan:
        say_checking(config)
    from manta.recommend.tune_command import run_tuning, show_tuning_plan

    if plan:
        show_tuning_plan(loaded)
        return
    try:
        finished = run_tuning(loaded, address)
    except KeyboardInterrupt:
        finished = False
    if not finished:
        raise interrupted("the same command continues the tuning")
