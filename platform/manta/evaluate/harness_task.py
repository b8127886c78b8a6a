"""A task of lm-evaluation-harness, one of its own or a local YAML file, on the model at hand."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from manta.config.errors import ConfigError, RunError
from manta.config.evaluation import TaskEvaluation
from manta.config.extras import import_extra
from manta.evaluate.evaluator import Measured
from manta.evaluate.model_at_hand import ModelAtHand
from manta.record.evaluation_record import Better, ExampleRow, Sums, ratios
from manta.storage.seal import digest

# A mean over rows that is further from the harness's own value is no mean over examples.
SAME = 1e-9


class HarnessTask:
    """Runs a task by the harness as a library, one request at a time.

    Metrics are the harness's, ``acc`` for its ``acc,none``; where a task has several filters the
    filter stands behind: ``exact_match,strict``. Those that are means over documents have a row a
    document, so that comparisons are paired.

    Args:
        name: name of the evaluator.
        section: keys of the evaluator in the config.

    Raises:
        ConfigError: if the harness is not installed.
        RunError: if it has no such task, or the task's data can't be had, as without a network.
    """

    type = "task"
    reads_test_split = False

    def __init__(self, name: str, section: TaskEvaluation):
        self.name, self._section = name, section
        self._harness = import_extra("lm_eval", f"tasks.{name}", "eval")
        logging.getLogger("lm_eval").setLevel(logging.ERROR)
        tasks = import_extra("lm_eval.tasks", f"tasks.{name}", "eval")
        self.data = section.task
        if section.is_file:
            path = Path(section.task)
            self._task = _name_in(path, name)
            self._known = tasks.TaskManager(include_path=str(path.parent), include_defaults=False)
        else:
            self._task, self._known = section.task, tasks.TaskManager()
        self._load()
        self.data_hash = ""  # known once the documents were read
        self.settings: dict[str, Any] = {
            **section.model_dump(mode="json", exclude={"task"}),
            "task": self._task,
            "harness": self._harness.__version__,
        }

    def _load(self) -> None:
        if self._task not in self._known.all_tasks:
            raise RunError(
                f"tasks.{self.name}.task = '{self.data}': lm-evaluation-harness has no such task; "
                "give the path of a task's YAML file, or a name that 'lm_eval ls tasks' lists"
            )
        try:
            self._known.load([self._task])
        except Exception as error:  # data sets of a task raise what they like
            raise RunError(
                f"tasks.{self.name}.task = '{self.data}': its data can't be had: "
                f"{type(error).__name__}: {' '.join(str(error).split())}; without a network, take "
                "a task whose data is here"
            ) from None

    def measure(self, model: ModelAtHand) -> Measured:
        """Measure a language model."""
        if not model.writes:
            raise RunError(f"tasks.{self.name}: the model of {model.where} gives scores")
        hf = import_extra("lm_eval.models.huggingface", f"tasks.{self.name}", "eval")
        wrapped = hf.HFLM(pretrained=model.lm, tokenizer=model.tokenizer, batch_size=1)
        with model.autocast():
            found = self._harness.simple_evaluate(
                model=wrapped,
                tasks=[self._task],
                num_fewshot=self._section.fewshot,
                limit=self._section.limit,
                apply_chat_template=self._section.chat,
                task_manager=self._known,
                log_samples=True,
                bootstrap_iters=0,
            )
        if not found:
            raise RunError(f"tasks.{self.name}: the harness gives no result")
        rows = _rows(self.name, found["samples"])
        self.data_hash = digest(
            sorted(one["doc_hash"] for few in found["samples"].values() for one in few)
        )
        values = _values(found["results"].get(self._task, {}))
        means = ratios(row.sums for row in rows)
        apart = {m for m, value in values.items() if abs(means.get(m, value) - value) > SAME}
        kept = [row.model_copy(update={"sums": _without(row.sums, apart)}) for row in rows]
        return Measured(kept, values, _better(found, values))


def _name_in(path: Path, name: str) -> str:
    """The name of the task in a YAML file, whose functions (``!function``) are not run."""
    try:
        node = yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise RunError(f"{path}: can't be read as a task: {error}") from None
    for key, value in node.value if isinstance(node, yaml.MappingNode) else ():
        if key.value in ("task", "group") and isinstance(value, yaml.ScalarNode):
            return str(value.value)
    raise ConfigError(f"tasks.{name}.task = '{path}': the file names no task (key 'task')")


def _rows(name: str, samples: Mapping[str, Any]) -> list[ExampleRow]:
    """A row for each document of each subtask, with the metrics of all filters."""
    found = dict[tuple[str, str], ExampleRow]()
    filters = {task: {one["filter"] for one in few} for task, few in samples.items()}
    for task, few in samples.items():
        for one in few:
            id_ = f"{task}/{one['doc_id']}"
            several = len(filters[task]) > 1
            sums: Sums = {
                _metric(metric, one["filter"] if several else "none"): (float(one[metric]), 1)
                for metric in one["metrics"]
                if isinstance(one.get(metric), int | float)
            }
            before = found.get((task, id_))
            shown = {"prompt": _prompt(one), "answer": _answer(one), "right": str(one["target"])}
            found[task, id_] = ExampleRow(
                evaluator=name,
                id=id_,
                slices={"task": task} if len(samples) > 1 else {},
                sums={**(before.sums if before else {}), **sums},
                shown=shown,
            )
    return sorted(found.values(), key=lambda row: row.id)


def _prompt(sample: Mapping[str, Any]) -> str:
    arguments = sample.get("arguments")
    return str(arguments[0][0]) if arguments else ""


def _answer(sample: Mapping[str, Any]) -> str:
    """What the model wrote, or the choice that it finds likeliest."""
    given = sample.get("filtered_resps") or [""]
    arguments = sample.get("arguments") or []
    if isinstance(given[0], list | tuple) and len(given) == len(arguments):
        likeliest = max(range(len(given)), key=lambda index: given[index][0])
        return str(arguments[likeliest][1])
    return str(given[0])


def _metric(metric: str, filter_: str) -> str:
    return metric if filter_ == "none" else f"{metric},{filter_}"


def _values(results: Mapping[str, Any]) -> dict[str, float]:
    """The harness's own values, without standard errors."""
    filters = {key.partition(",")[2] for key in results if "," in key}
    found = {}
    for key, value in results.items():
        metric, comma, filter_ = key.partition(",")
        if comma and isinstance(value, int | float) and not metric.endswith("_stderr"):
            found[_metric(metric, filter_ if len(filters) > 1 else "none")] = float(value)
    return found


def _better(found: Mapping[str, Any], values: Mapping[str, float]) -> dict[str, Better]:
    known: dict[str, bool] = {}
    for directions in found.get("higher_is_better", {}).values():
        known |= {metric: more for metric, more in directions.items() if more is not None}
    return {
        metric: "max" if known[metric.partition(",")[0]] else "min"
        for metric in values
        if metric.partition(",")[0] in known
    }


def _without(sums: Sums, metrics: set[str]) -> Sums:
    return {metric: one for metric, one in sums.items() if metric not in metrics}
