"""`manta evaluate`, `gate`, `card`, `audit`: should this model ship?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from manta.cli.arguments import Overrides


def evaluate(
    model: Annotated[
        str,
        typer.Argument(metavar="RUN[@STEP]", help="A run, or the folder of an exported model."),
    ],
    config: Annotated[
        Path, typer.Argument(metavar="EVAL.yaml", help="The evaluation's config file.")
    ],
    overrides: Overrides = None,
    output: Annotated[
        str | None,
        typer.Option(help="Folder or URL for the result; by default in the model's folder."),
    ] = None,
    final: Annotated[
        bool, typer.Option("--final", help="Read the test split, and note that it was looked at.")
    ] = False,
) -> None:
    """Measure a model: loss, answers, calibration, latency, cost, and metrics of your own."""
    from rich.console import Console

    from manta.cli.arguments import say_checking
    from manta.config.evaluation import load_evaluation
    from manta.storage.place import place_of

    loaded = load_evaluation(config, overrides or ())
    say_checking(config)
    from manta.elastic.checks.warm_start import run_at_step
    from manta.evaluate.run_evaluation import evaluate as run
    from manta.record.evaluation_record import read_evaluation
    from manta.show.evaluations.evaluation_lines import print_evaluation
    from manta.storage.run_folder import EVALUATION_PAGE

    place, step = run_at_step(model)
    folder = run(
        place_of(place),
        step,
        loaded,
        output=None if output is None else place_of(output),
        final=final,
        tell=print,
    )
    print()
    print_evaluation(read_evaluation(folder), Console())
    print(f"page: {folder / EVALUATION_PAGE}")
