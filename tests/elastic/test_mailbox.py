"""The mailbox: order, what counts as recorded, when trying again is of no use."""

from __future__ import annotations

from manta.config.errors import CorpusError, ErrorReport, TrainingError
from manta.elastic.messages.events import Note, RowLogged
from manta.elastic.messages.mailbox import FUTILE_ATTEMPTS, Mailbox

ROWS = RowLogged({})  # the mailbox is told how many rows an event has, and doesn't look


def test_messages_come_once_and_in_order() -> None:
    mailbox = Mailbox(0)
    for number in range(5):
        mailbox.put(Note(str(number)))
    assert mailbox.take(0) == [Note(str(number)) for number in range(5)]
    assert mailbox.take(0) == []


def test_rows_count_as_recorded_once_the_driver_says_so() -> None:
    mailbox = Mailbox(0)
    mailbox.put_rows(1, 3, ROWS)
    mailbox.put_rows(1, 1, ROWS)
    assert mailbox.recorded(1) == 0
    mailbox.take(0)  # the driver has them in its hands, not yet on disk
    mailbox.put_rows(1, 1, ROWS)
    mailbox.put_rows(2, 1, ROWS)
    assert mailbox.recorded(1) == 0
    mailbox.take(4)
    assert (mailbox.recorded(1), mailbox.recorded(2)) == (4, 0)
    mailbox.take(6)
    assert (mailbox.recorded(1), mailbox.recorded(2)) == (5, 1)


def test_rows_that_the_driver_could_not_write_are_not_recorded() -> None:
    mailbox = Mailbox(0)
    mailbox.put_rows(1, 2, ROWS)
    mailbox.take(0)
    mailbox.put_rows(1, 1, ROWS)
    mailbox.take(0)
    assert mailbox.recorded(1) == 0
    mailbox.take(2)
    assert mailbox.recorded(1) == 2
    mailbox.take(3)
    assert mailbox.recorded(1) == 3


def test_attempts_are_counted_on_from_earlier_drivers() -> None:
    mailbox = Mailbox(4)
    assert [mailbox.begin_attempt(), mailbox.begin_attempt()] == [(5, None), (6, None)]


def test_attempts_without_progress_end_the_run() -> None:
    mailbox = Mailbox(0)
    for _ in range(FUTILE_ATTEMPTS):
        mailbox.begin_attempt()
        assert mailbox.failure() is None
    mailbox.stepped(FUTILE_ATTEMPTS, 1, tokens=10)  # progress: the count begins anew
    for _ in range(FUTILE_ATTEMPTS):
        mailbox.begin_attempt()
        assert mailbox.failure() is None
    mailbox.stepped(2 * FUTILE_ATTEMPTS, 1, tokens=10)  # as far as before: no progress
    mailbox.begin_attempt()
    assert "without progress" in str(mailbox.failure())


def test_the_first_reason_counts() -> None:
    mailbox = Mailbox(0)
    mailbox.fail(ErrorReport.of(CorpusError("a shard is damaged")))
    mailbox.fail(ErrorReport.of(TrainingError("a peer is gone")))
    assert mailbox.failure() == ErrorReport("CorpusError", "a shard is damaged")
