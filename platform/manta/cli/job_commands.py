"""`manta submit`, `status`, `logs`, `stop`: jobs on a cluster."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from manta.cli.arguments import ConfigFile, Overrides, Server, say_checking

if TYPE_CHECKING:
    from manta.cluster.jobs import Job


JobId = Annotated[str, typer.Argument(metavar="JOB", help="The job's id, from `manta submit`.")]
Follow = Annotated[bool, typer.Option("--follow", help="Show the log until the job ends.")]


def submit(
    config: ConfigFile,
    overrides: Overrides = None,
    address: Server = None,
    follow: Follow = False,
    model: Annotated[
        str | None,
        typer.Option(
            metavar="RUN[@STEP]", help="The model to be evaluated, or that a gate decides on."
        ),
    ] = None,
    go: Annotated[
        bool, typer.Option("--go", help="Run what a retraining says, if a trigger fired.")
    ] = False,
) -> None:
    """Run a job on a cluster: train, sweep, tune, evaluate, retrain …, as the config says."""
    from manta.cluster.submit import open_work
    from manta.cluster.submit import submit as send

    work = open_work(config, overrides or (), model, go)
    say_checking(config)
    from manta.recommend.before_sending import check_before_sending, provenance

    check_before_sending(work.config)
    client, job = send(work, address, provenance())
    if follow:
        from manta.cluster.jobs import Job

        _follow(Job(client, job))


def status(
    job: Annotated[
        str | None, typer.Argument(metavar="JOB", help="The job's id; by default all jobs.")
    ] = None,
    address: Server = None,
) -> None:
    """List the jobs of a cluster, or show the state of one."""
    from manta.cluster.client import connect
    from manta.cluster.jobs import Job, table

    client = connect(address)
    print("\n".join(table(client) if job is None else Job(client, job).described()))


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


def stop(job: JobId, address: Server = None) -> None:
    """Ask a job to save a checkpoint and end, and wait until it has."""
    from manta.cluster.client import connect
    from manta.cluster.jobs import Job

    found = Job(connect(address), job)
    if found.is_over or not found.stop():
        print(f"{job} has already ended: {found.status}")
        return
    print(f"{job} was asked to save and end; Ctrl-C stops waiting, not the job")
    found.skip_log()
    try:
        how = found.follow()
    except KeyboardInterrupt:
        print(
            f"{job} continues to save; manta status {job} shows whether it has ended",
            file=sys.stderr,
        )
        raise typer.Exit(130) from None
    print(f"{job}: {how}; submit the same config again to continue")


def _follow(job: Job) -> None:
    """Show a job's log to its end; Ctrl-C leaves the job alone."""
    try:
        how = job.follow()
    except KeyboardInterrupt:
        print(
            f"\ndetached; the job continues. To watch it again: manta logs {job.id} --follow; "
            f"to save and end it: manta stop {job.id}",
            file=sys.stderr,
        )
        raise typer.Exit(130) from None
    print(f"{job.id}: {how}")
    if how != "SUCCEEDED":
        raise typer.Exit(1)
