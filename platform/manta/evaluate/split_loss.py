"""A model's loss over a split of a corpus, as training reads it: by source, length and context."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from manta.config.errors import ConfigError, CorpusError, RunError
from manta.config.evaluation import SplitEvaluation
from manta.config.run import RunConfig
from manta.corpus.manifest import CHAT, TOKENS, Manifest
from manta.corpus.reloaded import difference
from manta.corpus.remote import tokenizer_folder
from manta.corpus.tokenizer import of_corpus
from manta.evaluate.calibration_measures import BINS, Binned
from manta.evaluate.evaluator import Measured
from manta.evaluate.model_at_hand import ModelAtHand
from manta.evaluate.ticking import ticking
from manta.model.cross_entropy import IGNORE
from manta.objective.causal import Causal, TokenRows
from manta.objective.sft import SupervisedFineTuning
from manta.record.evaluation_record import ExampleRow, Sums, ratios
from manta.sample.chat import conversation_of
from manta.sample.columns import Columns, Ragged
from manta.stream.document_lengths import document_bounds
from manta.stream.eval_sample import EvalSample, draw
from manta.stream.plan import open_corpus, reader_of

# Samples that are read at a time; each is computed by itself.
READ = 64
# Above this loss e to it overflows, or nearly so.
MOST_NATS = 700.0
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class _TokenFacts:
    """What is known of the labels of one sample that count, each an array (labels,).

    Attributes:
        nats: cross-entropy.
        right: whether the likeliest token is the label.
        confidence: probability of the likeliest token.
        context: tokens of context that the label was predicted from.
        length: tokens of the label's document.
    """

    nats: NDArray[np.float64]
    right: NDArray[np.bool_]
    confidence: NDArray[np.float64]
    context: Ints
    length: Ints


class SplitLoss:
    """Loss, perplexity, bits per byte, accuracy and calibration of the next token.

    With all samples of the validation split, the loss is what evaluations of the run measure.

    Args:
        name: name of the evaluator.
        section: keys of the evaluator in the config.
        run_config: config of the model's run; None for an exported folder.

    Raises:
        ConfigError, CorpusError: if there is no such corpus, or it isn't one of tokens.
    """

    type = "split"

    def __init__(self, name: str, section: SplitEvaluation, run_config: RunConfig | None):
        self.name, self._section = name, section
        self.folder = self._corpus(run_config)
        self._manifest = manifest = Manifest.read(self.folder)
        if manifest.sample not in (TOKENS, CHAT):
            raise ConfigError(
                f"splits.{name}: the samples of {self.folder} are {manifest.documents_are} of the "
                f"format '{manifest.sample}', whose loss is not one of tokens: measure them on a "
                "file (calibration), or by a metric of your own (own)"
            )
        length = self._length(run_config)
        self._mask = self._masked(run_config)
        split = section.split
        if not manifest.tokens_of(split):
            raise CorpusError(f"splits.{name}: {self.folder} has no {split} split")
        corpus = open_corpus(self.folder, manifest, split, length, seed=0)
        most = manifest.tokens_of(split) if section.tokens is None else section.tokens
        self._sample: EvalSample = draw(corpus, manifest, most)
        self.reads_test_split = split == "test"
        self.data = f"{self.folder}, {split} split"
        self.data_hash = self._sample.digest
        self.settings: dict[str, Any] = {"document_mask": self._mask, "length": length}

    def _corpus(self, run_config: RunConfig | None) -> str:
        if self._section.corpus is not None:
            return self._section.corpus
        if run_config is None:
            raise ConfigError(
                f"splits.{self.name}.corpus is missing: an exported model doesn't say which corpus "
                "it is from: give the corpus's folder"
            )
        return run_config.corpus

    def _length(self, run_config: RunConfig | None) -> int:
        asked, row = self._section.length, self._manifest.row_length
        if row is not None:
            if asked not in (None, row):
                raise ConfigError(
                    f"splits.{self.name}.length = {asked}: the conversations of {self.folder} were "
                    f"packed into rows of {row} tokens: leave it out"
                )
            return row
        if asked is not None:
            return asked
        if run_config is None:
            raise ConfigError(
                f"splits.{self.name}.length is missing: an exported model doesn't say how long its "
                "samples were: give the tokens of a sample, such as 512"
            )
        return run_config.train.seq_len

    def _masked(self, run_config: RunConfig | None) -> bool:
        if self._section.document_mask is not None:
            return self._section.document_mask
        if run_config is not None:
            return run_config.data.document_mask
        return self._manifest.sample == CHAT

    # ------------------------------------------------------------------------------- measuring

    def measure(self, model: ModelAtHand) -> Measured:
        """Measure a language model."""
        self._check(model)
        rows, binned = list[ExampleRow](), Binned(BINS)
        for source, id_, facts in self._facts(model):
            if len(facts.nats):
                rows.append(self._row(source, id_, facts))
                binned.add(facts.confidence, facts.right)
        values = {"ece": binned.ece}
        loss = ratios(row.sums for row in rows).get("loss", 0.0)
        values["perplexity"] = math.exp(min(loss, MOST_NATS))
        return Measured(rows, values, curves={"reliability": binned.points})

    def _check(self, model: ModelAtHand) -> None:
        if not model.writes:
            raise RunError(
                f"splits.{self.name}: the model of {model.where} gives scores, not tokens: it has "
                "no loss over text"
            )
        length = int(self.settings["length"])
        if 0 < model.longest < length:
            raise ConfigError(
                f"splits.{self.name}: samples have {length} tokens, and the model's context is "
                f"{model.longest}: lower splits.{self.name}.length"
            )
        own = of_corpus(self.folder, self._manifest)
        file = tokenizer_folder(self.folder, self._manifest) / str(self._manifest.tokenizer_file)
        if said := difference(model.tokenizer, own, file, []):
            raise ConfigError(
                f"splits.{self.name}: the tokenizer of {model.where} is another than that of "
                f"{self.folder}: {said}; prepare the text with the model's tokenizer "
                "(tokenizer.path)"
            )

    def _facts(self, model: ModelAtHand) -> Iterator[tuple[str, int, _TokenFacts]]:
        reader = reader_of(self._sample.corpus)
        blocks = [
            (stratum.source, ids[first : first + READ])
            for stratum in self._sample.strata
            for ids in [self._sample.ids(stratum)]
            for first in range(0, len(ids), READ)
        ]
        for source, few in ticking(blocks, f"{self.name}, blocks", model.tell):
            columns = reader.read(few)
            given = self._objective.inputs(columns, model.device)
            lengths = self._lengths(few, columns)
            for row, id_ in enumerate(few.tolist()):
                yield source, id_, self._of_row(model, given, row, lengths[row])

    @cached_property
    def _objective(self) -> Causal:
        if self._manifest.sample == CHAT:
            return SupervisedFineTuning(document_mask=self._mask)
        return Causal(document_mask=self._mask)

    def _of_row(self, model: ModelAtHand, given: TokenRows, row: int, lengths: Ints) -> _TokenFacts:
        """The facts of one sample.

        Args:
            model: the model.
            given: rows of the objective.
            row: index of the sample among them.
            lengths: length of the document of each token of the sample, (tokens,).
        """
        one = slice(row, row + 1)
        positions = None if given.position_ids is None else given.position_ids[one]
        labels = given.labels[row]
        places = (labels != IGNORE).nonzero()[:, 0]
        logits = model.logits(given.tokens[one], positions)[places]
        nats, right, confidence = _of_logits(logits, labels[places])
        at = places.cpu().numpy()
        before = at if positions is None else positions[0].cpu().numpy()[at]
        return _TokenFacts(nats, right, confidence, before + 1, lengths[at + 1])

    def _lengths(self, ids: Ints, columns: Columns) -> Ints:
        """Length of the document that each token is of, (samples, tokens)."""
        if self._manifest.sample == CHAT:
            starts = columns["starts"]
            assert isinstance(starts, Ragged)
            conversation = conversation_of(columns)
            counts: Ints = np.bincount(conversation.ravel())
            return counts[conversation]
        length = columns["tokens"].shape[1]
        offsets = ids[:, None] * length + np.arange(length)
        document = np.searchsorted(self._bounds, offsets, side="right") - 1
        found: Ints = self._bounds[document + 1] - self._bounds[document]
        return found

    @cached_property
    def _bounds(self) -> Ints:
        return document_bounds(self.folder, self._manifest, self._section.split)

    # ------------------------------------------------------------------------------------ rows

    def _row(self, source: str, id_: int, facts: _TokenFacts) -> ExampleRow:
        everything = np.ones(len(facts.nats), bool)
        return ExampleRow(
            evaluator=self.name,
            id=f"{id_}",
            slices={"source": source},
            sums=self._sums(source, facts, everything),
            parts={
                "length": self._parts(source, facts, facts.length),
                "context": self._parts(source, facts, facts.context),
            },
        )

    def _parts(self, source: str, facts: _TokenFacts, by: Ints) -> dict[str, Sums]:
        """The sums of the tokens in each bucket of a number that they have."""
        bucket = np.frexp(by.astype(np.float64))[1] - 1  # of a power of two
        return {
            bucket_name(int(one)): self._sums(source, facts, bucket == one)
            for one in np.unique(bucket)
        }

    def _sums(self, source: str, facts: _TokenFacts, chosen: NDArray[np.bool_]) -> Sums:
        nats, count = math.fsum(facts.nats[chosen].tolist()), int(chosen.sum())
        sums: Sums = {
            "loss": (nats, count),
            "accuracy": (int(facts.right[chosen].sum()), count),
            "confidence": (math.fsum(facts.confidence[chosen].tolist()), count),
        }
        if (bytes_ := self._bytes_per_token.get(source)) and self._manifest.sample == TOKENS:
            sums["bits_per_byte"] = (nats / math.log(2), count * bytes_)
        return sums

    @cached_property
    def _bytes_per_token(self) -> dict[str, float]:
        """Bytes of text for each token, of each source of the split where they are known."""
        counts = self._manifest.counts.get(self._section.split, {})
        return {
            source: count.bytes / count.tokens
            for source, count in counts.items()
            if count.bytes is not None and count.tokens
        }


def bucket_name(power: int) -> str:
    """The whole numbers from 2^power up to the next power of two, as a name: ``16–31``."""
    first, last = 1 << power, (2 << power) - 1
    return f"{first:,}" if first == last else f"{first:,}–{last:,}"


def _of_logits(
    logits: Tensor, labels: Tensor
) -> tuple[NDArray[np.float64], NDArray[np.bool_], NDArray[np.float64]]:
    """Cross-entropy, whether the likeliest is right, and its probability, each (labels,)."""
    log_probs = logits.log_softmax(-1)
    nats = -log_probs.gather(1, labels[:, None])[:, 0].double()
    best, likeliest = log_probs.max(-1)
    found = torch.stack([nats, best.double().exp(), (likeliest == labels).double()]).cpu().numpy()
    return found[0], found[2] > 0, found[1]
