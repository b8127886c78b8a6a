"""`prepare`: make the corpus that a config describes."""

from __future__ import annotations

import hashlib
import io
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import ray
import tokenizers

import manta
from manta.config.corpus import CorpusConfig
from manta.config.errors import CorpusError
from manta.corpus import leftovers, scan, work_units, worker_pool
from manta.corpus.assemble import Arrange, Assembler
from manta.corpus.canonical import TOKENIZER_FILE
from manta.corpus.chat_totals import ChatTotals, rows_of
from manta.corpus.cuts import cuts_of
from manta.corpus.documents import DUPLICATE, SPLITS, Problem, split_bounds, split_of
from manta.corpus.encode import digest, encode_unit, settings
from manta.corpus.encode_chats import encode_chats
from manta.corpus.encode_labelled import encode_labelled
from manta.corpus.filters.corpus_filters import CorpusFilters
from manta.corpus.inputs import Inputs, open_inputs
from manta.corpus.label_totals import LabelTotals, rows_of_texts
from manta.corpus.lineage.input_hashes import hash_files, hash_orders, origin_sources
from manta.corpus.lineage.origin import Origin
from manta.corpus.manifest import Counts, Manifest, Shard, Split
from manta.corpus.progress_bar import PrepareProgress, short
from manta.corpus.record_totals import RecordTotals
from manta.corpus.reloaded import difference
from manta.corpus.retrieval import digest_of, write_index
from manta.corpus.scan import Located, Scanned
from manta.corpus.tokenizer import TRAINED_EOS, CorpusTokenizer, stored, train
from manta.corpus.workspace import (
    CONTEXT,
    QUARANTINE,
    Workspace,
    already_prepared,
    finished,
    opened,
)
from manta.corpus.yields import Yield, yields
from manta.storage.atomic import unwritable, write_whole

SHOWN_PROBLEMS = 10
# Bytes from which on a document takes gigabytes to tokenize whole: WHOLE_COST times its size.
LARGE = 8 << 20
WHOLE_COST = 150
# Bytes of documents that the tokenizer as Transformers loads it is compared on.
COMPARED_BYTES = 256 << 10


def prepare(
    config: CorpusConfig, inputs: Inputs | None = None, *, progress: bool = True
) -> Manifest:
    """Make the corpus that `config` describes, or continue an interrupted attempt.

    Ray must be running; relative paths are those of the working folder. `config.out` must be a
    folder that the driver and all workers see. The result doesn't depend on the number of
    workers, or on when an earlier attempt was killed.

    Args:
        config: the corpus's config.
        inputs: result of `open_inputs`, if that was called already.
        progress: whether to show a progress bar.

    Returns:
        The manifest; at once if the corpus is finished already.

    Raises:
        CorpusError: if input or output can't be used; then no corpus is written.
    """
    if not ray.is_initialized():
        raise RuntimeError("prepare needs a running Ray: call ray.init first")
    out = Path(config.out).expanduser().absolute()
    inputs = inputs or open_inputs(config)
    tokenizer = inputs.tokenizer
    key = inputs.key(config)
    with PrepareProgress(progress) as bar:
        manifest = finished(out, key)
        if manifest:
            bar.say(already_prepared(out, manifest))
            return manifest
        versions = f"{manta.__version__} {tokenizers.__version__}{inputs.filters.versions}"
        with opened(out, key, versions) as workspace:
            # Another process may have finished the corpus between the check above and the lock.
            return finished(out, key) or _Preparation(config, inputs, workspace, bar).run(tokenizer)


