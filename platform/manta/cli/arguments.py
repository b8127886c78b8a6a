"""Arguments and options that several subcommands take, and their first sign of life."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

ConfigFile = Annotated[Path, typer.Argument(metavar="CONFIG.yaml", help="The config file.")]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="KEY=VALUE", help="Overrides, such as train.seq_len=512."),
]
PrintConfig = Annotated[
    bool, typer.Option("--print-config", help="Print the resolved config and stop.")
]
RunPlace = Annotated[str, typer.Argument(metavar="RUN", help="Folder or URL of a run.")]
Address = Annotated[
    str | None, typer.Option(help="A Ray cluster; an embedded Ray is started without it.")
]
Server = Annotated[
    str | None,
    typer.Option("--address", help="The cluster's dashboard; else as for `ray job submit`."),
]


def say_checking(config: Path) -> None:
    """The first sign of life of a command that will start Ray, or connect to it."""
    from manta.cluster.waiting import say

    say(f"checking {config} …")
