"""A mixture for a long run, by the trials of a sweep over mixtures."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from manta.config.errors import ConfigError, RunError
from manta.config.load import load
from manta.config.run import RunConfig
from manta.corpus.manifest import Manifest
from manta.recommend.mixing_laws import Floats, Proposal, least_runs, propose
from manta.record.run_state import read_state
from manta.record.sweep_state import read_sweep
from manta.storage.place import Place
from manta.storage.run_folder import CONFIG
from manta.stream.mixed_sources import mixture_of, source_spans
from manta.stream.own_format import format_of


@dataclass(frozen=True)
class FoundMixture:
    """A mixture that was found.

    Attributes:
        sources: names of the sources, in the order of all shares.
        reference: share of each source in the corpus, with which the mixture is compared.
        proposal: the mixture.
        runs: number of trials that were fitted.
        best: the least loss of a trial, and its name.
        epochs: epochs over each source in the run that was asked about; None if none was.
    """

    sources: tuple[str, ...]
    reference: Floats
    proposal: Proposal
    runs: int
    best: tuple[float, str]
    epochs: Floats | None = None

    def lines(self) -> list[str]:
        """What was found, for people."""
        one = self.proposal
        head = f"{'source':<16}{'corpus':>9}{'proposed':>10}{'90 % interval':>18}"
        lines = [head + (f"{'epochs':>9}" if self.epochs is not None else "")]
        for index, name in enumerate(self.sources):
            interval = f"{one.low[index]:.1%} to {one.high[index]:.1%}"
            share = f"{self.reference[index]:>9.1%}{one.shares[index]:>10.1%}{interval:>18}"
            epochs = f"{self.epochs[index]:>9.2f}" if self.epochs is not None else ""
            lines.append(f"{name:<16}{share}{epochs}")
        gain = one.reference - one.loss
        verdict = ", within noise" if one.within_noise else ""
        return [
            *lines,
            f"predicted loss {one.loss:.4f}; of the corpus as it is {one.reference:.4f}: "
            f"{gain:.4f} less ({one.gain[0]:+.4f} to {one.gain[1]:+.4f}{verdict})",
            f"{self.runs} trials; the law is off by {one.error:.4f} on trials that it was not "
            f"fitted to; the best trial, {self.best[1]}, has {self.best[0]:.4f}",
        ]

    def keys(self) -> dict[str, Any]:
        """The keys of a run's config for the mixture."""
        named = zip(self.sources, self.proposal.shares.tolist(), strict=True)
        weights = {name: {"weight": round(share, 4)} for name, share in named}
        kept = {name: source for name, source in weights.items() if source["weight"] > 0}
        return {"data": {"mixture": {"sources": kept}}}

    def as_json(self) -> str:
        """All of it for programs."""
        one = self.proposal
        content = {
            "sources": self.sources,
            "corpus": self.reference.tolist(),
            "shares": one.shares.tolist(),
            "low": one.low.tolist(),
            "high": one.high.tolist(),
            "loss": one.loss,
            "loss_of_corpus": one.reference,
            "gain": one.gain,
            "error": one.error,
            "runs": self.runs,
            "within_noise": one.within_noise,
        }
        return json.dumps(content, indent=1)


