"""Computing threads, counted in a process that has no others."""

import copied
import pytest

# What a thread of its own, or Gloo's, does meanwhile.
OTHERS = {
    "a thread": """
done, end = threading.Event(), threading.Event()
threading.Thread(target=lambda: (work(), done.set(), end.wait()), daemon=True).start()
done.wait()
others = 1
""",
    "an exchange as checkpoints need it": """
dist.all_gather_object([None], bytes(2**20), group=group)
others = 0
""",
}
PROGRAM = """
import os, threading
import torch
import torch.distributed as dist
from manta.train.threads import compute_here

def count():
    return len(os.listdir("/proc/self/task"))

def work():
    torch.ones(2**20).exp()

{compute_here}
dist.init_process_group("gloo", init_method="tcp://127.0.0.1:0", rank=0, world_size=1)
group = dist.new_group(backend="gloo")
before = count()
work()
mine = count() - before
{others}
work()
print(torch.get_num_threads(), mine, count() - before - mine - others)
"""


def counted(others: str, call: str) -> list[int]:
    """Threads of the one that trains: asked for, begun; and those begun by others."""
    program = PROGRAM.format(others=OTHERS[others], compute_here=call)
    process = copied.start(copied.execute, program)
    said, _ = process.communicate(timeout=300)
    assert process.returncode == 0, said
    return [int(word) for word in said.split()]


@pytest.mark.parametrize("others", OTHERS)
def test_only_the_thread_that_trains_computes_with_several(others: str) -> None:
    assert counted(others, "compute_here(3)") == [3, 2, 0]


@pytest.mark.parametrize("others", OTHERS)
def test_by_itself_torch_gives_every_thread_as_many(others: str) -> None:
    """If this no longer holds, `compute_here` may no longer be needed."""
    asked, mine, theirs = counted(others, "torch.set_num_threads(3)")
    assert (asked, mine) == (3, 2)
    assert theirs > 0
