"""Sections of a model card: what a model was trained on, what it cost, how it was evaluated."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from manta.config import RunConfig
from manta.config.errors import CorpusError, RunError
from manta.corpus.length_cost import cost_lines
from manta.corpus.manifest import Manifest
from manta.record import number_format as words
from manta.record.audit_log import TEST_SPLIT, read_log
from manta.record.evaluation_record import EvaluationRecord, evaluations_of
from manta.record.gate_record import gates_of
from manta.record.metric_text import value_text
from manta.record.run_state import RunState
from manta.storage.place import Place


def card_sections(run_dir: Place, state: RunState, config: RunConfig, step: int | None) -> str:
    """The sections as Markdown, each only if the record knows something of it.

    Args:
        run_dir: the run's folder, or its URL in a store.
        state: the run's record.
        config: the run's config.
        step: step of the checkpoint whose weights the model has; None for others, such as an
            average, which no evaluation of a checkpoint is of.
    """
    parts = [_data(config, state), _training(state)]
    if step is not None:
        parts.append(_evaluations(run_dir, step))
    return "".join(f"\n{part}\n" for part in parts if part)


def _data(config: RunConfig, state: RunState) -> str:
    """The sources that the model was trained on, if the corpus is still the one of the record."""
    try:
        manifest = Manifest.read(config.corpus)
    except CorpusError:
        return ""
    if manifest.fingerprint != state.corpus_fingerprint:
        return ""
    rows = [
        (name, f"{count.documents:,}", f"{count.tokens:,}")
        for name, count in manifest.counts.get("train", {}).items()
    ]
    names = ("Source", manifest.documents_are.capitalize(), "Tokens")
    costs = cost_lines(manifest.length_cost, manifest.documents_are)
    return "\n\n".join([f"## Training data\n\n{_table(names, rows)}", *costs])


def _training(state: RunState) -> str:
    totals = state.totals
    if not totals.device_seconds:
        return ""
    rows = [("Device time", words.duration(totals.device_seconds))]
    if totals.cost is not None:
        rows.append(("Cost", words.money(totals.cost)))
    rows.append(("Workers", " → ".join(map(str, state.world_sizes)) or "–"))
    if kind := state.hardware.get("workers", {}).get("kind"):
        rows.append(("Device", str(kind)))
    return f"## Training\n\n{_table(('', ''), rows)}"


def _evaluations(run_dir: Place, step: int) -> str:
    """Evaluations of this step, the gates that it passed or not, and looks at the test split."""
    found = {
        folder: record
        for folder, record in evaluations_of(run_dir).items()
        if record.model.step == step
    }
    if not found:
        return ""
    rows = [row for record in found.values() for row in _values(record)]
    parts = ["## Evaluations", "", _table(("Evaluation", "Metric", "Value", "Data"), rows)]
    decisions = [decision for folder in found for decision in gates_of(folder)]
    for one in decisions:
        said = "passed" if one.passed else "**not passed**"
        parts += ["", f"Gate `{one.name}`: {said}, {one.time}, by {one.user} on {one.host}."]
    if looks := _looks(run_dir):
        parts += ["", f"The test split was read {looks} time{'s' if looks > 1 else ''}."]
    return "\n".join(parts)


def _values(record: EvaluationRecord) -> Iterable[tuple[str, str, str, str]]:
    for name, result in record.evaluators.items():
        data = f"{result.data.rpartition('/')[2]} (`{result.data_hash[:12]}`)"
        for metric, value in result.values.items():
            yield record.name, f"{name}/{metric}", value_text(metric, value), data


def _looks(run_dir: Place) -> int:
    try:
        return read_log(run_dir).count(TEST_SPLIT)
    except RunError:
        return 0


def _table(names: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [names, ["---"] * len(names), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in lines)
