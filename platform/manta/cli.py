"""The `manta` command: a thin door to the packages behind it.

Nothing heavy is imported before a command needs it: help and config errors must answer
at once.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

import manta

if TYPE_CHECKING:
    from manta.cluster.jobs import Job
    from manta.config import RunConfig

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

ConfigFile = Annotated[Path, typer.Argument(metavar="CONFIG.yaml", help="The config file.")]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="[KEY=VALUE]...", help="Overrides, such as train.seq_len=512."),
]
PrintConfig = Annotated[
    bool, typer.Option("--print-config", help="Print the resolved config and stop.")
]
RunPlace = Annotated[str, typer.Argument(metavar="RUN", help="Folder or URL of a run.")]
Address = Annotated[
    str | None, typer.Option(help="A Ray cluster; an embedded Ray is started without it.")
]


def _say_version(asked: bool) -> None:
    if asked:
        print(f"manta {manta.__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_say_version, is_eager=True, help="Show it and stop."),
    ] = False,
) -> None:
    """Elastic training and tuning of neural networks on Ray."""


def _say_checking(config: Path) -> None:
    """The first sign of life of a command that will start Ray, or connect to it."""
    from manta.cluster.waiting import say

    say(f"checking {config} …")


@app.command()
def prepare(
    config: ConfigFile,
    overrides: Overrides = None,
    print_config: PrintConfig = False,
    address: Address = None,
) -> None:
    """Turn raw text into token shards."""
    from manta.config import CorpusConfig, dump, load

    loaded = load(config, CorpusConfig, overrides or ())
    if print_config:
        print(dump(loaded), end="")
        return
    _say_checking(config)
    from manta.corpus.inputs import open_inputs, open_output

    try:
        inputs = open_inputs(loaded)
        manifest = open_output(loaded, inputs)
        if manifest is not None:
            print(f"{loaded.out}: already prepared from this config and input; nothing to do")
        else:
            from manta.cluster.session import ray_session

            with ray_session(address):
                from manta.corpus.prepare import prepare as run

                manifest = run(loaded, inputs)
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from here", file=sys.stderr)
        raise typer.Exit(130) from None
    from rich.console import Console

    from manta.corpus.summary import show_summary

    show_summary(manifest, loaded.out, Console())


@app.command()
def inspect(
    corpus: Annotated[str, typer.Argument(help="Folder of a prepared corpus.")],
    samples: Annotated[int, typer.Option(min=0, help="Documents to show.")] = 3,
) -> None:
    """Show what a prepared corpus holds and verify its checksums."""
    from rich.console import Console

    from manta.corpus.inspect import inspect as look
    from manta.corpus.inspect import render

    Console().print(render(look(corpus, samples=samples)))


@app.command()
def schedule(
    config: ConfigFile,
    overrides: Overrides = None,
    html: Annotated[Path | None, typer.Option(help="Where to write the HTML page.")] = None,
) -> None:
    """Draw learning rate, batch size and steps over tokens."""
    from rich.console import Console

    from manta.config import RunConfig, load
    from manta.schedule import Schedule
    from manta.schedule.draw import draw_terminal
    from manta.track.schedule_page import write_schedule

    loaded = load(config, RunConfig, overrides or ())
    resolved = Schedule.resolve(loaded.schedule, loaded.train.seq_len)
    console = Console()
    draw_terminal(resolved, console)
    page = html or Path(f"schedule-{loaded.run.name}.html")
    write_schedule(resolved, page, loaded.run.name)
    console.print(f"page: {page}")


@app.command()
def train(
    config: ConfigFile,
    overrides: Overrides = None,
    print_config: PrintConfig = False,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Refuse to continue a run that exists.")
    ] = False,
    restart: Annotated[
        bool, typer.Option("--restart", help="Set aside what the run has, and start it anew.")
    ] = False,
    address: Address = None,
) -> None:
    """Train, or continue a run where its newest checkpoint is."""
    submitted = time.time()
    from manta.config import RunConfig, dump, load

    loaded = load(config, RunConfig, overrides or ())
    if not print_config:
        _say_checking(config)
    from manta.elastic.preflight import absolute, refuse_existing, remarks_of

    loaded = absolute(loaded)
    if print_config:
        print(dump(loaded), end="")
        for remark in remarks_of(loaded):
            print(f"note: {remark}", file=sys.stderr)
        return
    if fresh:
        refuse_existing(loaded)
    if restart:
        _set_aside(loaded)
    try:
        from manta.elastic.command import run_training

        run_training(loaded, address, submitted)
    except KeyboardInterrupt:
        print("interrupted; the same command continues the run", file=sys.stderr)
        raise typer.Exit(130) from None


@app.command()
def sweep(
    config: Annotated[Path, typer.Argument(metavar="SWEEP.yaml", help="The sweep's file.")],
    overrides: Overrides = None,
    plan: Annotated[
        bool, typer.Option("--plan", help="Show what would be trained and what it costs, and stop.")
    ] = False,
    address: Address = None,
) -> None:
    """Train the trials of a search space, each shared beginning once."""
    from manta.config.sweep import load_sweep

    loaded = load_sweep(config, overrides or ())
    if not plan:
        _say_checking(config)
    from manta.tune.command import run_sweep, show_plan

    if plan:
        show_plan(loaded)
        return
    if not run_sweep(loaded, address):
        print("interrupted; the same command continues the sweep", file=sys.stderr)
        raise typer.Exit(130)


Server = Annotated[
    str | None,
    typer.Option("--address", help="The cluster's dashboard; else as for `ray job submit`."),
]
JobId = Annotated[str, typer.Argument(metavar="JOB", help="As `manta submit` printed it.")]
Follow = Annotated[bool, typer.Option("--follow", help="Show the log until the job ends.")]


@app.command()
def submit(
    config: ConfigFile,
    overrides: Overrides = None,
    address: Server = None,
    follow: Follow = False,
) -> None:
    """Train, sweep or prepare as a job on a cluster, by what the config is of."""
    from manta.cluster.submit import open_work
    from manta.cluster.submit import submit as send

    work = open_work(config, overrides or ())
    _say_checking(config)
    from manta.tune.command import check_before_sending, provenance

    check_before_sending(work.config)
    client, job = send(work, address, provenance())
    if follow:
        from manta.cluster.jobs import Job

        _follow(Job(client, job))


@app.command()
def status(
    job: Annotated[str | None, typer.Argument(metavar="[JOB]", help="Else all.")] = None,
    address: Server = None,
) -> None:
    """Show the jobs of a cluster, or how one of them stands."""
    from manta.cluster.client import connect
    from manta.cluster.jobs import Job, table

    client = connect(address)
    print("\n".join(table(client) if job is None else Job(client, job).described()))


@app.command()
def logs(job: JobId, follow: Follow = False, address: Server = None) -> None:
    """Show what a job has printed."""
    from manta.cluster.client import connect
    from manta.cluster.jobs import Job
    from manta.config.credentials import without_credentials

    found = Job(connect(address), job)
    if follow:
        _follow(found)
    else:
        print(without_credentials(found.log()), end="")


@app.command()
def stop(job: JobId, address: Server = None) -> None:
    """Have a job save a checkpoint and end, and wait for that."""
    from manta.cluster.client import connect
    from manta.cluster.jobs import Job

    found = Job(connect(address), job)
    if found.is_over or not found.stop():
        print(f"{job} is over: {found.status}")
        return
    print(f"{job} was asked to save and end; Ctrl-C leaves it to that")
    found.skip_log()
    try:
        how = found.follow()
    except KeyboardInterrupt:
        print(f"it goes on saving; manta status {job} says when it has ended", file=sys.stderr)
        raise typer.Exit(130) from None
    print(f"{job}: {how}; the same config, submitted again, goes on")


def _follow(job: Job) -> None:
    """Show a job's log to its end; Ctrl-C leaves the job alone."""
    try:
        how = job.follow()
    except KeyboardInterrupt:
        print(
            f"\ndetached; the job goes on. Look again: manta logs {job.id} --follow; "
            f"save and end it: manta stop {job.id}",
            file=sys.stderr,
        )
        raise typer.Exit(130) from None
    print(f"{job.id}: {how}")
    if how != "SUCCEEDED":
        raise typer.Exit(1)


