"""`manta drift`, `arena`, `economics`, `retrain`: what is asked of models beside evaluations."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from manta.cli.arguments import Overrides, answers

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Page = Annotated[Path | None, typer.Option(help="HTML page to write.")]


@answers
def drift(
    new: Annotated[
        str,
        typer.Argument(
            metavar="NEW", help="A prepared corpus, or a JSONL, Parquet or text file of documents."
        ),
    ],
    against: Annotated[
        str,
        typer.Option(
            metavar="CORPUS|RUN",
            help="Corpus, run or registry:NAME@ALIAS whose data the new data is compared with.",
        ),
    ],
    overrides: Overrides = None,
    config: Annotated[
        Path | None, typer.Option(metavar="DRIFT.yaml", help="Thresholds, and how much is read.")
    ] = None,
    as_json: Json = False,
    output: Page = None,
) -> None:
    """Show whether new data differs from a corpus or run: exit code 1 if it drifted, 0 if not."""
    from manta.config.drift import load_drift

    loaded = load_drift(config, overrides or ())
    import sys

    from manta.govern.drift_report import look_for_drift

    report = look_for_drift(new, against, loaded, partial(print, file=sys.stderr, flush=True))
    from manta.govern.drift_page import print_drift, verdict, write_drift_page

    if as_json:
        print(report.model_dump_json(indent=1))
    else:
        from rich.console import Console

        print_drift(report, Console())
        print(verdict(report))
    if output is not None:
        page = write_drift_page(report, output)
        print(f"page: {page}", file=sys.stderr if as_json else sys.stdout)
    if report.drifted:
        raise typer.Exit(1)


def arena(
    models: Annotated[
        list[str],
        typer.Argument(
            metavar="MODEL MODEL PROMPTS.jsonl",
            help="Runs (RUN@STEP), exported models or registry:NAME@ALIAS, then the prompts.",
        ),
    ],
    output: Annotated[
        Path, typer.Option(help="Folder of answers, choices and pairs; it goes on from there.")
    ] = Path("arena"),
    tokens: Annotated[int, typer.Option(min=1, help="Most tokens of an answer.")] = 256,
    temperature: Annotated[float, typer.Option(min=0, help="Sampling temperature.")] = 0.0,
    seed: Annotated[int, typer.Option(help="Seed of sampling and of the order of answers.")] = 0,
    page: Annotated[
        Path | None, typer.Option(help="Write a page to choose on, in place of the terminal.")
    ] = None,
    choices: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Take the choices that a page has saved.")
    ] = None,
) -> None:
    """Choose between answers of models without knowing whose they are; who is chosen how often."""
    from manta.cli.arguments import model_place
    from manta.govern.arena import AnswerSettings, Arena, ArenaModel

    *names, prompts = models
    places = [ArenaModel(name, *model_place(name)) for name in names]
    made = Arena(output, places, Path(prompts), AnswerSettings(tokens, temperature, seed))
    pairs = made.answer(partial(print, flush=True))
    if choices is not None:
        print(f"{made.take(choices):,} choices taken from {choices}")
    if page is not None:
        from manta.govern.arena_page import write_arena_page

        print(f"page: {write_arena_page(pairs, str(output.absolute()), page)}")
    elif choices is None:
        from manta.govern.arena_terminal import ask

        ask(made, pairs)
    from manta.govern.arena_terminal import standing_lines

    print("\n".join(standing_lines(made.standings(pairs))))
    count = made.write_pairs(pairs)
    print(f"{count:,} pair{'' if count == 1 else 's'} for manta prepare: {output / 'pairs.jsonl'}")


def economics(
    models: Annotated[
        list[str],
        typer.Argument(
            metavar="MODEL", help="Runs, exported models, evaluations or registry:NAME@ALIAS."
        ),
    ],
    evaluation: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Name of the evaluations; by default the newest."),
    ] = None,
    quality: Annotated[
        str | None,
        typer.Option(metavar="METRIC", help="Such as answers/success; by default the first shown."),
    ] = None,
    gate: Annotated[
        str | None, typer.Option(metavar="NAME", help="Gate that counts; by default all.")
    ] = None,
    price: Annotated[
        float | None,
        typer.Option(min=0, help="Price of a device for an hour; by default the evaluations'."),
    ] = None,
    as_json: Json = False,
    output: Page = None,
) -> None:
    """Weigh quality against latency, memory and cost: the front, the smallest that passes."""
    import sys

    from manta.cli.arguments import evaluated_place
    from manta.govern.economics import economics_of
    from manta.govern.economics_page import print_economics, write_economics_page

    places = [evaluated_place(model) for model in models]
    found = economics_of(places, evaluation, quality, gate, price)
    if as_json:
        print(found.model_dump_json(indent=1))
    else:
        from rich.console import Console

        print_economics(found, Console())
    if output is not None:
        page = write_economics_page(found, output)
        print(f"page: {page}", file=sys.stderr if as_json else sys.stdout)


@answers
def retrain(
    config: Annotated[
        Path, typer.Argument(metavar="TRIGGERS.yaml", help="The config of retraining.")
    ],
    overrides: Overrides = None,
    go: Annotated[bool, typer.Option("--go", help="Run what it says, if a trigger fired.")] = False,
    as_json: Json = False,
) -> None:
    """Say which trigger fired and what would run; with --go, run it up to the promotion."""
    from manta.config.retraining import load_retrain

    loaded = load_retrain(config, overrides or ())
    import sys

    from manta.govern import retrain as run

    tell = partial(print, file=sys.stderr, flush=True)
    plan = run.plan_retraining(loaded, tell)
    if as_json:
        import json  # --help does without it

        print(json.dumps(plan.as_json(), indent=1))
    else:
        print("\n".join(run.plan_lines(plan)), flush=True)
    run.alert_of_triggers(loaded, plan, tell)
    if not (go and plan.fired and not plan.pause):
        return
    if not run.carry_out(loaded, plan, tell):
        raise typer.Exit(1)
