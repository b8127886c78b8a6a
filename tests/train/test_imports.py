"""The engine where there is neither Ray nor W&B, as on a GPU box on which it is profiled."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

SOURCE = Path(__file__).resolve().parents[2] / "platform"
PACKAGES = ("manta.train", "manta.state", "manta.model", "manta.parallel")
# Of what Manta depends on, all that the engine can do without.
ABSENT = ("optuna", "plotly", "ray", "rich", "typer", "wandb")

CODE = f"""
import importlib, pkgutil, sys
from importlib.machinery import PathFinder

class Without(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        absent = name.partition(".")[0] in {ABSENT}
        return None if absent else super().find_spec(name, path, target)

sys.meta_path[sys.meta_path.index(PathFinder)] = Without
assert all(importlib.util.find_spec(name) is None for name in {ABSENT})

import manta.config, manta.schedule, manta.stream.plan
for package in {PACKAGES}:
    for module in pkgutil.iter_modules(importlib.import_module(package).__path__, package + "."):
        importlib.import_module(module.name)
        print(module.name)
"""


def test_the_engine_needs_neither_ray_nor_wandb_nor_the_command_line() -> None:
    done = subprocess.run(
        [sys.executable, "-c", CODE],
        env={**os.environ, "PYTHONPATH": str(SOURCE)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    names = {
        f"{package}.{path.stem}"
        for package in PACKAGES
        for path in SOURCE.joinpath(*package.split(".")).glob("*.py")
        if path.stem != "__init__"
    }
    assert set(done.stdout.split()) == names
