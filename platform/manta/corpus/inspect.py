"""`inspect`: show what a prepared corpus holds, and check that it is undamaged."""

from __future__ import annotations

import io
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console, Group, RenderableType
from rich.markup import escape
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from manta.config.errors import CorpusError
from manta.config.urls import is_url
from manta.corpus import remote
from manta.corpus.corpus_summary import bos_rule, counts_table
from manta.corpus.filters.show_filters import filters_table
from manta.corpus.inspect_rows import first_label, first_of, wrong_chats, wrong_texts
from manta.corpus.leftovers import checksum
from manta.corpus.length_cost import cost_lines
from manta.corpus.manifest import LABELLED, PACKED, PAIRS, Manifest, Shard, Split, Vocabulary
from manta.corpus.tokenizer import decode
from manta.sample import shard_file
from manta.sample.tokens import document_tokens

CHECKING_THREADS = 4
SHOWN_TEXT = 600
PAGE_WIDTH = 120  # characters
SUPERVISED, REJECTED = "bold green", "bold red"


@dataclass(frozen=True)
class Sample:
    """One document, conversation or pair of a corpus, decoded.

    Attributes:
        split: the split that holds the document.
        source: name of the document's source.
        doc_id: the document's content hash in hexadecimal.
        tokens: number of the document's tokens.
        pieces: pieces of the text in order, each with whether the loss counts it.
        rejected: pieces of a pair's rejected conversation; `pieces` are those of the chosen one.
        label: name of the text's class, or its number; "" without a label.
    """

    split: Split
    source: str
    doc_id: str
    tokens: int
    pieces: list[tuple[str, bool]]
    rejected: list[tuple[str, bool]] | None = None
    label: str = ""

    @property
    def text(self) -> str:
        """The whole text; of a pair, that of the chosen conversation."""
        return "".join(text for text, _ in self.pieces)


@dataclass(frozen=True)
class CorpusReport:
    """The result of `inspect`.

    Attributes:
        folder: the corpus's folder.
        manifest: the corpus's manifest.
        samples: some documents, spread evenly over the shards of the train split.
        verified: number of shards whose checksum and content are right; None if not checked.
    """

    folder: Path
    manifest: Manifest
    samples: list[Sample] = field(default_factory=list)
    verified: int | None = None


def inspect(folder: str | Path, *, samples: int = 3, verify: bool = True) -> CorpusReport:
    """Read and check a corpus.

    Args:
        folder: the corpus's folder.
        samples: number of documents to decode.
        verify: whether to read every byte and compare it with the manifest.

    Raises:
        CorpusError: naming every file that is missing or damaged.
    """
    folder = Path(folder).expanduser()
    manifest = Manifest.read(folder)
    _check(folder, manifest, verify)
    documents = _samples(folder, manifest, samples)
    return CorpusReport(folder, manifest, documents, len(manifest.shards) if verify else None)


def render(report: CorpusReport) -> RenderableType:
    """The report as a rich object, to print."""
    return Group(
        _facts(report),
        counts_table(report.manifest),
        *([filters_table(report.manifest.filters)] if report.manifest.filters else []),
        *[_panel(sample) for sample in report.samples],
    )


def as_page(report: RenderableType) -> str:
    """A rendered report as an HTML page, in the colours of the terminal; it needs no other file."""
    console = Console(record=True, width=PAGE_WIDTH, file=io.StringIO(), legacy_windows=False)
    console.print(report)
    return console.export_html()


def _check(folder: Path, manifest: Manifest, verify: bool) -> None:
    def problem(shard: Shard) -> str | None:
        return _damage(folder / shard.file, shard, manifest, verify)

    with ThreadPoolExecutor(CHECKING_THREADS) as threads:
        damaged = [said for said in threads.map(problem, manifest.shards) if said]
    damaged += _damaged_tokenizer(folder, manifest)
    if damaged:
        raise CorpusError("\n".join([*damaged, f"prepare the corpus in {folder} again"]))


