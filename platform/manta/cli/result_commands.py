"""Use what was trained: `manta verify`, `compare`, `mixture`, `export`, `generate`, `chat`."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Annotated, Literal

import typer

from manta.cli.arguments import RunPlace, evaluated_place

Temperature = Annotated[
    float, typer.Option(min=0, help="Sampling temperature; 0 takes the likeliest token.")
]
Seed = Annotated[int, typer.Option(help="Seed of the sampling.")]
AnyModel = Annotated[
    str,
    typer.Argument(
        metavar="RUN", help="A run, an exported model, or one of the registry: registry:NAME@ALIAS."
    ),
]


def verify(
    run: RunPlace,
    no_shards: Annotated[
        bool,
        typer.Option("--no-shards", help="Don't check the contents of shards and checkpoints."),
    ] = False,
    weights: Annotated[
        str | None,
        typer.Option(
            "--weights",
            metavar="OTHER[@STEP]",
            help="Compare weights with another run's instead: exit code 1 unless they are the "
            "same to the bit.",
        ),
    ] = None,
) -> None:
    """Prove from config and manifest which samples a run was trained on."""
    from manta.storage.place import place_of

    if weights is None:
        from manta.elastic.checks.verifying import verify_run

        print("\n".join(verify_run(place_of(run), shards=not no_shards).lines()))
        return
    from manta.elastic.checks.same_weights import compare_weights
    from manta.elastic.checks.warm_start import run_at_step

    other, step = run_at_step(weights)
    compared = compare_weights(place_of(run), place_of(other), step)
    print("\n".join(compared.lines()))
    if not compared.equal:
        raise typer.Exit(1)


def compare(
    paths: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN|SWEEP", help="Folders or URLs of runs, of one sweep, or of evaluations."
        ),
    ],
    output: Annotated[
        Path | None, typer.Option(help="HTML page to write; by default compare.html.")
    ] = None,
    metric: Annotated[
        str | None,
        typer.Option(
            help="Metric to compare by, val_loss or loss; by default the sweep's, or val_loss."
        ),
    ] = None,
    top: Annotated[int, typer.Option(min=1, help="Number of the best to show.")] = 10,
    evaluation: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Compare models by their evaluations of this name, example by example.",
        ),
    ] = None,
) -> None:
    """Compare runs, or the trials of a sweep: best first, by how much, how sure, at what cost."""
    from manta.record.evaluation_record import is_evaluation

    if evaluation is not None or is_evaluation(evaluated_place(paths[0])):
        _compare_evaluations(paths, evaluation, output)
        return
    from manta.show.compare.comparing import compare_places

    compare_places(paths, metric=metric, output=output, top=top)


def mixture(
    sweep: Annotated[str, typer.Argument(metavar="SWEEP", help="Folder or URL of a sweep.")],
    towards: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SOURCE=WEIGHT",
            help="Weight of a source's loss in what is made small; by default as in the "
            "validation split.",
        ),
    ] = None,
    tokens: Annotated[
        str | None, typer.Option(help="Horizon of the run that the mixture is for, such as 10B.")
    ] = None,
    max_epochs: Annotated[
        float | None, typer.Option(min=0, help="Most epochs over a source in that run.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print it as JSON.")] = False,
) -> None:
    """Propose a mixture of sources by the trials of a sweep over mixtures."""
    import yaml

    from manta.cli.arguments import weights_of
    from manta.config.units import parse_tokens
    from manta.recommend.mixture_search import search_mixture
    from manta.storage.place import place_of

    found = search_mixture(
        place_of(sweep),
        weights_of(towards, "--towards") if towards else None,
        tokens=None if tokens is None else parse_tokens(tokens),
        max_epochs=max_epochs,
    )
    if as_json:
        print(found.as_json())
        return
    print("\n".join([*found.lines(), "", yaml.safe_dump(found.keys(), sort_keys=False).rstrip()]))


def _compare_evaluations(paths: list[str], name: str | None, output: Path | None) -> None:
    """Compare evaluations with the first one."""
    from rich.console import Console

    from manta.config.errors import RunError
    from manta.record.evaluation_record import find_evaluation
    from manta.show.evaluations.paired_comparison import compare_evaluations
    from manta.show.evaluations.paired_lines import print_comparisons
    from manta.show.evaluations.paired_page import write_paired_page
    from manta.storage.run_folder import COMPARISON

    if len(paths) < 2:
        raise RunError("give the evaluations of two or more models; the first is the baseline")
    found = compare_evaluations([find_evaluation(evaluated_place(path), name) for path in paths])
    print_comparisons(found, Console())
    print(f"page: {write_paired_page(found, output or Path(COMPARISON))}")


def export(
    run: RunPlace,
    out: Annotated[Path, typer.Argument(help="Folder to write the model to.")],
    step: Annotated[
        int | None, typer.Option(help="Step of the checkpoint; by default the newest.")
    ] = None,
    merge: Annotated[
        bool, typer.Option("--merge", help="Merge the run's adapter into the weights.")
    ] = False,
    average: Annotated[
        bool, typer.Option("--average", help="Write the average of the weights in their place.")
    ] = False,
    quantize: Annotated[
        Literal["int8"] | None, typer.Option(help="Round the weights of linear layers.")
    ] = None,
) -> None:
    """Write a run's model as a Hugging Face folder; an adapter as PEFT's, your own as weights."""
    from manta.storage.place import place_of
    from manta.storage.probe import check_new_folder

    check_new_folder(out)
    from manta.config import RunConfig, load
    from manta.config.own_code import is_own
    from manta.show.model_card import CARD, model_card
    from manta.storage.run_folder import CONFIG, RUN
    from manta.train.export import export as run_export

    place = place_of(run)
    # The model card describes a language model of Transformers; a user's own model gets none.
    named = (place / RUN).exists() and not is_own(load(place / CONFIG, RunConfig).model.type)
    card = {CARD: model_card(place, step, average=average)} if named else {}
    how = {"merge": merge, "average": average, "quantize": quantize is not None}
    found = run_export(place, out, step, card, **how, tell=print)
    print(f"model: {found}")
    from manta.record.audit_log import EXPORTED, note

    told = {"step": step, "to": str(out.absolute()), "merged": merge, "average": average}
    told |= {} if quantize is None else {"quantize": quantize}
    note(place, EXPORTED, told, print)


def generate(
    run: AnyModel,
    prompt: Annotated[str, typer.Argument(help="The beginning of the text.")],
    tokens: Annotated[int, typer.Option(min=1, help="Maximum number of tokens to add.")] = 64,
    temperature: Temperature = 0.8,
    seed: Seed = 0,
) -> None:
    """Continue a text with a run's model."""
    from manta.train.export import generate as run_generate

    print(
        run_generate(
            evaluated_place(run), prompt, tokens=tokens, temperature=temperature, seed=seed
        )
    )


