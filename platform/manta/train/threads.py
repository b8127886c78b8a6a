"""Threads that compute: many for the thread that trains, one for any other."""

from __future__ import annotations

from threading import Thread

import torch


def compute_here(threads: int) -> None:
    """Have this thread compute with so many threads, and those that begin to after it with one.

    Others compute too, those that exchange and write checkpoints beside the training. With as
    many threads of their own there would be more than processors, and OpenMP (GNU's) then has
    all of them sleep between two operations: from the first checkpoint on, a step on a CPU
    took twice as long.

    That Torch, whose number is the process's, has a thread keep the one that it began with is
    internal to Torch 2.13; tests/train/test_threads.py guards it.

    Args:
        threads: number of threads that compute for this one, itself included.
    """
    torch.set_num_threads(threads)
    torch.get_num_threads()  # a thread takes the process's number when it is first asked for it
    beside = Thread(target=torch.set_num_threads, args=(1,))
    beside.start()
    beside.join()
