"""Ray Tune runs the legs: a searcher that suggests what is ready, and a line for each event."""

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
    """Suggests the trial that is ready to train, by its name; none while there is none.

    It has no state: the coordinator's is on storage.
    """

    def __init__(self, coordinator: ActorHandle):
        super().__init__()
        self._coordinator = coordinator
        self._trials: dict[str, str] = {}

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """What Ray Tune runs next."""
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
        """A leg is over; if its process died it could not say so itself."""
        if trial_id in self._trials:
            self._coordinator.lost.remote(self._trials[trial_id])

    def save(self, checkpoint_path: str) -> None:
        """Nothing to save."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing to restore."""


class Beat(tune.Callback):  # type: ignore[misc]
    """Between the steps of Ray Tune's loop: pass on what happened, and a wish to stop."""

    def __init__(
        self, coordinator: ActorHandle, asked_to_stop: threading.Event, show: Callable[[str], None]
    ):
        self._coordinator, self._asked_to_stop, self._show = coordinator, asked_to_stop, show
        self._told = False

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Ray Tune saves its callbacks, to go on by itself, which a sweep never needs."""
        return {}

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """Ray Tune calls it several times a second."""
        if self._asked_to_stop.is_set() and not self._told:
            self._told = True
            self._show(
                "interrupted: each trial saves a checkpoint; once more ends the sweep at once"
            )
            self._coordinator.stop.remote()
        for line in ray.get(self._coordinator.notes.remote()):
            self._show(line)
