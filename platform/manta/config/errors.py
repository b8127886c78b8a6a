"""The one family of errors that Manta raises on purpose.

Each message says what was wrong, where (file and key) and what to do. The command
line prints it without a traceback; anything outside this family is a defect and
keeps its traceback.
"""

from __future__ import annotations

from dataclasses import dataclass


class MantaError(Exception):
    """Root of the family."""


class ConfigError(MantaError):
    """A config that can't be used: unknown key, value out of range, contradiction."""


class CorpusError(MantaError):
    """Input documents or token shards that are missing, damaged or inconsistent."""


class StreamError(MantaError):
    """The rows that reached a rank differ from those that the stream's plan gives it."""


class RunError(MantaError):
    """A run directory, checkpoint or export that can't be used as asked."""


class TrainingError(MantaError):
    """Training stopped because going on would spoil the result."""


class DivergedError(TrainingError):
    """Training met a loss or gradient that is not finite, or a spike, and was asked to stop."""


@dataclass(frozen=True)
class ErrorReport:
    """An error of the family on its way between processes, of which class and text arrive.

    Attributes:
        kind: name of its class.
        text: the error's message.
    """

    kind: str
    text: str

    @classmethod
    def of(cls, error: MantaError) -> ErrorReport:
        """What is sent of an error."""
        return cls(type(error).__name__, str(error))

    def error(self) -> MantaError:
        """The error again, to be raised where it has arrived."""
        kinds = {MantaError}
        while more := {sub for kind in kinds for sub in kind.__subclasses__()} - kinds:
            kinds |= more
        return next((kind for kind in kinds if kind.__name__ == self.kind), MantaError)(self.text)
