"""The sources of a corpus that a run mixes: which samples each has, and how often it is seen."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass

from manta.config.errors import ConfigError
from manta.config.metrics import TOKENS_OF
from manta.config.mixture import MixtureSection
from manta.config.run import RunConfig
from manta.corpus.manifest import Manifest, Split
from manta.sample.format import Format, SplitSize
from manta.schedule import Schedule
from manta.schedule.shares import KEY, Mixture
from manta.stream.mixed_order import MixedOrder, SourceSpan
from manta.stream.order import Order, order_key
from manta.stream.own_format import format_of


@dataclass(frozen=True)
class Mixed:
    """A mixture, and the samples of its sources in a split of a corpus; small to pickle.

    Attributes:
        mixture: shares of the sources.
        spans: the mixture's sources, in its order.
        samples: number of samples of the split, those of no source and of others included.
    """

    mixture: Mixture
    spans: tuple[SourceSpan, ...]
    samples: int

    def order(self, key: str, seed: int) -> MixedOrder:
        """The sample order, for the name of the split that `SampleOrder` has, and a seed."""
        return MixedOrder(
            key=key, seed=seed, mixture=self.mixture, spans=self.spans, all_samples=self.samples
        )


@dataclass(frozen=True)
class SeenSource:
    """What a run takes of a source.

    Attributes:
        name: name of the source.
        samples: samples that the source has.
        taken: samples that the run takes of it.
    """

    name: str
    samples: int
    taken: int

    @property
    def epochs(self) -> float:
        """Epochs over the source."""
        return self.taken / self.samples


def mixture_of(config: RunConfig, manifest: Manifest) -> Mixture | None:
    """The shares of a run's sources; raises as `mixed_of`."""
    mixed = mixed_of(config, manifest)
    return None if mixed is None else mixed.mixture


def mixed_of(config: RunConfig, manifest: Manifest) -> Mixed | None:
    """The mixture of a run's train split, checked; None if the run has none.

    Args:
        config: the run's config.
        manifest: manifest of the run's corpus, with its shards.

    Raises:
        ConfigError: naming the key and the remedy: a source that is unknown or has no sample,
            weights that are all 0 somewhere, or more epochs than a source may have.
    """
    section, seq_len = config.data.mixture, config.train.seq_len
    if section is None:
        return None
    form = format_of(config, manifest)
    spans = source_spans(config.corpus, manifest, "train", form, seq_len)
    _check_names(config.corpus, section, manifest, spans, seq_len)
    sizes = {name: span.samples for name, span in spans.items() if span.samples}
    mixture = Mixture.resolve(section, sizes, config.schedule.horizon, seq_len)
    shards = manifest.shards_of("train")
    size = SplitSize(sum(each.documents for each in shards), sum(each.tokens for each in shards))
    found = tuple(spans[name] for name in mixture.sources)
    mixed = Mixed(mixture, found, form.count(size, seq_len))
    _check_epochs(section, seen(mixed, config, manifest), seq_len)
    return mixed


def source_spans(
    corpus: str, manifest: Manifest, split: Split, form: Format, length: int
) -> dict[str, SourceSpan]:
    """The samples that lie within each source of a split as a whole, in the order of the shards.

    A sample of text may begin in one source and end in the next one: it is of neither.

    Raises:
        ConfigError: if an older version prepared the corpus, whose shards mix sources.
    """
    found: dict[str, SourceSpan] = {}
    key = order_key(manifest.fingerprint, split)
    rows = tokens = 0
    for name, size in _sizes(corpus, manifest, split).items():
        first = form.count(SplitSize(rows, tokens), length) if tokens else 0
        if first * form.clock(length) < tokens:
            first += 1
        rows, tokens = rows + size.rows, tokens + size.tokens
        samples = max(0, form.count(SplitSize(rows, tokens), length) - first)
        found[name] = SourceSpan(name, f"{key}/{name}", first, samples)
    return found


def _sizes(corpus: str, manifest: Manifest, split: Split) -> dict[str, SplitSize]:
    """The rows and tokens of each source, whose shards lie side by side."""
    found: dict[str, SplitSize] = {}
    before: str | None = None
    for shard in manifest.shards_of(split):
        if shard.source is None or (shard.source in found and shard.source != before):
            raise ConfigError(
                f"{KEY}: the shards of {corpus} mix their sources, as an older version of Manta "
                "prepared it: prepare it again"
            )
        before = shard.source
        size = found.get(before, SplitSize(0, 0))
        found[before] = SplitSize(size.rows + shard.documents, size.tokens + shard.tokens)
    return found


def seen(mixed: Mixed, config: RunConfig, manifest: Manifest) -> list[SeenSource]:
    """What a whole run takes of each source of its mixture, to the sample."""
    order = mixed.order(order_key(manifest.fingerprint, "train"), config.run.seed)
    positions = Schedule.resolve(config.schedule, config.train.seq_len).positions
    counts = order.counts(positions).tolist()
    return [
        SeenSource(span.name, span.samples, taken)
        for span, taken in zip(order.spans, counts, strict=True)
    ]


def tokens_by_source(order: Order, position: int, clock: int) -> dict[str, int]:
    """A row's entries for the tokens before a position by source; none without a mixture.

    Args:
        order: the order of the run's samples.
        position: position after the last sample that counts.
        clock: tokens that a sample counts as.
    """
    if not isinstance(order, MixedOrder):
        return {}
    counts = order.counts(position).tolist()
    return {
        f"{TOKENS_OF}{span.name}": count * clock
        for span, count in zip(order.spans, counts, strict=True)
    }


def _check_names(
    corpus: str,
    section: MixtureSection,
    manifest: Manifest,
    spans: Mapping[str, SourceSpan],
    seq_len: int,
) -> None:
    """Refuse a source that the corpus hasn't got, or that has no sample."""
    parts = {f"{KEY}.history.{i}.mixture": past.mixture for i, past in enumerate(section.history)}
    for key, part in {KEY: section, **parts}.items():
        for name in part.sources if part else ():
            if name not in spans and all(name not in each for each in manifest.counts.values()):
                near = difflib.get_close_matches(name, spans, n=1)
                hint = f"; did you mean '{near[0]}'?" if near else ""
                raise ConfigError(
                    f"{key}.sources.{name}: {corpus} has no source of this name; it has "
                    f"{', '.join(spans)}{hint}"
                )
            if name not in spans or not spans[name].samples:
                raise ConfigError(
                    f"{key}.sources.{name}: the train split of {corpus} has no whole sample of "
                    f"this source at train.seq_len = {seq_len}: remove it here, lower "
                    "train.seq_len, or prepare more of it"
                )


def _check_epochs(section: MixtureSection, planned: list[SeenSource], seq_len: int) -> None:
    """Refuse a run that takes more epochs of a source than it may."""
    for source in planned:
        asked = section.sources.get(source.name)
        if asked is None or asked.max_epochs is None or source.epochs <= asked.max_epochs:
            continue
        most = int(asked.max_epochs * source.samples) * seq_len
        raise ConfigError(
            f"{KEY}.sources.{source.name}.max_epochs = {asked.max_epochs:g}: the run would take "
            f"{source.epochs:.3g} epochs of this source, {source.taken * seq_len:,} tokens of at "
            f"most {most:,}: lower its weight or schedule.horizon, prepare more of it, or raise "
            "max_epochs"
        )
