"""The errors that Manta raises on purpose, all subclasses of `MantaError`.

Each message says what was wrong, where (file and key) and what to do. The command line prints it
without a traceback; any other exception is a defect and is printed with its traceback.
"""

from __future__ import annotations

from dataclasses import dataclass


class MantaError(Exception):
    """Base class of all errors that Manta raises on purpose.

    Attributes:
        exit_code: exit code of a command that ends by the error.
    """

    exit_code: int = 1


class ConfigError(MantaError):
    """A config that can't be used: unknown key, value out of range, contradiction."""


class CorpusError(MantaError):
    """Input documents or token shards that are missing, damaged or inconsistent."""


class StreamError(MantaError):
    """The rows that reached a rank differ from those that the stream's plan gives it."""


class RunError(MantaError):
    """A run directory, checkpoint or export that can't be used as asked."""


class TrainingError(MantaError):
    """Training stopped because continuing would make the result wrong."""


class DivergedError(TrainingError):
    """Training met a loss or gradient that is not finite, or a spike, and was asked to stop."""


@dataclass(frozen=True)
class ErrorReport:
    """A `MantaError` as it is sent to another process: its class and message.

    Attributes:
        class_name: name of the error's class.
        text: the error's message.
    """

    class_name: str
    text: str

    @classmethod
    def of(cls, error: MantaError) -> ErrorReport:
        """The report of an error, to send."""
        return cls(type(error).__name__, str(error))

    def error(self) -> MantaError:
        """The error again, to raise in the receiving process."""
        classes = {MantaError}
        while more := {sub for known in classes for sub in known.__subclasses__()} - classes:
            classes |= more
        found = next((known for known in classes if known.__name__ == self.class_name), MantaError)
        return found(self.text)
