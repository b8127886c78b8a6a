"""Ranks that wait for a machine that is gone without a word."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from plain_runs import run_ranks

from manta.elastic.worker import connections
from manta.parallel.ranks import is_severed


def _wait_for_one_that_stands_still(folder: Path) -> None:
    """The last rank sends nothing and closes nothing, as if its cable were cut."""
    rank = dist.get_rank()
    (folder / str(rank)).write_text(str(os.getpid()))
    dist.barrier()
    if rank == 2:
        os.kill(os.getpid(), signal.SIGSTOP)
    # Once both wait. Of one address here; others would keep their connections.
    assert connections.shut({"192.0.2.77"}) == 0
    threading.Timer(0.5, lambda: connections.shut({"127.0.0.1"})).start()
    with pytest.raises(RuntimeError) as failed:
        dist.all_reduce(torch.ones(1000))
    assert is_severed(failed.value)
    if rank == 0:
        os.kill(int((folder / "2").read_text()), signal.SIGKILL)


def test_who_waits_for_it_gets_an_error(tmp_path: Path) -> None:
    with pytest.raises(mp.ProcessExitedException, match="process 2 terminated with signal SIGKILL"):
        run_ranks(3, _wait_for_one_that_stands_still, tmp_path)
