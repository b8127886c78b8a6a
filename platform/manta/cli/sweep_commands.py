"""`manta sweep-status` and others: look at a sweep, and change it while it runs."""

from __future__ import annotations

from typing import Annotated

import typer

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
