"""The names of a run's files stand in one module; everybody else asks it."""

import ast
from pathlib import Path

from manta.storage import run_folder

MANTA = Path(run_folder.__file__).parents[1]
NAMES = {value for name, value in vars(run_folder).items() if name.isupper()}


# Files in which a name of the run's folder is a key of a config section, or a file of others' too.
KEYS = {"filter_plan.py": "evaluations", "saved_datasets.py": "state.json"}


def test_each_name_is_written_once() -> None:
    assert {"run.json", "metrics.jsonl", "ledger.parquet"} <= NAMES
    for path in MANTA.rglob("*.py"):
        if path.name == Path(run_folder.__file__).name:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Constant) or KEYS.get(path.name) == node.value:
                continue
            if node.value in NAMES:
                raise AssertionError(f"{path}:{node.lineno}: '{node.value}' is in run_folder.py")
