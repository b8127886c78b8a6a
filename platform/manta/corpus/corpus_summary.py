"""The summary of a corpus that `manta prepare` prints at its end."""

from __future__ import annotations

import shlex
from collections import Counter
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from manta.corpus.documents import SPLITS
from manta.corpus.length_cost import cost_lines
from manta.corpus.manifest import CHATS, LABELLED, Manifest
from manta.corpus.progress_bar import short
from manta.corpus.workspace import QUARANTINE

SHOWN_CLASSES = 10


def show_summary(manifest: Manifest, folder: str, console: Console) -> None:
    """Print what the corpus in `folder` holds, and the commands to use next."""
    # Lines rather than a table, which would break a path into two lines in a narrow window.
    rows = summary_rows(manifest, folder)
    width = max(10, *(len(name) for name, _ in rows))
    for name, value in rows:
        _print(f"{name:<{width}} {value}", console)
    console.print(counts_table(manifest))
    for purpose, command in next_commands(folder):
        _print(f"{purpose}: {command}", console)


def _print(line: str, console: Console) -> None:
    console.print(line, markup=False, highlight=False, soft_wrap=True)


def summary_rows(manifest: Manifest, folder: str) -> list[tuple[str, str]]:
    """The lines of the summary: names and values."""
    size = sum(shard.bytes for shard in manifest.shards)
    counts = [found for split in manifest.counts.values() for found in split.values()]
    documents = sum(found.documents for found in counts)
    tokens = sum(found.tokens for found in counts)
    return [
        ("corpus", f"{folder} (fingerprint {manifest.fingerprint[:12]})"),
        (manifest.documents_are, f"{documents:,}"),
        ("left out", _left_out(manifest, folder)),
        *(("too long", line) for line in cost_lines(manifest.length_cost, manifest.documents_are)),
        ("tokens", f"{tokens:,} in {len(manifest.shards)} shards, {short(size)}B"),
        *_text(manifest),
        *_rows(manifest, tokens),
        *_labels(manifest),
        ("tokenizer", _tokenizer(manifest)),
        ("bos", bos_rule(manifest)),
    ]


def _text(manifest: Manifest) -> list[tuple[str, str]]:
    """The size of the documents' texts, if the manifest has it."""
    sizes = [counts.bytes for split in manifest.counts.values() for counts in split.values()]
    if None in sizes:
        return []
    total = sum(size or 0 for size in sizes)
    tokens = sum(shard.tokens for shard in manifest.shards)
    return [("text", f"{short(total)}B, {total / tokens:.2f} bytes a token")]


def _rows(manifest: Manifest, tokens: int) -> list[tuple[str, str]]:
    """Tokens of conversations that are trained on, and padding in packed rows."""
    if manifest.row_length is None:
        return []
    rows = sum(shard.documents for shard in manifest.shards)
    padding = 1 - tokens / (rows * manifest.row_length)
    what = "padding or repeated" if manifest.is_windows else "padding"
    shown = f"{rows:,} of {manifest.row_length:,} tokens, {padding:.1%} of them {what}"
    if manifest.sample not in CHATS:
        return [("rows", shown)]
    counts = [found for split in manifest.counts.values() for found in split.values()]
    supervised = sum(found.supervised or 0 for found in counts)
    return [
        ("supervised", f"{supervised:,} tokens, {supervised / tokens:.1%}"),
        ("rows", shown),
    ]


def _labels(manifest: Manifest) -> list[tuple[str, str]]:
    """The classes by which texts are labelled, each with its share."""
    if manifest.sample != LABELLED:
        return []
    if manifest.classes is None:
        return [("labels", "numbers")]
    total = Counter[str]()
    for split in manifest.counts.values():
        for found in split.values():
            total.update(found.labels or {})
    shown = [f"{n} {total[n] / total.total():.1%}" for n in manifest.classes[:SHOWN_CLASSES]]
    more = ", …" if len(manifest.classes) > SHOWN_CLASSES else ""
    return [("classes", f"{len(manifest.classes)}: {', '.join(shown)}{more}")]


def bos_rule(manifest: Manifest) -> str:
    """Whether documents begin with a BOS, and so prompts of a model trained on them."""
    for token in manifest.begins_with:
        return f"true: documents begin with token {token}, and so does each prompt"
    return "false: documents begin with their text, and so does each prompt"


def next_commands(folder: str) -> list[tuple[str, str]]:
    """Commands to use next with a new corpus, each after its purpose."""
    return [
        ("look at it", f"manta inspect {shlex.quote(folder)}"),
        ("train on it", f"manta train RUN.yaml {shlex.quote(f'corpus={folder}')}"),
    ]


def counts_table(manifest: Manifest) -> Table:
    """Documents, conversations or pairs, and tokens, of each source in each split."""
    title = f"{manifest.documents_are} / tokens"
    table = Table("source", title=title, title_justify="left")
    for split in SPLITS:
        table.add_column(split, justify="right")
    names = list(dict.fromkeys(name for split in SPLITS for name in manifest.counts[split]))
    for name in names:
        cells = [manifest.counts[split][name] for split in SPLITS]
        shown = [f"{cell.documents:,} / {cell.tokens:,}" for cell in cells]
        table.add_row(escape(name), *shown)
    totals = []
    for split in SPLITS:
        found = manifest.counts[split].values()
        documents, tokens = sum(one.documents for one in found), sum(one.tokens for one in found)
        totals.append(f"{documents:,} / {tokens:,}")
    table.add_section()
    table.add_row("all", *totals)
    table.add_row("shards", *[str(len(manifest.shards_of(split))) for split in SPLITS])
    return table


def _left_out(manifest: Manifest, folder: str) -> str:
    dropped = ", ".join(f"{count:,} {reason}" for reason, count in manifest.dropped.items())
    if not manifest.dropped.get("quarantined"):
        return dropped
    return f"{dropped} (reasons: {Path(folder) / QUARANTINE})"


def _tokenizer(manifest: Manifest) -> str:
    section = manifest.config.get("tokenizer", {})
    origin = section.get("path") or "trained on a sample of this corpus"
    size = f"{manifest.vocab_size:,} tokens ({manifest.token_dtype})"
    return f"{size}, EOS is {manifest.eos_id}; {origin}"
