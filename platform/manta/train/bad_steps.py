"""What a rank does about a bad step: stop, go on without it, or go back before it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace

from manta.config.errors import DivergedError
from manta.record.alert_record import ALERT, AlertCause
from manta.schedule import Schedule
from manta.state.checkpoint import Checkpoints
from manta.state.checkpoint_files import TrainState
from manta.state.journal import Journal
from manta.state.skips import Spans, add_skip, is_void, joined, read_skips
from manta.stream.plan import Corpus, order_of
from manta.train.engine import Engine
from manta.train.guards import Judgements, Rewind, Verdict

log = logging.getLogger(__name__)
# Bad steps within guards.window steps that are passed over; one more is no accident.
MOST_SKIPS = 3
MOST_IDS = 32
# The factor of an fp16 loss starts at 65,536 and is halved at each step that overflows. Below this
# one, far more steps in a row overflowed than a healthy run ever has: they are no numbers at all.
LEAST_SCALE = 1.0
# Whether a state was left behind by a rewind.
IsVoid = Callable[[TrainState], bool]


class Healing:
    """One rank's answer to the verdicts of its guard. All ranks must call it together."""

    def __init__(
        self,
        engine: Engine,
        checkpoints: Checkpoints,
        journal: Journal,
        schedule: Schedule,
        corpus: Corpus,
    ):
        self._engine, self._checkpoints, self._journal = engine, checkpoints, journal
        self._schedule, self._corpus = schedule, corpus
        self._section = engine.config.guards
        self._run = checkpoints.folder.parent

    def resume(
        self, load: Callable[[IsVoid], TrainState], rewound: Callable[[int, Spans], None]
    ) -> TrainState:
        """Load a state that no rewind has left behind, and tell it of the rewinds.

        Args:
            load: loads the newest state that is not void, and returns it.
            rewound: called on the first rank with the last step whose history still holds and
                the spans of all rewinds, if the state comes from before a rewind.
        """
        rewinds = self._engine.ranks.agreed(
            read_skips(self._run) if self._engine.ranks.first else ()
        )

        def void(state: TrainState) -> bool:
            return is_void(state.step, state.skips, rewinds)

        self._checkpoints.discard(void)
        state = load(void)
        self._engine.guard.restore(state.window)
        unknown = [span for span in rewinds if span not in state.skips]
        if unknown and self._engine.ranks.first:
            rewound(min(unknown)[0] - 1, rewinds)
        return replace(state, skips=joined(state.skips, rewinds))

    def saved(self, state: TrainState) -> TrainState:
        """The state with what the guard knows, as it goes into a checkpoint."""
        return replace(state, window=self._engine.guard.window)

    def check(self, state: TrainState, judgements: Judgements) -> TrainState:
        """Act on the bad steps among those judged; returns the state that knows of them.

        Waits for these steps; in fp16, for all that the device has to do.

        Args:
            state: the training state after the last of these steps.
            judgements: the guard's judgements that were not checked yet.

        Raises:
            DivergedError: if training must stop: the update was not applied.
            Rewind: if it goes on from before the bad step.
        """
        self._check_scale(state)
        for verdict in judgements.verdicts():
            if verdict.action == "stop":
                self._stop(verdict, "The last checkpoint is good")
            self._check_bound(verdict, state)
            if verdict.action == "rewind":
                self._rewind(verdict)
            state = replace(state, skips=joined(state.skips, [(verdict.step, verdict.step)]))
            self._journal.skip(verdict.step)
            if self._engine.ranks.first:
                told = f"{self._described(verdict)}; going on without it"
                log.warning(told, extra=_alert(verdict))
        return state

    def check_weights(self, step: int) -> None:
        """Stop before weights that are not finite are saved. All ranks must call together.

        Args:
            step: number of the step after which they are saved.

        Raises:
            DivergedError: if one is not finite.
        """
        if self._engine.trained.is_finite():
            return
        self._checkpoints.wait()
        raise DivergedError(
            f"step {step}: a weight is not finite after its update, though loss and gradient were: "
            "nothing was saved, and the checkpoint before is good: lower the learning rate, then "
            "continue under a new run.name"
        )

    def _check_scale(self, state: TrainState) -> None:
        """Stop an fp16 run whose scaler drops one update after the other. Waits for the device."""
        scaler = self._engine.trained.scaler
        if scaler is None or scaler.get_scale() >= LEAST_SCALE:
            return
        self._checkpoints.wait()
        raise DivergedError(
            f"step {state.step}: the loss scale of fp16 fell below {LEAST_SCALE:g}, as loss or "
            "gradient of the last steps are not finite; their updates were not applied, and the "
            "last checkpoint is good: set train.precision to bf16, or lower the learning rate or "
            "inspect the samples of these steps, then continue under a new run.name"
        )

    def _check_bound(self, verdict: Verdict, state: TrainState) -> None:
        window = self._section.window
        recent = sum(verdict.step - last < window for _, last in state.skips)
        if recent >= MOST_SKIPS:
            self._stop(
                verdict,
                f"{recent} bad stretches were passed over within the last {window} steps "
                "(guards.window): this is no accident. The last checkpoint is good",
            )

    def _stop(self, verdict: Verdict, where: str) -> None:
        self._checkpoints.wait()
        raise DivergedError(
            f"{self._described(verdict)}. {where}: lower the learning rate or inspect these "
            "samples, then continue under a new run.name, or the same one if the cause lay "
            f"outside the config or with guards.{verdict.kind}=skip"
        )

    def _rewind(self, verdict: Verdict) -> None:
        """Make storage ready for a restart before the bad step, and ask for it."""
        self._checkpoints.wait()
        wanted = max(0, verdict.step - 1 - self._section.rewind)
        back = self._checkpoints.step_before(wanted, verdict.step)
        first = max(back, wanted) + 1
        span = (first, verdict.step)
        if self._engine.ranks.first:
            # The file first: with it, a checkpoint that outlives a crash here is known as void.
            add_skip(self._run, span)
        self._checkpoints.discard(lambda state: is_void(state.step, state.skips, (span,)))
        reason = (
            f"{self._described(verdict)}; going on from step {back}, without the steps {first} "
            f"to {verdict.step}"
        )
        if self._engine.ranks.first:
            log.warning(reason, extra=_alert(verdict))
        raise Rewind(first, verdict.step, reason)

    def _described(self, verdict: Verdict) -> str:
        step = self._schedule.step(verdict.step - 1)
        positions = (step.first_position, step.first_position + step.batch_size)
        ids = order_of(self._corpus).ids(*positions).tolist()
        shown = ", ".join(map(str, ids[:MOST_IDS])) + (", …" if len(ids) > MOST_IDS else "")
        return (
            f"step {verdict.step}: {verdict}; the update was not applied. Positions "
            f"{positions[0]} to {positions[1] - 1}, sample ids {shown}"
        )


def _alert(verdict: Verdict) -> dict[str, AlertCause]:
    """What goes with a log message, so that people are alerted of the bad step."""
    return {ALERT: AlertCause("bad_step", f"step {verdict.step}")}
