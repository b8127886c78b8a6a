"""`manta verify RUN --weights OTHER`: are the weights of two runs the same to the bit?"""

from __future__ import annotations

from dataclasses import dataclass

from manta.config.errors import RunError
from manta.record.run_config import recorded_config
from manta.state.checkpoint_files import name_of, read_state, whole
from manta.state.weights_digest import MODEL, OPTIMIZER, digests
from manta.storage.place import Place
from manta.storage.run_folder import CHECKPOINTS
from manta.storage.seal import digest

MOST_NAMED = 3


@dataclass(frozen=True)
class SameStep:
    """Two runs' checkpoints of one step, compared tensor by tensor.

    Attributes:
        step: the step that both checkpoints are of.
        weights: the SHA-256 of the weights of each.
        optimizers: the SHA-256 of the optimizer's state of each.
        differing: names of the tensors that differ, or that only one has.
    """

    step: int
    weights: tuple[str, str]
    optimizers: tuple[str, str]
    differing: tuple[str, ...]

    @property
    def equal(self) -> bool:
        """Whether all of both is the same to the bit."""
        return not self.differing

    def lines(self) -> list[str]:
        """The result in a few lines, for people."""
        if self.equal:
            return [
                f"step {self.step:,}: the same to the bit",
                f"  weights    sha256 {self.weights[0]}",
                f"  optimizer  sha256 {self.optimizers[0]}",
            ]
        named = ", ".join(self.differing[:MOST_NAMED])
        more = len(self.differing) - MOST_NAMED
        return [
            f"step {self.step:,}: {len(self.differing):,} tensors differ: {named}"
            + (f" and {more:,} more" if more > 0 else ""),
            f"  weights    sha256 {self.weights[0]}",
            f"  against    sha256 {self.weights[1]}",
        ]


def compare_weights(one: Place, other: Place, step: int | None = None) -> SameStep:
    """Compare two runs' checkpoints of one step.

    Args:
        one: a run's folder, or its URL in a store.
        other: the other run's.
        step: the step; None for the last one that both have a checkpoint of.

    Raises:
        RunError: if there is no such step, naming those that there are, or a checkpoint is damaged.
    """
    step = _common(one, other, step)
    found = [digests(run / CHECKPOINTS / name_of(step), "") for run in (one, other)]
    weights, optimizers = ([_under(part, each) for each in found] for part in (MODEL, OPTIMIZER))
    differing = [*_differing(*weights), *_differing(*optimizers)]
    return SameStep(
        step,
        (digest(weights[0]), digest(weights[1])),
        (digest(optimizers[0]), digest(optimizers[1])),
        tuple(differing),
    )


def _under(part: str, found: dict[str, str]) -> dict[str, str]:
    """The digests of the tensors of one part, by their names in it."""
    return {name.removeprefix(part): told for name, told in found.items() if name.startswith(part)}


def _common(one: Place, other: Place, step: int | None) -> int:
    for run in (one, other):
        recorded_config(run)
    steps = [[read_state(c).step for c in whole(run / CHECKPOINTS)] for run in (one, other)]
    both = sorted(set(steps[0]) & set(steps[1]))
    if not both or (step is not None and step not in both):
        which = f"of step {step:,}" if step is not None else "of the same step"
        raise RunError(
            f"{one} and {other} have no checkpoint {which}: the first has {_listed(steps[0])}, the "
            f"second {_listed(steps[1])}; name the steps to keep in checkpoint.at"
        )
    return both[-1] if step is None else step


def _listed(steps: list[int]) -> str:
    return ", ".join(f"{step:,}" for step in steps) or "none"


def _differing(one: dict[str, str], other: dict[str, str]) -> list[str]:
    return [name for name in sorted(one | other) if one.get(name) != other.get(name)]
