"""A device without memory left: told from other errors, and answered by smaller forward passes."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import closing

import ray
import torch
from ray.actor import ActorHandle

from manta.config.errors import ErrorReport, TrainingError
from manta.elastic.messages.events import Note
from manta.stream.plan import RankBatch


class ForwardPasses:
    """How large the forward passes of the step that is trained are: `rows`, on any rank.

    None before the first step.
    """

    def __init__(self) -> None:
        self.rows: int | None = None

    def watching(
        self, batches: Generator[RankBatch, None, None], rows_of: Callable[[int], int]
    ) -> Generator[RankBatch, None, None]:
        """The same batches, each noted when it is taken.

        Args:
            batches: of a rank.
            rows_of: the rows of the largest forward pass of a step of so many samples.
        """
        with closing(batches):
            for batch in batches:
                self.rows = rows_of(batch.step.batch_size)
                yield batch


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a device had no memory left, by whichever library noticed."""
    if isinstance(error, torch.OutOfMemoryError):
        return True
    text = str(error).lower()
    return "cublas_status_alloc_failed" in text or ("out of memory" in text and "cuda" in text)


def halve_micro_batch(mailbox: ActorHandle, most: int, rows: int) -> None:
    """Have the next group try with less, if there is less.

    Args:
        most: rows that a forward pass might have had.
        rows: that it had.
    """
    if rows == 1:
        reason = (
            "out of memory with one sample in a forward pass: take a shorter train.seq_len, "
            "train.activation_checkpointing, parallel.shard, or a smaller model"
        )
        ray.get(mailbox.fail.remote(ErrorReport.of(TrainingError(reason))))
        return
    message = f"out of memory: train.micro_batch is halved from {rows} to {rows // 2}"
    if rows < most:
        message += f"; it was {most}, but no forward pass had more than {rows}"
    if ray.get(mailbox.limit_micro_batch.remote(rows // 2)):
        mailbox.put.remote(Note(message))
