"""Recognises out-of-memory errors of a device, and answers them by smaller forward passes."""

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
    """Tracks `rows`, the largest forward pass of the current step on any rank.

    `rows` is None before the first step.
    """

    def __init__(self) -> None:
        self.rows: int | None = None

    def watching(
        self, batches: Generator[RankBatch, None, None], rows_of: Callable[[int], int]
    ) -> Generator[RankBatch, None, None]:
        """Yield the same batches, noting each one's forward passes.

        Args:
            batches: the batches of this rank.
            rows_of: samples of a step → rows of its largest forward pass.
        """
        with closing(batches):
            for batch in batches:
                self.rows = rows_of(batch.step.batch_size)
                yield batch


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that a device is out of memory, whichever library raised it."""
    if isinstance(error, torch.OutOfMemoryError):
        return True
    text = str(error).lower()
    return "cublas_status_alloc_failed" in text or ("out of memory" in text and "cuda" in text)


def halve_micro_batch(mailbox: ActorHandle, most: int, rows: int) -> None:
    """Limit the next group to half the rows; fails the run if there is one row only.

    Args:
        most: most rows that a forward pass was allowed.
        rows: rows of the largest forward pass.
    """
    if rows == 1:
        reason = (
            "out of memory with one sample in a forward pass: use a shorter train.seq_len, "
            "train.activation_checkpointing, parallel.shard, or a smaller model"
        )
        ray.get(mailbox.fail.remote(ErrorReport.of(TrainingError(reason))))
        return
    message = f"out of memory: train.micro_batch is halved from {rows} to {rows // 2}"
    if rows < most:
        message += f"; it was {most}, but no forward pass had more than {rows}"
    if ray.get(mailbox.limit_micro_batch.remote(rows // 2)):
        mailbox.put.remote(Note(message))


def refuse_smaller_passes(mailbox: ActorHandle, rows: int) -> None:
    """Fail a run whose forward passes may not become smaller, as its sums would be others.

    Args:
        rows: rows of the largest forward pass.
    """
    reason = (
        f"out of memory with {rows} samples in a forward pass, and train.reproducible fixes "
        "train.micro_batch: continue by `manta fork` with a smaller one, or with "
        "train.activation_checkpointing"
    )
    ray.get(mailbox.fail.remote(ErrorReport.of(TrainingError(reason))))