def _damaged_tokenizer(folder: Path, manifest: Manifest) -> Iterator[str]:
    """What is wrong with the files of the tokenizer in `folder`."""
    for name, expected in manifest.tokenizer_files.items():
        if not expected:
            continue  # format 1 has no checksum of the second file
        try:
            if checksum(folder / name) != expected:
                yield f"{folder / name}: damaged: its checksum is not the manifest's"
        except OSError as error:
            yield f"{folder / name}: can't be read: {error.strerror}"


def check_shards(folder: str, manifest: Manifest) -> None:
    """Read all files of a corpus, in a folder or at a URL, and compare them with the manifest.

    Raises:
        CorpusError: naming every file that is missing or damaged.
    """

    def problem(shard: Shard) -> str | None:
        held = remote.local_shard(folder, shard)
        try:
            found = _damage(held.path, shard, manifest, verify=True)
            if found is None or not is_url(folder):
                return found
            held.path.unlink(missing_ok=True)
            return f"{found}; this node's copy, which is removed now"
        finally:
            held.release()

    with ThreadPoolExecutor(CHECKING_THREADS) as threads:
        damaged = [said for said in threads.map(problem, manifest.shards) if said]
    damaged += _damaged_tokenizer(remote.tokenizer_folder(folder, manifest), manifest)
    if damaged:
        remedy = f"prepare the corpus in {folder} again"
        if is_url(folder):
            remedy = "run the same command again: these files are fetched anew"
        raise CorpusError("\n".join([*damaged, remedy]))


def _damage(path: Path, shard: Shard, manifest: Manifest, verify: bool) -> str | None:
    """The problem of a shard; None if there is none."""
    try:
        size = path.stat().st_size
        if size != shard.bytes:
            return f"{path}: damaged: {size} bytes, but the manifest says {shard.bytes}"
        if verify and checksum(path) != shard.sha256:
            return f"{path}: damaged: its checksum is not the manifest's"
        wrong = _wrong_content(shard_file.read(path), shard, manifest) if verify else None
    except OSError as error:
        return f"{path}: can't be read: {error.strerror}"
    except CorpusError as error:
        return str(error)
    return f"{path}: {wrong}" if wrong else None


def _wrong_content(table: Any, shard: Shard, manifest: Manifest) -> str | None:
    """How the content of a shard with the right checksum breaks the format; None if it doesn't."""
    if table.num_rows != shard.documents:
        return f"it has {table.num_rows} rows, unlike the manifest"
    if shard.source is not None and set(table.column("source").unique().to_pylist()) != {
        shard.source
    }:
        return f"not all of its rows are of the source '{shard.source}'"
    vocabulary = manifest.vocabulary
    if vocabulary is None:
        return None
    wrong = _wrong_tokens
    if manifest.sample in PACKED:
        wrong = wrong_texts if manifest.sample == LABELLED else wrong_chats
    return wrong(table, shard, manifest, vocabulary)


def _wrong_tokens(
    table: Any, shard: Shard, manifest: Manifest, vocabulary: Vocabulary
) -> str | None:
    """How a shard of tokens breaks the format; None if it doesn't."""
    if table.schema != shard_file.whole_schema(manifest.format_of_samples.schema):
        return f"its columns are {', '.join(map(str, table.schema))}"
    tokens, ends = document_tokens(table)
    if (len(ends), len(tokens)) != (shard.documents, shard.tokens):
        return f"it has {len(ends)} documents and {len(tokens)} tokens, unlike the manifest"
    if len(tokens) and int(tokens.max()) >= vocabulary.size:
        return f"token {int(tokens.max())} is outside the vocabulary of {vocabulary.size}"
    if not np.array_equal(np.flatnonzero(tokens == manifest.eos_id), ends - 1):
        return "its documents do not end where its EOS tokens are"
    starts = np.concatenate([[0], ends[:-1]]) if len(ends) else ends
    if any((tokens[starts] != bos).any() for bos in manifest.begins_with):
        return f"not all of its documents begin with token {manifest.bos_id}, the BOS"
    return None


