"""`manta sweep-status` and others: look at a sweep, and change it while it runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from manta.record.sweep_request import SweepRequest

SweepPlace = Annotated[str, typer.Argument(metavar="SWEEP", help="Folder or URL of a sweep.")]


def sweep_status(
    sweep: SweepPlace,
    as_json: Annotated[bool, typer.Option("--json", help="Print it as JSON.")] = False,
) -> None:
    """Show where each trial of a sweep stands, and what is left; also while the sweep runs."""
    from manta.record.sweep_standing import sweep_standing
    from manta.show.console.sweep_lines import sweep_lines
    from manta.storage.place import place_of

    found = sweep_standing(place_of(sweep))
    print(found.model_dump_json(indent=1) if as_json else "\n".join(sweep_lines(found)))


def sweep_stop(
    sweep: SweepPlace,
    trials: Annotated[list[str], typer.Argument(metavar="TRIAL", help="Names of trials.")],
) -> None:
    """Have trials of a sweep save and end; no other trial changes, nor those forked from them."""
    from manta.record.sweep_request import new_request

    _ask(sweep, new_request("stop", trials=trials))


def sweep_add(
    sweep: SweepPlace,
    parameters: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="KEY=VALUE", help="Parameters of the new trial, such as schedule.lr.peak=3e-3."
        ),
    ] = None,
    like: Annotated[
        str | None,
        typer.Option(
            metavar="TRIAL", help="Trial whose parameters the new one has where none are given."
        ),
    ] = None,
) -> None:
    """Add a trial to a sweep; it continues from the deepest checkpoint whose steps it shares."""
    from manta.config.load import values_of
    from manta.record.sweep_request import new_request

    _ask(sweep, new_request("add", params=values_of(parameters or ()), like=like))


def sweep_fork(
    sweep: SweepPlace,
    trial: Annotated[
        str,
        typer.Argument(
            metavar="TRIAL[@STEP]", help="A trial and the step of a checkpoint; else its newest."
        ),
    ],
    parameters: Annotated[
        list[str],
        typer.Argument(metavar="KEY=VALUE", help="Keys of its schedule, from that step on."),
    ],
) -> None:
    """Add a trial to a sweep that continues from another trial with a changed schedule."""
    from manta.config.errors import ConfigError
    from manta.config.load import values_of
    from manta.record.sweep_request import new_request

    name, at, step = trial.partition("@")
    if at and not step.isdecimal():
        raise ConfigError(f"{trial}: write TRIAL@STEP, such as t001@1200, or TRIAL alone")
    changed = values_of(parameters)
    _ask(sweep, new_request("fork", params=changed, like=name, step=int(step) if at else None))


def _ask(sweep: str, request: SweepRequest) -> None:
    """Have a sweep take a request, and print what it answers."""
    from manta.config.errors import RunError
    from manta.record.sweep_asking import ask_sweep
    from manta.storage.place import place_of

    answer = ask_sweep(place_of(sweep), request)
    if answer is None:
        print(f"{sweep} doesn't run now, or is busy: it takes the request when it goes on")
    elif answer.refused:
        raise RunError(answer.answer)
    else:
        print(answer.answer)
