"""The names of a run's files stand in one module; everybody else asks it."""

import ast
from pathlib import Path

from manta.storage import run_folder

MANTA = Path(run_folder.__file__).parents[1]
NAMES = {value for name, value in vars(run_folder).items() if name.isupper()}


def test_each_name_is_written_once() -> None:
    assert {"run.json", "metrics.jsonl", "ledger.parquet"} <= NAMES
    for path in MANTA.rglob("*.py"):
        if path.name == Path(run_folder.__file__).name:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and node.value in NAMES:
                raise AssertionError(f"{path}:{node.lineno}: '{node.value}' is in run_folder.py")
