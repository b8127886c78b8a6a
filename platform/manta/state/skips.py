"""Steps that a run does not train on, and the file that tells a restarted group of them.

A *span* is a pair of step numbers, both included. The spans that a state has gone past or
will go past are part of it (`TrainState.skips`). Those of a rewind are also in
``<run>/skips.json``: the state that the run goes back to can't know them. It follows which
states are *void*: those from within or behind a span that they don't know.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from contextlib import suppress

from manta.config.errors import RunError
from manta.storage.place import Place, put
from manta.storage.run_folder import SKIPS
from manta.storage.seal import SEALED, sealed, unsealed

Span = tuple[int, int]
Spans = tuple[Span, ...]


def read_skips(run: Place) -> Spans:
    """The spans of the run's rewinds; none if it had no rewind.

    Raises:
        RunError: if the file can't be understood.
    """
    path = run / SKIPS
    try:
        content = json.loads(path.read_text())
        spans = content if isinstance(content, list) else unsealed(content)["spans"]
        return tuple((int(first), int(last)) for first, last in spans)
    except FileNotFoundError:
        return ()
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise RunError(
            f"{path}: can't be read as the steps to skip: {error}; it was changed by hand: "
            "restore it"
        ) from None


def add_skip(run: Place, span: Span) -> None:
    """Add a span to the file, durably, whole or not at all."""
    content = {"format": SEALED, "spans": joined(read_skips(run), [span])}
    put(run / SKIPS, json.dumps(sealed(content)).encode())


def lost_skips(run: Place, known: Iterable[Span]) -> Spans:
    """Those of the spans that the run's record knows that the file lacks.

    Raises:
        RunError: if the file can't be understood.
    """
    return tuple(sorted(set(known) - set(read_skips(run))))


def restore_skips(run: Place, known: Iterable[Span]) -> Spans:
    """Put spans that the run's record knows back into the file; returns those that it lacked.

    A file that can't be understood is left alone: who reads it says so.

    Raises:
        OSError: if it can't be written.
    """
    with suppress(RunError):
        lost = lost_skips(run, known)
        for span in lost:
            add_skip(run, span)
        return lost
    return ()


def joined(spans: Spans, more: Iterable[Span]) -> Spans:
    """All of both, each once, in order. Spans that overlap stay apart: each was one event."""
    return tuple(sorted({*spans, *more}))


def is_skipped(step: int, spans: Spans) -> bool:
    """Whether a step lies in one of `spans`."""
    return any(first <= step <= last for first, last in spans)


def is_void(step: int, known: Spans, rewinds: Spans) -> bool:
    """Whether a state after `step` that knows the spans `known` was left behind by a rewind."""
    return any(step >= span[0] and span not in known for span in rewinds)