def search_mixture(
    sweep: Place,
    towards: Mapping[str, float] | None = None,
    *,
    tokens: int | None = None,
    max_epochs: float | None = None,
) -> FoundMixture:
    """Propose a mixture by the finished trials of a sweep.

    Args:
        sweep: the sweep's folder.
        towards: weight of each source in the loss that is made small; as in the validation split
            if None.
        tokens: horizon of the run that the mixture is for.
        max_epochs: most epochs over a source in that run.

    Raises:
        ConfigError, RunError: naming what is missing, and the remedy.
    """
    if (tokens is None) != (max_epochs is None):
        raise ConfigError("give --tokens, the horizon of the run, and --max-epochs together")
    state = read_sweep(sweep)
    names = [trial.name for trial in state.trials if trial.status == "finished"]
    runs = {name: load(sweep / name / CONFIG, RunConfig) for name in names}
    if not runs:
        raise RunError(f"{sweep}: no trial has finished yet")
    manifest = Manifest.read(next(iter(runs.values())).corpus)
    shares = {name: _shares(sweep / name, run, manifest) for name, run in runs.items()}
    sources = tuple(next(iter(shares.values())))
    losses = {name: _losses(sweep / name, sources) for name in names}
    if len(names) < least_runs(len(sources)):
        raise RunError(
            f"{sweep}: {len(names)} trials have finished, and laws of {len(sources)} sources need "
            f"{least_runs(len(sources))} or more: raise search.trials and run the sweep again"
        )
    sizes = _sizes(next(iter(runs.values())), manifest, sources)
    table = np.array([[shares[name][source] for source in sources] for name in names])
    measured = np.array([losses[name] for name in names])
    weights = _weights(sources, towards, manifest)

    def epochs(mixtures: Floats) -> Floats:
        found: Floats = mixtures * (tokens or 0) / sizes
        return found

    def allowed(mixtures: Floats) -> np.ndarray[Any, np.dtype[np.bool_]]:
        if max_epochs is None:
            return np.full(len(mixtures), True)
        found: np.ndarray[Any, np.dtype[np.bool_]] = np.all(epochs(mixtures) <= max_epochs, axis=1)
        return found

    try:
        proposal = propose(table, measured, weights, sizes / sizes.sum(), allowed)
    except ValueError:
        assert max_epochs is not None
        raise ConfigError(
            f"--max-epochs = {max_epochs:g}: {tokens:,} tokens are more than that of all sources, "
            f"which have {int(sizes.sum()):,}: raise it, or lower --tokens"
        ) from None
    found = measured @ weights
    best = int(np.argmin(found))
    seen = epochs(proposal.shares) if tokens is not None else None
    return FoundMixture(
        sources, sizes / sizes.sum(), proposal, len(names), (float(found[best]), names[best]), seen
    )


def _shares(trial: Place, run: RunConfig, manifest: Manifest) -> dict[str, float]:
    """Share of each source in a trial."""
    mixture = mixture_of(run, manifest)
    if mixture is None or len(mixture.stretches) > 1 or not mixture.stretches[0].constant:
        raise ConfigError(
            f"{trial}: its mixture is none, or changes on the way, and laws are of constant "
            "mixtures: sweep data.mixture as tune_spaces/mixture.py does"
        )
    return {each.source: each.first for each in mixture.stretches[0].shares}


def _losses(trial: Place, sources: Sequence[str]) -> list[float]:
    """The validation loss of a trial on each source, at its end."""
    found = read_state(trial).results.val_loss_by_source
    if missing := [source for source in sources if source not in found]:
        raise RunError(
            f"{trial}: it has no validation loss of {', '.join(missing)}: the corpus's validation "
            "split needs samples of each source, and the run eval.every"
        )
    return [found[source] for source in sources]


def _sizes(run: RunConfig, manifest: Manifest, sources: Sequence[str]) -> Floats:
    """Tokens of each source in the train split."""
    form, length = format_of(run, manifest), run.train.seq_len
    spans = source_spans(run.corpus, manifest, "train", form, length)
    return np.array([spans[name].samples * form.clock(length) for name in sources], dtype=float)


def _weights(
    sources: Sequence[str], towards: Mapping[str, float] | None, manifest: Manifest
) -> Floats:
    """Weight of each source's loss; sum to 1."""
    if towards is None:
        held = dict.fromkeys(sources, 0)
        for shard in manifest.shards_of("validation"):
            if shard.source in held:
                held[shard.source] += shard.tokens
        found = np.array([held[name] for name in sources], dtype=float)
    else:
        if unknown := towards.keys() - set(sources):
            raise ConfigError(
                f"--towards: {', '.join(sorted(unknown))} is no source of the trials, which have "
                f"{', '.join(sources)}"
            )
        found = np.array([towards.get(name, 0.0) for name in sources])
    scaled: Floats = found / found.sum()
    return scaled
