"""`manta prepare`, `manta join`, `manta inspect`: from raw text to token shards."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from manta.cli.arguments import Address, ConfigFile, Overrides, PrintConfig, say_checking


def prepare(
    config: ConfigFile,
    overrides: Overrides = None,
    print_config: PrintConfig = False,
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
        manifest = open_output(loaded, inputs)
        if manifest is not None:
            print(f"{loaded.out}: already prepared from this config and input; nothing to do")
        else:
            from manta.cluster.session import ray_session

            with ray_session(address):
                from manta.corpus.prepare import prepare as run

                manifest = run(loaded, inputs)
    except KeyboardInterrupt:
        print("interrupted; the same command continues from here", file=sys.stderr)
        raise typer.Exit(130) from None
    from rich.console import Console

    from manta.corpus.corpus_summary import show_summary

    show_summary(manifest, loaded.out, Console())


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
    samples: Annotated[int, typer.Option(min=0, help="Documents to show.")] = 3,
    output: Annotated[
        Path | None, typer.Option(help="HTML page to write; by default it is printed.")
    ] = None,
) -> None:
    """Show what a prepared corpus holds and verify its checksums."""
    from rich.console import Console

    from manta.corpus.inspect import as_page, render
    from manta.corpus.inspect import inspect as look
    from manta.storage.atomic import write_whole

    report = look(corpus, samples=samples)
    if output is None:
        Console().print(render(report))
        return
    write_whole(output, as_page(report).encode())
    print(f"page: {output}")
