"""Tries models in another process, before Ray is started on this machine.

A trial needs Torch and Transformers, which the driver should not import. So a fork of the process
that has imported them for the workers does it (`preload`), or a new Python process if workers have
accelerators. A model that passed is remembered on this node, so only its first start waits.
"""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import shlex
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import manta.model
from manta.cluster.waiting import told
from manta.config.errors import ErrorReport
from manta.elastic.worker.preload import ROOT, python
from manta.model.trial_result import Tried
from manta.storage.atomic import replace_text
from manta.storage.cache import node_folder

if TYPE_CHECKING:
    from manta.elastic.checks.preflight import Checked

# A model that passed; a message on what is wrong with it; or None if the trial itself failed.
Finding = Tried | ErrorReport | None

SCRIPT = Path(__file__).with_name("model_trial_server.py")
FOLDER = "tried"
# Libraries whose versions, beside the run's config, identify a remembered trial.
LIBRARIES = ("torch", "transformers")
CODE = Path(manta.model.__file__).parent
# Most seconds to wait for a trial; after that a worker makes it.
LONGEST_SECONDS = 300.0


class ModelTrials:
    """Trials of the models of some runs, in the background."""

    def __init__(self, runs: Sequence[Checked]):
        self._runs = list(runs)
        self._findings: list[Finding] = [_remembered(run) for run in runs]
        self._unknown = [index for index, found in enumerate(self._findings) if found is None]
        self._process = self._start() if self._unknown else None

    def checked(self, index: int) -> Checked:
        """A run with the facts about its model; waits for the trial, and tells so.

        Raises:
            ConfigError: naming the mistake and the remedy.
        """
        if self._process is not None:
            with told("trying the model" if len(self._unknown) == 1 else "trying the models"):
                self._take(self._process)
            self._process = None
        found = self._findings[index]
        if isinstance(found, ErrorReport):
            raise found.error()
        return self._runs[index] if found is None else replace(self._runs[index], tried=found)

    def end(self) -> None:
        """End the trials without waiting."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()

    def _start(self) -> subprocess.Popen[bytes] | None:
        command = [*shlex.split(python() or shlex.join([sys.executable, "-P"])), str(SCRIPT)]
        path = os.pathsep.join([ROOT, *filter(None, [os.environ.get("PYTHONPATH")])])
        try:
            return subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env={**os.environ, "PYTHONPATH": path},
                start_new_session=True,  # Ctrl-C should reach only the driver
            )
        except OSError:  # the process can't start: a worker will try the model
            return None

    def _take(self, process: subprocess.Popen[bytes]) -> None:
        runs = pickle.dumps([self._runs[index].without_shards() for index in self._unknown])
        try:
            found = pickle.loads(process.communicate(runs, timeout=LONGEST_SECONDS)[0])
        except (OSError, EOFError, pickle.UnpicklingError, subprocess.TimeoutExpired):
            process.kill()
            process.wait()
            return
        for index, finding in zip(self._unknown, found, strict=True):
            self._findings[index] = finding
            _remember(self._runs[index], finding)


@contextmanager
def trying(runs: Sequence[Checked]) -> Iterator[ModelTrials]:
    """Try the models of runs while the block runs."""
    trials = ModelTrials(runs)
    try:
        yield trials
    finally:
        trials.end()


def _remembered(run: Checked) -> Tried | None:
    path = _memory_file(run)
    if path is None:
        return None
    try:
        kept = json.loads(path.read_bytes())
        kept["remarks"] = tuple(kept["remarks"])
        return Tried(**kept)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _remember(run: Checked, found: Finding) -> None:
    path = _memory_file(run)
    if path is None or not isinstance(found, Tried):
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_text(path, json.dumps(asdict(found)))
    except OSError:  # then the model is tried again at the next start
        pass


def _memory_file(run: Checked) -> Path | None:
    """The file that remembers a run's trial, named by a digest of all that decides it.

    None for a pretrained model, since the files under its name may change, for a user's own model
    or objective, since its code may, and for a run with evaluators, since their data may.
    """
    config = run.config
    vocabulary = run.manifest.vocabulary
    if config.model.pretrained is not None or vocabulary is None or config.objective.is_own:
        return None
    if config.eval.evaluators is not None:
        return None
    code = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in CODE.glob("*.py")]
    sections = config.model, config.data, config.objective
    decides = [
        *(section.model_dump(mode="json") for section in sections),
        *(config.train.seq_len, asdict(vocabulary)),
        *(sys.version, [version(name) for name in LIBRARIES], sorted(code)),
    ]
    digest = hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()
    return node_folder() / FOLDER / f"{digest}.json"
