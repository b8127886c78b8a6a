"""What Ray Tune needs to run the legs: a searcher that suggests ready trials, and a callback."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, cast

import ray
from ray import tune
from ray.actor import ActorHandle
from ray.tune.search import Searcher

from manta.tune.coordinator import FINISHED


class ReadyStages(Searcher):  # type: ignore[misc]
    """Suggests the name of a trial that is ready to train, if there is one.

    It has no state to save, as the coordinator writes the sweep's state.
    """

    def __init__(self, coordinator: ActorHandle):
        super().__init__()
        self._coordinator = coordinator
        self._trials: dict[str, str] = {}

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """The config of the next leg; None for none yet, `Searcher.FINISHED` for none any more."""
        name = ray.get(self._coordinator.next.remote())
        if name == FINISHED:
            return cast(str, Searcher.FINISHED)
        if name is None:
            return None
        self._trials[trial_id] = name
        return {"trial": name}

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Report that a leg is over, as a leg whose process died could not report it itself."""
        if trial_id in self._trials:
            self._coordinator.lost.remote(self._trials[trial_id])

    def save(self, checkpoint_path: str) -> None:
        """Do nothing: there is no state to save."""

    def restore(self, checkpoint_path: str) -> None:
        """Do nothing: there is no state to restore."""


class Beat(tune.Callback):  # type: ignore[misc]
    """Callback at each turn of Ray Tune's loop: prints events, and passes on a request to stop."""

    def __init__(
        self, coordinator: ActorHandle, asked_to_stop: threading.Event, show: Callable[[str], None]
    ):
        self._coordinator, self._asked_to_stop, self._show = coordinator, asked_to_stop, show
        self._told = False

    def __getstate__(self) -> dict[str, Any]:
        """Pickle nothing: Ray Tune saves callbacks to resume, which a sweep does without it."""
        return {}

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """Print what happened since the last call; Ray Tune calls this several times a second."""
        if self._asked_to_stop.is_set() and not self._told:
            self._told = True
            self._show(
                "interrupted: each trial saves a checkpoint; press Ctrl-C again to end at once"
            )
            self._coordinator.stop.remote()
        for line in ray.get(self._coordinator.notes.remote()):
            self._show(line)