def _set_aside(config: RunConfig) -> None:
    from manta.track.aside import set_aside
    from manta.track.opening import place_of_run

    place = place_of_run(config)
    if aside := set_aside(place):
        print(f"--restart: what was in {place} is in {aside} now")


@app.command()
def verify(
    run: RunPlace,
    no_shards: Annotated[
        bool, typer.Option("--no-shards", help="Don't read the token shards again.")
    ] = False,
) -> None:
    """Prove from config and manifest which samples a run was trained on."""
    from manta.elastic.verifying import verify_run
    from manta.storage.place import place_of

    print("\n".join(verify_run(place_of(run), shards=not no_shards).lines()))


@app.command()
def compare(
    paths: Annotated[
        list[str],
        typer.Argument(metavar="RUN...|SWEEP", help="Folders or URLs of runs, or of one sweep."),
    ],
    output: Annotated[
        Path | None, typer.Option(help="Where to write the HTML page; else compare.html.")
    ] = None,
    metric: Annotated[
        str | None, typer.Option(help="What to compare by: val_loss, loss; else the sweep's.")
    ] = None,
    top: Annotated[int, typer.Option(min=1, help="How many of the best to show.")] = 10,
) -> None:
    """Compare runs, or the trials of a sweep: best first, by how much, how sure, at what cost."""
    from manta.track.comparing import compare_places

    compare_places(paths, metric=metric, output=output, top=top)


