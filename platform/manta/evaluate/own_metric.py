"""A metric of the user's own: a function of the model, in a file of theirs."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from typing import Any

from manta.config.errors import ConfigError
from manta.config.evaluation import OwnEvaluation
from manta.config.own_code import OwnCode
from manta.evaluate.evaluator import Measured
from manta.evaluate.model_at_hand import ModelAtHand
from manta.record.evaluation_record import ExampleRow, Sums


class OwnMetric:
    """Calls ``measure(model, **options)``, which returns numbers by name, or a row an example.

    A row is a mapping with an ``id`` and numbers by name, whose means are the metrics, and texts,
    which are slices. With rows a comparison is paired, and has intervals.

    Args:
        name: name of the evaluator.
        section: keys of the evaluator in the config.
        code: texts of files by name.

    Raises:
        ConfigError: if the file can't be run, or has no such function.
    """

    type = "own"
    reads_test_split = False

    def __init__(self, name: str, section: OwnEvaluation, code: Mapping[str, str]):
        self.name, self._section = name, section
        file, _, function = section.measure.rpartition(":")
        self._code = OwnCode(f"own.{name}.measure", file, function, code[file])
        self._function = self._code.load()
        if not callable(self._function):
            raise self._wrong("it is no function")
        self.data = section.measure
        self.data_hash = hashlib.sha256(code[file].encode()).hexdigest()
        self.settings: dict[str, Any] = {"options": section.options}

    def measure(self, model: ModelAtHand) -> Measured:
        """Call the function.

        Raises:
            ConfigError: if it fails, or returns something else.
        """
        try:
            found = self._function(model, **self._section.options)
        except Exception as error:  # whatever the user's code raises
            raise self._wrong(f"it fails: {type(error).__name__}: {error}") from error
        if isinstance(found, Mapping):
            values = {str(metric): self._number(metric, value) for metric, value in found.items()}
            return Measured(values=values, better=self._section.better)
        if isinstance(found, Sequence) and not isinstance(found, str):
            return Measured([self._row(one) for one in found], better=self._section.better)
        raise self._wrong(
            f"it returns {type(found).__name__}, not numbers by name or a list of rows"
        )

    def _row(self, given: Any) -> ExampleRow:
        if not isinstance(given, Mapping) or "id" not in given:
            raise self._wrong("a row that it returns is no mapping with an 'id'")
        slices = {k: v for k, v in given.items() if isinstance(v, str) and k != "id"}
        sums: Sums = {
            str(metric): (self._number(metric, value), 1)
            for metric, value in given.items()
            if metric != "id" and metric not in slices
        }
        return ExampleRow(evaluator=self.name, id=str(given["id"]), slices=slices, sums=sums)

    def _number(self, metric: Any, value: Any) -> float:
        try:
            number = float(value)
        except (TypeError, ValueError):
            number = math.nan
        if not math.isfinite(number):
            raise self._wrong(f"its '{metric}' is {value!r}, not a finite number")
        return number

    def _wrong(self, said: str) -> ConfigError:
        return ConfigError(f"own.{self.name}.measure = '{self._section.measure}': {said}")
