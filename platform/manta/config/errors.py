"""The one family of errors that Manta raises on purpose.

Each message says what was wrong, where (file and key) and what to do. The command
line prints it without a traceback; anything outside this family is a defect and
keeps its traceback.
"""


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
