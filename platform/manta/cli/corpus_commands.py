"""`manta prepare`, `manta join`, `manta inspect`: from raw text to token shards."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from manta.cli.arguments import (
    Address,
    ConfigFile,
    Overrides,
    PrintConfig,
    interrupted,
    say_checking,
)

if TYPE_CHECKING:
    from manta.config import CorpusConfig
    from manta.corpus.inputs import Inputs


def prepare(
    config: ConfigFile,
    overrides: Overrides = None,
    print_config: PrintConfig = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what filters do to a sample, and stop.")
    ] = False,
    address: Address = None,
) -> None:
    """Turn raw text into token shards."""
    from manta.config import CorpusConfig, dump, load

    loaded = load(config, CorpusConfig, overrides or ())
    if print_config:
        print(dump(loaded), end="")
        return
    say_checking(config)
    from manta.corpus.inputs import open_inputs, open_output

    try:
        inputs = open_inputs(loaded)
        if dry_run:
            _show_dry_run(loaded, inputs)
            return
        manifest = open_output(loaded, inputs)
        if manifest is not None:
            from manta.corpus.workspace import already_prepared

            print(already_prepared(loaded.out, manifest))
        else:
            from manta.cluster.session import ray_session

            with ray_session(address):
                from manta.corpus.prepare import prepare as run

                manifest = run(loaded, inputs)
    except KeyboardInterrupt:
        raise interrupted("the same command continues from here") from None
    from rich.console import Console

    from manta.corpus.corpus_summary import show_summary

    show_summary(manifest, loaded.out, Console())


def _show_dry_run(config: CorpusConfig, inputs: Inputs) -> None:
    from rich.console import Console

    from manta.corpus.filters.dry_run import dry_run, render_dry_run

    Console().print(render_dry_run(dry_run(config, inputs)), highlight=False)


def join(
    out: Annotated[str, typer.Argument(metavar="OUT", help="Folder of the joined corpus.")],
    corpora: Annotated[
        list[str], typer.Argument(metavar="CORPUS", help="Folders of prepared corpora.")
    ],
) -> None:
    """Make one corpus of several that have the same tokenizer, without a copy of their shards."""
    from rich.console import Console

    from manta.corpus.corpus_summary import show_summary
    from manta.corpus.join import join as run

    show_summary(run(corpora, out), out, Console())


def inspect(
    corpus: Annotated[str, typer.Argument(help="Folder of a prepared corpus.")],
    samples: Annotated[
        int, typer.Option(min=0, help="Documents to show; with --dropped, for each reason.")
    ] = 3,
    dropped: Annotated[
        bool, typer.Option("--dropped", help="Show what filters dropped, and why.")
    ] = False,
    output: Annotated[
        Path | None, typer.Option(help="HTML page to write; by default it is printed.")
    ] = None,
) -> None:
    """Show what a prepared corpus holds and verify its checksums."""
    from rich.console import Console

    from manta.corpus.filters.show_filters import dropped_report
    from manta.corpus.inspect import as_page, render
    from manta.corpus.inspect import inspect as look
    from manta.storage.atomic import write_whole

    shown = dropped_report(corpus, samples) if dropped else render(look(corpus, samples=samples))
    if output is None:
        Console().print(shown)
        return
    write_whole(output, as_page(shown).encode())
    print(f"page: {output}")
