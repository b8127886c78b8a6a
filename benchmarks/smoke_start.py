"""What the command imports before it needs it, and what that costs: part of `smoke.py`."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

# None of them is needed to show help or to find a mistake in a config. NumPy (0.1 s) is not among
# them: schedules are made of it.
HEAVY = (
    *("accelerate", "fsspec", "optuna", "pandas", "pyarrow", "ray"),
    *("safetensors", "tokenizers", "torch", "transformers", "wandb"),
)
# This tree's package comes first, whatever is installed.
SOURCE = str(Path(__file__).resolve().parents[1] / "platform")
ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": os.pathsep.join([SOURCE, os.environ.get("PYTHONPATH", "")]),
}
# The libraries that the command's own start consists of.
LIGHT = "import pydantic, typer, typer.rich_utils, yaml"
REPEATS = 7

COMMAND = """
import sys
from manta.cli import main
try:
    main()
except SystemExit as left:
    code = left.code
print("\\x00" + repr((code, sorted({name.partition(".")[0] for name in sys.modules}))))
"""


def heavy_imports_of_help() -> float:
    """How many heavy libraries `manta --help` loads."""
    return len(_loaded(["--help"], code=0) & set(HEAVY))


def heavy_imports_of_a_config_error() -> float:
    """How many heavy libraries `manta train` loads to find an unknown key."""
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "run.yaml"
        config.write_text("run: {name: smoke}\nmodle: {type: llama}\n")
        return len(_loaded(["train", str(config)], code=1) & set(HEAVY))


def help_over_libraries() -> float:
    """Processor time of `manta --help` over that of importing the light libraries, in turn.

    Of each the least that was seen: other work only ever adds to it.
    """
    mine, libraries = [], []
    for _ in range(REPEATS):
        mine.append(_processor_seconds(["-m", "manta.cli", "--help"]))
        libraries.append(_processor_seconds(["-c", LIGHT]))
    return min(mine) / min(libraries)


def _loaded(arguments: Sequence[str], code: int) -> set[str]:
    """The packages that are loaded when the command has ended with `code`.

    Raises:
        AssertionError: if it ended otherwise: it did not do what is measured.
    """
    done = subprocess.run(
        [sys.executable, "-c", COMMAND, *arguments],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        check=True,
    )
    found, loaded = eval(done.stdout.rpartition("\x00")[2], {})
    if (found or 0) != code:
        raise AssertionError(f"manta {' '.join(arguments)}: exit status {found}\n{done.stderr}")
    return set(loaded)


def _processor_seconds(arguments: Sequence[str]) -> float:
    """User and system time of a Python process: what others do meanwhile hardly counts."""
    process = subprocess.Popen(
        [sys.executable, *arguments], env=ENVIRONMENT, stdout=subprocess.DEVNULL
    )
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, arguments)
    return usage.ru_utime + usage.ru_stime
