"""`manta keys`: what can be set in a config; `manta doctor`: what would go wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def keys(
    prefix: Annotated[
        str,
        typer.Argument(metavar="PREFIX", help="List only keys below it, such as schedule.lr."),
    ] = "",
    markdown: Annotated[
        bool, typer.Option("--markdown", help="Print the page docs/config.md, with all keys.")
    ] = False,
) -> None:
    """List the keys of all configs, with their values, defaults and meanings."""
    from manta.config.reference import as_markdown, show_keys

    if markdown:
        print(as_markdown(), end="")
    else:
        from rich.console import Console

        show_keys(prefix, Console())


def doctor(
    cluster: Annotated[
        Path | None,
        typer.Argument(
            metavar="CLUSTER.yaml", help="The cluster file to check; by default this machine."
        ),
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="A run's config: check what this run needs as well.")
    ] = None,
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