def chat(
    run: AnyModel,
    system: Annotated[str, typer.Option(help="First message, with the role system.")] = "",
    tokens: Annotated[
        int, typer.Option(min=1, help="Maximum number of tokens of an answer.")
    ] = 256,
    temperature: Temperature = 0.8,
    seed: Seed = 0,
) -> None:
    """Talk to a run's model in the terminal; an empty line ends it."""
    from manta.train.chat_session import ChatSession

    session = ChatSession(
        evaluated_place(run), system=system, tokens=tokens, temperature=temperature, seed=seed
    )
    with suppress(EOFError, KeyboardInterrupt):
        while text := input("you: ").strip():
            print("model: ", end="", flush=True)
            speed = session.answer(text, lambda piece: print(piece, end="", flush=True))
            print(f"\n[{speed:.0f} tokens/s]")


def score(
    run: AnyModel,
    file: Annotated[Path, typer.Argument(help="JSONL file of texts or conversations.")],
    output: Annotated[
        Path | None, typer.Option(help="JSONL file to write; else the lines are printed.")
    ] = None,
) -> None:
    """Score texts or conversations by a model with a head: reward, regression or classify."""
    from manta.train.scoring import score_file

    count = 0
    for line in score_file(evaluated_place(run), file, output):
        count += 1
        if output is None:
            print(line)
    if output is not None:
        print(f"{count:,} scored: {output}")