class _Preparation:
    """One attempt at a corpus: its passes, and the data that they share."""

    def __init__(
        self,
        config: CorpusConfig,
        inputs: Inputs,
        workspace: Workspace,
        bar: PrepareProgress,
    ):
        self.config = config
        self.files = files = inputs.files
        self.passages = inputs.passages
        self.workspace = workspace
        self.bar = bar
        self.plan = work_units.plan(config, files)
        self.bounds = split_bounds(config.split)
        self.sources = [source.name for source in config.sources]
        self.extended = inputs.extended
        self.recorded = inputs.recorded(config)
        self.filters = CorpusFilters(inputs.filters, workspace.work, self.plan, files, config)
        self.has_padding = False  # whether the token for padding occurs in a document
        self.records: RecordTotals | None = None
        if config.chat:
            self.records = ChatTotals(config.chat)
        elif config.labelled:
            self.records = LabelTotals(config.labelled)

    def run(self, tokenizer: CorpusTokenizer | None) -> Manifest:
        self.tell_unusable_files()
        self.check_leftovers()
        section = self.config.tokenizer
        scanned = self.scan(COMPARED_BYTES if tokenizer else section.sample_bytes)
        try:
            self.check(scanned)
            scanned = self.filters.leave_out(scanned, self.bounds, self.bar)
            self.check(scanned)
        except CorpusError:
            self.workspace.discard()  # after a repair of the input, nothing here can be used
            raise
        tokenizer = self.keep(tokenizer or self.trained(scanned))
        self.bar.say(str(tokenizer))
        self.compare(tokenizer, scanned)
        counts, shards = self.encode(scanned, tokenizer)
        self.quarantine(scanned.problems + self.check_records())
        for found in self.yields(scanned):
            if found.is_little:
                self.bar.say(f"many documents were dropped: {found}")
        for name, content in tokenizer.files.items():
            write_whole(self.workspace.out / name, content, aside=self.workspace.work)
        self.write_context()
        self.filters.write_dropped(self.workspace.out, scanned)
        manifest = self.manifest(scanned, tokenizer, counts, shards)
        if self.extended is not None:
            self.extended.link_into(self.workspace.out)
            manifest = self.extended.with_new(manifest)
        self.write_origin(manifest, scanned)
        self.workspace.finish(manifest)
        return manifest

    def tell_unusable_files(self) -> None:
        """Report unusable files before any file is read to its end, which may take hours."""
        for problem in scan.unusable_files(self.plan, self.files, self.config)[:SHOWN_PROBLEMS]:
            self.bar.say(f"can't be used: {problem}")

    def check_leftovers(self) -> None:
        """Remove damaged files of an earlier attempt, so that they are made anew."""
        work, found = self.workspace.work, [unit.index for unit in self.plan.units]
        damaged = leftovers.remove_damaged(self.workspace.out, work, found)
        if damaged:
            more = ", …" if len(damaged) > SHOWN_PROBLEMS else ""
            self.bar.say(
                f"{len(damaged)} files of the interrupted attempt are damaged or missing, and are "
                f"made anew: {', '.join(damaged[:SHOWN_PROBLEMS])}{more}"
            )

    def scan(self, sample_bytes: int) -> Scanned:
        """The first pass, over the units that no earlier attempt has scanned."""
        work = self.workspace.work
        train_below = self.bounds[0]
        common = {
            "work": str(work),
            "train_below": train_below,
            "sample_below": scan.sample_bound(sample_bytes, self.plan, train_below),
            **self.filters.scan_settings(),
        }
        todo = [u for u in self.plan.units if not leftovers.scan_file(work, u.index).exists()]
        self.filters.count_lines(todo, self.bar)
        phase = self.bar.phase("reading", sum(unit.bytes for unit in self.plan.units))
        phase.found(sum(u.bytes for u in self.plan.units) - sum(u.bytes for u in todo), 0)
        orders = [
            work_units.order(unit, self.files, self.config)
            | common
            | self.filters.unit_settings(unit)
            for unit in todo
        ]
        for done in worker_pool.run(scan.scan_unit, orders):
            phase.advance(done["bytes"], done["documents"])
        phase.done()
        if self.extended is None:
            return scan.collect(work, self.plan, self.files, self.config)
        known = self.extended.known_hashes()
        found = scan.collect(work, self.plan, self.files, self.config, known)
        if unseen := self.config.filters.comparing:
            self.bar.say(
                f"filters.{', filters.'.join(unseen)}: only the new documents are compared with "
                f"one another, not with those of {self.extended.folder}"
            )
        return replace(found, classes=self.extended.classes_with(found.classes))

    def check(self, scanned: Scanned) -> None:
        """Raise CorpusError if a corpus can't be made of what was scanned."""
        if scanned.problems and self.config.on_error == "stop":
            raise CorpusError(_listed(scanned.problems))
        split = split_of(scanned.hashes, self.bounds)[scanned.kept]
        if not len(split):
            raise CorpusError(
                f"the corpus would be empty: {len(self.files)} files with {scanned.empty} empty "
                f"documents{self.filters.lost(scanned)} and {len(scanned.problems)} unusable ones; "
                "give other 'sources'"
            )
        nothing = [str(found) for found in self.yields(scanned) if not found.kept]
        if nothing:
            remedy = "repair each source named above, or remove it from 'sources'"
            if any(found.filtered for found in self.yields(scanned) if not found.kept):
                remedy += "; or change what 'filters' drop"
            raise CorpusError("\n".join([*nothing, remedy]))
        if not (split == 0).any() and self.extended is None:
            raise CorpusError(
                f"none of the {len(split)} documents is in the train split; add documents, or "
                "raise split.train"
            )

    def yields(self, scanned: Scanned) -> list[Yield]:
        """The documents that are kept of each source."""
        return yields(scanned, self.plan, self.sources)

    def trained(self, scanned: Scanned) -> CorpusTokenizer:
        """The tokenizer trained on a sample, by this attempt or an earlier one."""
        section = self.config.tokenizer
        if (self.workspace.tokenizer / leftovers.DONE).exists():
            return stored(self.workspace.tokenizer, TRAINED_EOS)
        self.bar.say(f"training a tokenizer of {section.vocab_size} tokens …")
        texts = scan.sample_texts(self.workspace.work, scanned, self.bounds, section.sample_bytes)
        return train(texts, int(section.vocab_size or 0))

    def keep(self, tokenizer: CorpusTokenizer) -> CorpusTokenizer:
        """Write the tokenizer to the work folder, where the workers read it."""
        folder = self.workspace.tokenizer
        if not (folder / leftovers.DONE).exists():
            try:
                folder.mkdir(exist_ok=True)
            except OSError as error:
                raise unwritable(folder, error) from None
            for name, content in tokenizer.files.items():
                write_whole(folder / name, content)
            sums = {name: hashlib.sha256(it).hexdigest() for name, it in tokenizer.files.items()}
            write_whole(folder / leftovers.DONE, leftovers.sealed_json({"files": sums}))
        return tokenizer

    def compare(self, tokenizer: CorpusTokenizer, scanned: Scanned) -> None:
        """Raise CorpusError if the tokenizer as Transformers loads it encodes differently."""
        from transformers import PreTrainedTokenizerFast  # takes a second to import

        folder = self.workspace.tokenizer
        sample = scan.sample_texts(self.workspace.work, scanned, self.bounds, COMPARED_BYTES)
        texts = (text[:COMPARED_BYTES] for text in sample)
        loaded = PreTrainedTokenizerFast.from_pretrained(folder)
        if differs := difference(loaded, tokenizer, folder / TOKENIZER_FILE, texts):
            shown = self.config.tokenizer.path or "that was trained"
            raise CorpusError(f"tokenizer {shown}: {differs}; use another tokenizer.json")

    def encode(
        self, scanned: Scanned, tokenizer: CorpusTokenizer
    ) -> tuple[dict[Split, dict[str, Counts]], list[Shard]]:
        """The second pass, over units not yet tokenized; returns counts and shards."""
        totals = {split: {name: np.zeros(3, int) for name in self.sources} for split in SPLITS}
        if isinstance(self.records, LabelTotals):
            self.records.classes = scanned.classes
        self.tell_uncut(tokenizer, int(scanned.sizes.max(initial=0)))
        phase = self.bar.phase("tokenizing", sum(unit.bytes for unit in self.plan.units))
        orders = []
        shard_tokens, (task, more, arrange) = (
            self.config.shard_tokens,
            self.task(scanned, tokenizer),
        )
        taken = self.extended.shards_before if self.extended else None
        with Assembler(self.workspace, shard_tokens, self.sources, arrange, taken) as assembler:

            def take(record: dict[str, Any]) -> tuple[int, int]:
                assembler.add(record)
                self.has_padding |= record["has_padding"]
                self.take_records(record, scanned)
                for split, found in record["splits"].items():
                    totals[split][self.sources[record["source"]]][: len(found)] += found
                sums = np.sum([[0, 0], *(few[:2] for few in record["splits"].values())], axis=0)
                documents, tokens = sums.tolist()
                return documents, tokens

            common = settings(self.workspace, tokenizer, self.bounds, self.sources) | more
            before = np.zeros(3, dtype=np.int64)
            for unit in self.plan.units:
                record = leftovers.record_file(self.workspace.work, unit.index)
                if record.exists():
                    before += [unit.bytes, *take(leftovers.read_record(record))]
                else:
                    orders.append(self.order(unit, scanned) | common)
            phase.found(*before.tolist())
            for done in worker_pool.run(task, orders):
                phase.advance(done["bytes"], *take(done))
            phase.done()
            shards = assembler.finish()
        return self.counts(totals, scanned), shards

    def task(
        self, scanned: Scanned, tokenizer: CorpusTokenizer
    ) -> tuple[worker_pool.Task, dict[str, Any], Arrange | None]:
        """The second pass's task, further values of its orders, and its arrangement of rows."""
        chat, labelled = self.config.chat, self.config.labelled
        if chat is not None:
            of_chats = {"chat": chat.model_dump_json(), "passages": self.index_passages()}
            return encode_chats, of_chats, rows_of(chat, tokenizer)
        if labelled is not None:
            more = {"labelled": labelled.model_dump_json(), "classes": scanned.classes}
            return encode_labelled, more, rows_of_texts(labelled, tokenizer)
        return encode_unit, {}, None

    def index_passages(self) -> str | None:
        """Index what is attached to questions, where the workers find it; None without it."""
        if not self.passages:
            return None
        folder = self.workspace.passages
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        write_index(self.passages, folder)
        return str(folder)

    def take_records(self, record: dict[str, Any], scanned: Scanned) -> None:
        """Add a unit's records to the totals, and locate those that can't be used."""
        if self.records is None:
            return
        unit, refused = self.plan.units[record["unit"]], []
        for part, row, reason, content in record["refused"]:
            place = scanned.first_rows[unit.index][part] + row
            file = self.files[unit.parts[part].file]
            refused.append(scan.located(self.config, file, Problem(place, reason, content)))
        self.records.add(record, refused)

    def write_context(self) -> None:
        """Record which passages were attached to which conversation."""
        if isinstance(self.records, ChatTotals) and self.passages:
            content = io.BytesIO()
            pq.write_table(self.records.context_table(), content)
            path = self.workspace.out / CONTEXT
            write_whole(path, content.getvalue(), aside=self.workspace.work)

    def check_records(self) -> list[Located]:
        """The records that are left out; raises unless the config allows that."""
        if self.records is None:
            return []
        self.records.check(SHOWN_PROBLEMS)
        refused = sorted(self.records.refused, key=lambda one: (one.source, one.file))
        if refused and self.config.on_error == "stop":
            raise CorpusError(_listed(refused))
        for news in self.records.news():
            self.bar.say(news)
        return refused

    def counts(
        self, totals: dict[Split, dict[str, Any]], scanned: Scanned
    ) -> dict[Split, dict[str, Counts]]:
        """Documents, tokens and bytes of text, by split and source."""
        sizes = scanned.bytes_in(self.bounds, [unit.source for unit in self.plan.units])

        def count(split: Split, name: str, size: int) -> Counts:
            documents, tokens, supervised = totals[split][name].tolist()
            # A record's text is JSON, whose size would be wrong for bits a byte.
            more: dict[str, Any] = {"bytes": size}
            if isinstance(self.records, ChatTotals):
                more = {"supervised": supervised}
            elif isinstance(self.records, LabelTotals):
                more = {"labels": self.records.labels_of(split, self.sources.index(name))}
            return Counts(documents=documents, tokens=tokens, **more)

        return {
            split: {
                name: count(split, name, int(sizes[row, column]))
                for column, name in enumerate(totals[split])
            }
            for row, split in enumerate(SPLITS)
        }

    def tell_uncut(self, tokenizer: CorpusTokenizer, largest: int) -> None:
        """Warn of the memory of a large document that the tokenizer must be given whole."""
        if largest >= LARGE and not cuts_of(tokenizer.files[TOKENIZER_FILE]).any:
            self.bar.say(
                f"the largest document has {short(largest)}B, and Manta can't tell where it may be "
                "cut for this tokenizer without changing its tokens: a worker may need "
                f"{short(WHOLE_COST * largest)}B of memory; split the document if that is too much"
            )

    def order(self, unit: work_units.Unit, scanned: Scanned) -> dict[str, Any]:
        """The order of the second pass for one unit."""
        hashes, kept, sizes = scanned.of_unit(unit.index)
        return work_units.order(unit, self.files, self.config) | {
            "source": unit.source,
            "duplicates": np.flatnonzero(~kept).tolist(),
            "digest": digest(hashes),
            "largest": int(sizes.max(initial=0)),
            **self.filters.later_settings(unit.index),
        }

    def quarantine(self, problems: list[Located]) -> None:
        """Write the list of inputs that are left out, in canonical order."""
        if problems:
            lines = "".join(problem.as_json() + "\n" for problem in problems)
            path = self.workspace.out / QUARANTINE
            write_whole(path, lines.encode(), aside=self.workspace.work)
            self.bar.say(f"{len(problems)} unusable inputs left out; see {path}")

    def write_origin(self, manifest: Manifest, scanned: Scanned) -> None:
        """Record the input files with their hashes, and what became of each source's rows."""
        orders = hash_orders(self.files)
        phase = self.bar.phase("hashing", sum(order["bytes"] for order in orders))
        hashed: dict[int, list[tuple[int, str] | None]] = {}
        # Few files are hashed sooner than workers start.
        few = len(orders) < 2
        for done in map(hash_files, orders) if few else worker_pool.run(hash_files, orders):
            hashed[done["unit"]] = done["files"]
            phase.advance(done["bytes"], 0)
        phase.done()
        hashes = [file for unit in sorted(hashed) for file in hashed[unit]]
        documents = {
            name: sum(counts[name].documents for counts in manifest.counts.values())
            for name in self.sources
        }
        sources = origin_sources(self.config, self.files, hashes, scanned, self.plan, documents)
        parents = [self.extended.parent] if self.extended else []
        origin = Origin(fingerprint=manifest.fingerprint, sources=sources, parents=parents)
        origin.write(self.workspace.out, aside=self.workspace.work)

    def manifest(
        self,
        scanned: Scanned,
        tokenizer: CorpusTokenizer,
        counts: dict[Split, dict[str, Counts]],
        shards: list[Shard],
    ) -> Manifest:
        records = self.records
        dropped = {
            "duplicate": int((scanned.fates == DUPLICATE).sum()),
            "empty": scanned.empty,
            "quarantined": len(scanned.problems) + (len(records.refused) if records else 0),
        }
        filtered = self.filters.records(scanned)
        for one in filtered or []:
            if lost := one.documents_in - one.documents_out:
                dropped[one.name] = lost
        if records:
            dropped["too_long"] = records.too_long
        return Manifest(
            manta_version=manta.__version__,
            **(records.facts if records else {}),
            passages_sha256=digest_of(self.passages) if self.passages else None,
            token_dtype=tokenizer.dtype,
            vocab_size=tokenizer.vocab_size,
            eos_id=tokenizer.eos_id,
            bos_id=tokenizer.bos_id,
            pad_id=None if self.has_padding else tokenizer.pad_id,
            tokenizer_file=TOKENIZER_FILE,
            tokenizer_sha256=tokenizer.sha256,
            tokenizer_config_sha256=tokenizer.config_sha256,
            config=self.recorded,
            counts=counts,
            dropped=dropped,
            length_cost=records.length_cost if records else None,
            filters=filtered,
            shards=shards,
        ).sealed()


def _listed(problems: list[Located]) -> str:
    """The message of an error about many problems."""
    lines = [str(problem) for problem in problems[:SHOWN_PROBLEMS]]
    if len(problems) > SHOWN_PROBLEMS:
        lines.append(f"… and {len(problems) - SHOWN_PROBLEMS} more")
    lines.append(
        f"{len(problems)} unusable input{'s' if len(problems) > 1 else ''}: repair what is named "
        "above, or leave it out with on_error: quarantine"
    )
    return "\n".join(lines)
