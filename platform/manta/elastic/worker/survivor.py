"""What this process keeps of a run between two worker groups: the model, the optimizer, the place.

A worker that outlives its group is a *survivor*. It trains on in the next group without leaving its
process, so that neither imports, a compiled graph nor a step is lost.
"""

from __future__ import annotations

from dataclasses import dataclass

from manta.state.handover import LiveState
from manta.train.engine import Engine

# What must be the same for an engine to train on: the run's binding, its folder, most rows of a
# forward pass.
EngineKey = tuple[str, str, int]


@dataclass
class Survivor:
    """The engine of an ended group, and how far it is.

    Attributes:
        key: identity of what the engine trains.
        engine: the engine, which has left its process group.
        live: the run after its last step; None while the engine's state is not whole.
    """

    key: EngineKey
    engine: Engine
    live: LiveState | None


class _Process:
    """What this process holds; nothing while it trains."""

    held: Survivor | None = None


def keep(survivor: Survivor) -> None:
    """Keep an engine for the next group."""
    _Process.held = survivor


def holds(key: EngineKey) -> bool:
    """Whether an engine is kept for what `key` identifies."""
    return _Process.held is not None and _Process.held.key == key


def take(key: EngineKey) -> Survivor | None:
    """The engine kept for what `key` identifies; another one is dropped."""
    held, _Process.held = _Process.held, None
    return held if held is not None and held.key == key else None


def drop() -> None:
    """Keep nothing any more."""
    _Process.held = None


def step() -> int | None:
    """The step whose state this process holds; None if it holds none."""
    held = _Process.held
    return held.live.state.step if held is not None and held.live is not None else None
