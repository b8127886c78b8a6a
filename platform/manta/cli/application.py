"""The `manta` command: what all subcommands share, and how errors are printed."""

from __future__ import annotations

import gc
import os
import signal
import sys
from typing import Annotated, NoReturn

import typer

import manta

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _say_version(asked: bool) -> None:
    if asked:
        print(f"manta {manta.__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_say_version, is_eager=True, help="Print the version and stop."
        ),
    ] = False,
) -> None:
    """Elastic training and tuning of neural networks on Ray."""


def _interrupt(*_: object) -> NoReturn:
    raise KeyboardInterrupt


def main() -> None:
    """Run the command line; a `MantaError` is printed as one message, others as a traceback."""
    signal.signal(signal.SIGTERM, _interrupt)
    # By default Pydantic searches all installed packages for plugins, here and in each worker.
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    # Objects made by imports stay; by default the GC scans them again after each 700 allocations.
    gc.set_threshold(50_000)
    try:
        app()
    except Exception as error:
        from manta.config import MantaError
        from manta.config.credentials import without_credentials

        if not isinstance(error, MantaError):
            raise
        print(f"error: {without_credentials(str(error))}", file=sys.stderr)
        sys.exit(error.exit_code)
