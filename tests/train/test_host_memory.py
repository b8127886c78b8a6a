"""What checkpoints and snapshots take of a node's memory, and what their threads leave alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from file_vault import HEAD, FileVault
from plain_runs import engine_of, run_ranks, streams_of
from torch.distributed.checkpoint import FileSystemWriter, filesystem, state_dict_saver
from torch.distributed.tensor import DTensor

from manta.stream.ledger import Ledger
from manta.train.checkpoint import Checkpoints
from manta.train.dcp import Writer, share_of
from manta.train.journal import Journal
from manta.train.loading import content_of, quiet_alone
from manta.train.saved import TrainState
from manta.train.snapshot import Snapshots

# Large enough that a ledger's rows and alignment are nothing beside the tensors.
LARGER = {"model.sizes.hidden_size": 128, "model.sizes.intermediate_size": 512}


# --------------------------------------------------------------- the writer's thread


class CopiesAhead(Exception):
    """Torch would copy through a device's stream in the thread that writes."""


def written_by(writer: FileSystemWriter, monkeypatch: pytest.MonkeyPatch) -> None:
    """Write as on a machine with a GPU, as far as Torch's choice of a loader goes."""

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise CopiesAhead

    content = {"weight": torch.ones(7)}
    with monkeypatch.context() as patched, quiet_alone():
        patched.setattr(filesystem, "_OverlappingCpuLoader", refuse)
        patched.setattr(torch.cuda, "is_available", lambda: True)
        state_dict_saver.save(content, storage_writer=writer, no_dist=True)


def test_the_thread_that_writes_does_not_wait_for_the_device(tmp_path, monkeypatch) -> None:
    with pytest.raises(BaseException, match="CopiesAhead"):
        written_by(FileSystemWriter(tmp_path / "stock"), monkeypatch)  # if not, read Torch again
    (tmp_path / "ours").mkdir()
    written_by(Writer(tmp_path / "ours"), monkeypatch)


# ---------------------------------------------------------------------- what is staged


def leaves(content: Any) -> list[Any]:
    if isinstance(content, dict):
        return [leaf for value in content.values() for leaf in leaves(value)]
    return [content]


def size_of(content: Any) -> int:
    local = (x.to_local() if isinstance(x, DTensor) else x for x in leaves(content))
    return sum(tensor.nbytes for tensor in local if isinstance(tensor, torch.Tensor))


def test_ranks_share_what_all_of_them_have(checked) -> None:
    content = content_of(engine_of(checked(LARGER)))
    shares = [share_of(content, rank, 3) for rank in range(3)]
    whole = sorted(map(id, leaves(content)))
    assert sorted(id(leaf) for share in shares for leaf in leaves(share)) == whole
    assert max(map(size_of, shares)) < 1.1 * size_of(content) / 3
    assert share_of(content, 0, 1) == content


def _measure_rank(run, folder: Path) -> None:
    """What one rank takes of host memory, in bytes for each parameter of the model."""
    engine = engine_of(run)
    parameters = sum(parameter.numel() for parameter in engine.lm.parameters())
    batches = streams_of(run, engine.rank, engine.world_size)(0)
    journal = Journal(engine, Ledger(folder / "ledger"), 1, lambda: 0)
    snapshots = Snapshots(engine, FileVault(folder / "memory", engine.rank), 1, 1)
    for step in (1, 2):
        batch = next(batches)
        engine.step(batch)
        journal.consumed(batch)
        state = TrainState(step=step, cursor=7 * step, tokens=112 * step)
        assert snapshots.take(state, journal)
    staged = []
    stage = Writer.stage
    Writer.stage = lambda self, content: staged.append(stage(self, content)) or staged[-1]
    place = folder / "checkpoints"
    saving = Checkpoints(place, engine, binding="", keep=1, on_done=lambda *_: None)
    saving.save(state, lambda _: "")
    assert saving.problem() is None
    buffers = (folder / "memory").glob(f"{engine.rank}-*.data")
    found = {
        "snapshots": sum(buffer.stat().st_size - HEAD.size for buffer in buffers) / parameters,
        "staged": sum(map(size_of, staged)) / parameters,
    }
    (folder / f"{engine.rank}.json").write_text(json.dumps(found))


@pytest.mark.parametrize("shard", [False, True])
def test_bytes_a_parameter_on_each_rank(checked, tmp_path, shard: bool) -> None:
    run_ranks(2, _measure_rank, checked({**LARGER, "parallel.shard": shard}), tmp_path)
    ranks = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)]
    assert [rank["staged"] for rank in ranks] == pytest.approx([6, 6], rel=0.05)
    snapshots = [12, 12] if shard else [24, 0]
    assert [rank["snapshots"] for rank in ranks] == pytest.approx(snapshots, rel=0.05)