def _samples(folder: Path, manifest: Manifest, count: int) -> list[Sample]:
    """Documents, evenly spaced over the train split; none for a corpus without a tokenizer."""
    if manifest.tokenizer_file is None:
        return []
    train = manifest.shards_of("train")
    total = sum(shard.documents for shard in train)
    wanted = sorted({(2 * i + 1) * total // (2 * count) for i in range(count)}) if total else []
    rows = []
    first = 0
    for shard in train:
        here = [place - first for place in wanted if first <= place < first + shard.documents]
        if here:
            table = shard_file.read(folder / shard.file)
            rows += [{k: table.column(k)[row].as_py() for k in table.schema.names} for row in here]
        first += shard.documents
    packed = manifest.sample in PACKED
    count = 2 if manifest.sample == PAIRS else 1
    shown = [first_of(row, count) if packed else [[(row["tokens"][:-1], True)]] for row in rows]
    flat = [tokens for parts in shown for pieces in parts for tokens, _ in pieces]
    texts = iter(decode(folder, manifest.tokenizer_file, flat, special=packed))
    found = []
    for row, parts in zip(rows, shown, strict=True):
        decoded = [[(next(texts), supervised) for _, supervised in pieces] for pieces in parts]
        ends = [*row.get("starts", [])[1:], len(row["tokens"])]
        found.append(
            Sample(
                split="train",
                source=row["source"],
                doc_id=row["doc_id"].partition("+")[0],
                tokens=ends[count - 1],
                pieces=decoded[0],
                rejected=decoded[1] if len(decoded) > 1 else None,
                label=first_label(row, manifest) if manifest.sample == LABELLED else "",
            )
        )
    return found


def _facts(report: CorpusReport) -> RenderableType:
    manifest = report.manifest
    checked = (
        f"{report.verified} shards{' and the tokenizer' if manifest.tokenizer_file else ''}: "
        "checksums right"
        if report.verified is not None
        else "not checked"
    )
    dropped = ", ".join(f"{count} {reason}" for reason, count in manifest.dropped.items())
    costs = cost_lines(manifest.length_cost, manifest.documents_are)
    facts = Table.grid(padding=(0, 2))
    for name, value in {
        "corpus": report.folder,
        "fingerprint": manifest.fingerprint,
        "prepared by": f"manta {manifest.manta_version}",
        **_token_facts(manifest),
        "dropped": dropped,
        **({"too long": "\n".join(costs)} if costs else {}),
        "checked": checked,
    }.items():
        facts.add_row(name, escape(str(value)))
    return facts


def _token_facts(manifest: Manifest) -> dict[str, str]:
    if manifest.vocabulary is None:
        return {"samples": f"of the format '{manifest.sample}'"}
    size = f"{manifest.vocabulary.size:,} tokens ({manifest.token_dtype})"
    return {"tokenizer": f"{size}, EOS is {manifest.eos_id}", "bos": bos_rule(manifest)}


def _panel(sample: Sample) -> RenderableType:
    shown = _styled(sample.pieces, SUPERVISED)
    if sample.rejected is not None:
        chosen, rejected = Text("chosen\n", "bold"), Text("\nrejected\n", "bold")
        shown = chosen + shown + rejected + _styled(sample.rejected, REJECTED)
    title = f"{sample.split} · {sample.source} · {sample.doc_id} · {sample.tokens:,} tokens"
    title += f" · {sample.label}" if sample.label else ""
    return Panel(shown, title=escape(title), title_align="left")


def _styled(pieces: list[tuple[str, bool]], style: str) -> Text:
    """The start of a text; if only parts of it are trained on, these are in `style`."""
    chat = any(not supervised for _, supervised in pieces)
    shown, left = Text(), SHOWN_TEXT
    for text, supervised in pieces:
        shown.append(text[:left], style if chat and supervised else "")
        left -= len(text)
        if left < 0:
            shown.append(" …")
            break
    return shown
