"""`manta evaluate`, `gate`, `card`, `audit`: should this model ship?"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from manta.cli.arguments import Model, Overrides, answers, evaluated_place, interrupted, model_place


def evaluate(
    model: Model,
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
    from manta.config.load_evaluation import load_evaluation
    from manta.storage.place import place_of

    loaded = load_evaluation(config, overrides or ())
    say_checking(config)
    from manta.evaluate.run_evaluation import evaluate as run
    from manta.record.evaluation_record import read_evaluation
    from manta.show.evaluations.evaluation_lines import print_evaluation
    from manta.storage.run_folder import EVALUATION_PAGE

    place, step = model_place(model)
    try:
        folder = run(
            place,
            step,
            loaded,
            output=None if output is None else place_of(output),
            final=final,
            tell=partial(print, flush=True),
        )
    except KeyboardInterrupt:
        raise interrupted("no result is written") from None
    print()
    print_evaluation(read_evaluation(folder), Console())
    print(f"page: {folder / EVALUATION_PAGE}")


@answers
def gate(
    model: Annotated[
        str,
        typer.Argument(
            metavar="RUN|EVALUATION",
            help="A run, an exported model, or the folder of an evaluation.",
        ),
    ],
    config: Annotated[Path, typer.Argument(metavar="GATE.yaml", help="The gate's config file.")],
    overrides: Overrides = None,
    evaluation: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Name of the evaluation; by default the newest."),
    ] = None,
) -> None:
    """Decide whether a model may ship: exit code 0 if it passes the gate, 1 if not, 2 by error."""
    from manta.config.gate import load_gate
    from manta.evaluate.gate_decision import decide

    loaded = load_gate(config, overrides or ())
    decision = decide(evaluated_place(model), loaded, evaluation, print)
    for check in decision.checks:
        mark = "passed" if check.passed else "FAILED"
        print(f"{mark}  {check.metric}: {check.asked}; found {check.found}")
    print(f"gate {decision.name}: {'passed' if decision.passed else 'failed'}")
    if not decision.passed:
        from manta.govern.alert_once import alert_of_gate

        alert_of_gate(decision, loaded.alerts, print)
        raise typer.Exit(1)


def card(
    run: Annotated[str, typer.Argument(metavar="RUN[@STEP]", help="Folder or URL of a run.")],
    output: Annotated[
        Path | None,
        typer.Option(help="File to write, HTML if it ends so, else Markdown; else it is printed."),
    ] = None,
) -> None:
    """Print a run's model card: data, training, evaluations and gates, from its record alone."""
    from manta.elastic.checks.warm_start import run_at_step
    from manta.show.model_card import model_card
    from manta.storage.atomic import write_whole
    from manta.storage.place import place_of

    place, step = run_at_step(run)
    text = model_card(place_of(place), step)
    if output is None:
        print(text, end="")
        return
    if output.suffix.lower() in (".html", ".htm"):
        from manta.show.card_page import write_card_page

        write_card_page(text, output)
    else:
        write_whole(output, text.encode())
    print(f"card: {output}")


def audit(
    model: Annotated[
        str, typer.Argument(metavar="RUN", help="Folder or URL of a run, or an exported model.")
    ],
) -> None:
    """Verify the log of what was done to a run or model, and print it: who, what, when."""
    from manta.record.audit_log import read_log
    from manta.storage.place import place_of

    log = read_log(place_of(model))
    for entry in log.entries:
        facts = ", ".join(f"{name}={value}" for name, value in entry.facts.items())
        print(f"{entry.time}  {entry.user}@{entry.host}  {entry.action}: {facts}")
    if log.problem:
        print(f"the chain is broken: {log.problem}")
        raise typer.Exit(1)
    count = len(log.entries)
    print(f"{count} entr{'y' if count == 1 else 'ies'}, an unbroken chain; its end is {log.digest}")
