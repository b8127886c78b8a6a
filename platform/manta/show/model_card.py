"""The card of an exported model: what it is and how it came to be, from the run's record."""

from __future__ import annotations

import math
from typing import Any

import yaml

from manta.config import RunConfig, load
from manta.config.credentials import without_credentials
from manta.config.objective import NATS, SCORES
from manta.config.units import format_tokens
from manta.record import number_format as words
from manta.record.run_state import RunState, read_state
from manta.show.card_sections import card_sections
from manta.storage.place import Place
from manta.storage.run_folder import CONFIG

CARD = "README.md"


def model_card(run_dir: Place, step: int | None = None, *, average: bool = False) -> str:
    """The model card in Hugging Face's format: YAML front matter, then text for people.

    Args:
        run_dir: the run's folder, or its URL in a store.
        step: step of the exported checkpoint; the newest if None.
        average: whether the average of the weights was exported, whose losses are others.

    Raises:
        RunError: if there is no record of the run.
        ConfigError: if its config can't be read.
    """
    state, config = read_state(run_dir), load(run_dir / CONFIG, RunConfig)
    newest = state.checkpoint.step if state.checkpoint else state.totals.steps
    shown = newest if step is None else step
    rows = _rows(state, config, shown, average=average)
    table = "\n".join(f"| {name} | {value} |" for name, value in rows)
    return f"""---
{_facts(config)}---

# {state.name}

{_what(config)}, trained with Manta {state.manta_version}.

| | |
| --- | --- |
{table}
{card_sections(run_dir, state, config, None if average else shown)}
```python
from transformers import {_class(config)}, AutoTokenizer

model = {_class(config)}.from_pretrained("PATH OF THIS FOLDER")
tokenizer = AutoTokenizer.from_pretrained("PATH OF THIS FOLDER")
```

The run's record does not say what the model is good for, what it must not be used for, and which
license its data and weights have: write it here before you publish the model.
"""


def _what(config: RunConfig) -> str:
    if config.objective.type == "classify":
        return "A model that tells classes of texts apart"
    if config.objective.type == "reward":
        return "A reward model of answers"
    return "A model that scores texts" if _scores(config) else "A causal language model"


def _scores(config: RunConfig) -> bool:
    return config.objective.type in SCORES


def _class(config: RunConfig) -> str:
    """The class of Transformers that loads the model."""
    return "AutoModelForSequenceClassification" if _scores(config) else "AutoModelForCausalLM"


def _facts(config: RunConfig) -> str:
    facts: dict[str, Any] = {
        "library_name": "transformers",
        "pipeline_tag": "text-classification" if _scores(config) else "text-generation",
        "tags": ["manta"],
    }
    if config.model.pretrained is not None:
        facts["base_model"] = without_credentials(config.model.pretrained)
    text: str = yaml.safe_dump(facts, sort_keys=False, allow_unicode=True)
    return text


def _rows(state: RunState, config: RunConfig, step: int, *, average: bool) -> list[tuple[str, str]]:
    model, totals, results = config.model, state.totals, state.results
    start = f"{model.type}, from scratch"
    if model.pretrained is not None:
        start = f"trained further from {without_credentials(model.pretrained)}"
    rows = [("Model", start), ("Step", f"{step:,} of {state.total_steps:,}")]
    if average and config.optimizer.average is not None:
        half_life = format_tokens(config.optimizer.average.tokens(config.schedule.horizon))
        rows.append(("Weights", f"an average with a half-life of {half_life} tokens"))
    if step == totals.steps:
        rows.append(("Tokens", f"{totals.tokens:,} ({words.count(totals.tokens)})"))
        if results.val_loss is not None and not average:
            unit = config.objective.loss_is
            said = f" {unit}" if unit == NATS else f", {unit}" if unit else ""
            rows.append(("Validation loss", f"{results.val_loss:.4f}{said}"))
            if unit == NATS:
                rows.append(("Perplexity", f"{math.exp(min(results.val_loss, 700)):.4g}"))
            if (bits := state.bits_per_byte(results.val_loss)) is not None:
                rows.append(("Bits per byte of text", words.loss(bits)))
    rows += [
        ("Context in training", f"{config.train.seq_len:,} tokens"),
        ("Horizon", f"{format_tokens(config.schedule.horizon)} tokens"),
        ("Precision", "float32" if config.train.precision == "no" else config.train.precision),
        ("Seed", str(config.run.seed)),
        ("Corpus fingerprint", f"`{state.corpus_fingerprint}`"),
    ]
    if state.ledger_digest:
        rows.append(("Ledger of samples", f"`{state.ledger_digest}`"))
    if state.git:
        changed = " with uncommitted changes" if state.git["dirty"] else ""
        rows.append(("Code", f"`{state.git['commit']}`{changed}"))
    named = ("torch", "transformers")
    packages = [f"{one} {state.packages[one]}" for one in named if one in state.packages]
    return [*rows, ("Packages", ", ".join(packages))] if packages else rows