@app.command()
def export(
    run: RunPlace,
    out: Annotated[Path, typer.Argument(help="Folder to write the model to.")],
    step: Annotated[int | None, typer.Option(help="Which checkpoint; else the newest.")] = None,
) -> None:
    """Write a run's model as a Hugging Face folder."""
    from manta.storage.place import place_of
    from manta.storage.probe import check_new_folder

    check_new_folder(out)
    from manta.track.model_card import CARD, model_card
    from manta.track.state import RUN
    from manta.train.export import export as run_export

    place = place_of(run)
    card = {CARD: model_card(place, step)} if (place / RUN).exists() else {}
    print(f"model: {run_export(place, out, step, card)}")


@app.command()
def generate(
    run: Annotated[str, typer.Argument(help="Folder or URL of a run, or an exported model.")],
    prompt: Annotated[str, typer.Argument(help="The beginning of the text.")],
    tokens: Annotated[int, typer.Option(min=1, help="Most tokens to add.")] = 64,
    temperature: Annotated[float, typer.Option(min=0, help="0 takes the likeliest.")] = 0.8,
    seed: Annotated[int, typer.Option(help="Of the sampling.")] = 0,
) -> None:
    """Continue a text with a run's model."""
    from manta.storage.place import place_of
    from manta.train.export import generate as run_generate

    print(run_generate(place_of(run), prompt, tokens=tokens, temperature=temperature, seed=seed))


@app.command()
def keys(
    prefix: Annotated[
        str, typer.Argument(metavar="[PREFIX]", help="Those below it, such as schedule.lr.")
    ] = "",
    markdown: Annotated[
        bool, typer.Option("--markdown", help="All of them as a page: docs/config.md.")
    ] = False,
) -> None:
    """List the keys of all configs, with their values, defaults and meanings."""
    from manta.config.reference import as_markdown, show_keys

    if markdown:
        print(as_markdown(), end="")
    else:
        from rich.console import Console

        show_keys(prefix, Console())


@app.command()
def doctor(
    cluster: Annotated[
        Path | None,
        typer.Argument(metavar="[CLUSTER.yaml]", help="A cluster file; else this machine."),
    ] = None,
    config: Annotated[Path | None, typer.Option(help="A run's config, to see if it fits.")] = None,
) -> None:
    """Say what would go wrong, before anything is launched."""
    from rich.console import Console

    from manta.cluster.doctor import diagnose
    from manta.cluster.findings import failures, show
    from manta.config import RunConfig, load

    findings = diagnose(cluster, load(config, RunConfig) if config else None)
    show(findings, Console())
    if failures(findings):
        raise typer.Exit(1)


def _interrupt(*_: object) -> NoReturn:
    raise KeyboardInterrupt


def main() -> None:
    """Run the command line; errors of ours are one message, anything else a traceback."""
    signal.signal(signal.SIGTERM, _interrupt)
    # Else it looks through all packages that are installed for plugins, here and in each worker.
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    # Imports make objects that stay: by default they are looked through again with each 700 more.
    gc.set_threshold(50_000)
    try:
        app()
    except Exception as error:
        from manta.config import MantaError
        from manta.config.credentials import without_credentials

        if not isinstance(error, MantaError):
            raise
        print(f"error: {without_credentials(str(error))}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
