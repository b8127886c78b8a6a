"""What an evaluator is, and what it gives back."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

from manta.evaluate.model_at_hand import ModelAtHand
from manta.record.evaluation_record import Better, ExampleRow


@dataclass(frozen=True)
class Measured:
    """What an evaluator has found.

    Attributes:
        rows: one for each example; all metrics that are means over examples follow from them.
        values: metrics that aren't, by name, such as a quantile.
        better: metric of the user's own → whether less or more of it is better.
        curves: points to draw, by name.
        remarks: sentences on what the values don't say.
    """

    rows: list[ExampleRow] = field(default_factory=list)
    values: dict[str, float] = field(default_factory=dict)
    better: dict[str, Better] = field(default_factory=dict)
    curves: dict[str, list[list[float]]] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)


class Evaluator(Protocol):
    """Measures a model on some data.

    It is made, and all of its data is checked, before a model is loaded. What it finds of an
    example depends on that example and the model alone: examples are computed one by one, so that
    neither their order nor others beside them can change a bit of the result.

    Attributes:
        type: kind of evaluator.
        name: name of the evaluator in the config.
        data: the data that it reads, for people.
        data_hash: digest of the data, whatever the order of its examples.
        settings: settings that decide the values beside the data, as plain JSON values.
        reads_test_split: whether the test split of a corpus is read.
    """

    type: str
    name: str
    data: str
    data_hash: str
    settings: dict[str, Any]
    reads_test_split: bool

    def measure(self, model: ModelAtHand) -> Measured:
        """Measure a model.

        Raises:
            RunError: if the model can't be measured so, saying why.
        """
        ...
