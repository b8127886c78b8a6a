"""Our script that begins a worker does what Ray's does, which imports all of Ray for it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import ray
from ray._private import ray_constants

from manta.cluster import worker_setup

RAYS = Path(ray.__file__).parent / "_private" / "workers" / ray_constants.SETUP_WORKER_FILENAME
PROGRAM = """
import json, os, sys
names = ("COLOUR", "SHADE", "PREFIXED")
print(json.dumps([sys.argv[1:], [os.environ.get(n) for n in names], sys.executable]))
"""


def began(script: Path, folder: Path, context: dict[str, Any] | None) -> Any:
    """What a worker's program sees that was begun by a script, and where Ray begins it from."""
    words = ["--worker-id=5", "a b", "--runtime-env-hash=0", "--language=PYTHON"]
    if context is not None:
        words.append(f"--serialized-runtime-env-context={json.dumps(context)}")
    done = subprocess.run(
        [sys.executable, str(script), str(folder / "program.py"), *words],
        env={**os.environ, "COLOUR": "blue", worker_setup.VARIABLE: ""},
        capture_output=True,
        text=True,
        timeout=300,
    )
    return done.stdout


@pytest.mark.parametrize(
    "context",
    [
        None,
        {"env_vars": {"COLOUR": "red", "SHADE": "a 'b'"}},
        {"env_vars": {"SHADE": "dark ${COLOUR}${NONE}"}},
        {"command_prefix": ["PREFIXED=1"]},
        {"py_executable": f"{sys.executable} -u", "env_vars": None},
    ],
)
def test_a_worker_begins_as_by_rays_own_script(
    tmp_path: Path, context: dict[str, Any] | None
) -> None:
    (tmp_path / "program.py").write_text(PROGRAM)
    (tmp_path / "setup_worker.py").symlink_to(RAYS)  # beside the program of a worker, as in Ray
    known = {"command_prefix": [], "env_vars": {}, "py_executable": sys.executable}
    given = None if context is None else {**known, **context}
    ours = began(Path(worker_setup.__file__), tmp_path, given)
    assert ours == began(RAYS, tmp_path, given) != ""
