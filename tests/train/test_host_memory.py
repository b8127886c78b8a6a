"""What checkpoints and snapshots take of a node's memory, and what their threads leave alone."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from file_vault import HEAD, FileVault
from plain_runs import engine_of, run_ranks, streams_of
from torch.distributed.checkpoint import FileSystemWriter, filesystem, state_dict_saver
from torch.distributed.tensor import DTensor

from manta.config.optimizer import OptimizerSection
from manta.elastic.worker.host_memory import HostMemory, host_memory
from manta.state.checkpoint import Checkpoints
from manta.state.checkpoint_files import TrainState
from manta.state.dcp import Writer, share_of
from manta.state.journal import Journal
from manta.state.loading import content_of, quiet_alone
from manta.state.snapshot import Snapshots
from manta.state.state_size import state_bytes
from manta.stream.ledger import Ledger

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
    content = content_of(engine_of(checked(LARGER)).trained)
    shares = [share_of(content, rank, 3) for rank in range(3)]
    whole = sorted(map(id, leaves(content)))
    assert sorted(id(leaf) for share in shares for leaf in leaves(share)) == whole
    assert max(map(size_of, shares)) < 1.1 * size_of(content) / 3
    assert share_of(content, 0, 1) == content


def test_ranks_may_have_it_in_different_orders(checked) -> None:
    """As one whose optimizer was filled from another rank's."""
    content = content_of(engine_of(checked(LARGER)).trained)
    turned = {
        kind: dict(reversed(values.items())) if isinstance(values, dict) else values
        for kind, values in reversed(content.items())
    }
    for rank in range(3):
        assert share_of(turned, rank, 3) == share_of(content, rank, 3)


def _measure_rank(run, folder: Path) -> None:
    """What one rank takes of host memory, in bytes for each parameter of the model."""
    engine = engine_of(run)
    parameters = sum(parameter.numel() for parameter in engine.trained.lm.parameters())
    batches = streams_of(run, engine.ranks.rank, engine.ranks.world_size)(0)
    journal = Journal(engine.ranks, Ledger(folder / "ledger"), 1, lambda: 0)
    snapshots = Snapshots(engine.trained, FileVault(folder / "memory", engine.ranks.rank), 1, 1)
    for step in (1, 2):
        batch = next(batches)
        journal.consumed(batch.step, engine.step(batch).digest)
        state = TrainState(step=step, cursor=7 * step, tokens=112 * step)
        assert snapshots.take(state, journal)
    staged = []
    stage = Writer.stage
    Writer.stage = lambda self, content: staged.append(stage(self, content)) or staged[-1]
    place = folder / "checkpoints"
    saving = Checkpoints(place, engine.trained, binding="", keep=1, on_done=lambda *_: None)
    saving.save(state, lambda _: "")
    assert saving.problem() is None
    buffers = (folder / "memory").glob(f"{engine.ranks.rank}-*.data")
    found = {
        "snapshots": sum(buffer.stat().st_size - HEAD.size for buffer in buffers) / parameters,
        "staged": sum(map(size_of, staged)) / parameters,
    }
    (folder / f"{engine.ranks.rank}.json").write_text(json.dumps(found))


@pytest.mark.parametrize("shard", [False, True])
def test_bytes_a_parameter_on_each_rank(checked, tmp_path, shard: bool) -> None:
    run_ranks(2, _measure_rank, checked({**LARGER, "parallel.shard": shard}), tmp_path)
    ranks = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)]
    assert [rank["staged"] for rank in ranks] == pytest.approx([6, 6], rel=0.05)
    snapshots = [12, 12] if shard else [24, 0]
    assert [rank["snapshots"] for rank in ranks] == pytest.approx(snapshots, rel=0.05)
    told = host_memory(state_bytes(1, 1), 2, 2, shards=2 if shard else None, snapshots=True)
    assert told.snapshots == pytest.approx(sum(rank["snapshots"] for rank in ranks), rel=0.05)
    assert told.checkpoint == pytest.approx(sum(rank["staged"] for rank in ranks), rel=0.05)


# ------------------------------------------------------------------------ what is said of it

ROOT = Path(__file__).resolve().parents[2]


def test_a_node_by_the_rows_of_the_page() -> None:
    """tests/elastic/test_keeper.py measures that a second place has two copies too."""

    def node(here: int, of: int, *, shards: int | None) -> HostMemory:
        return host_memory(state_bytes(1, 1), of, here, shards=shards, snapshots=True)

    assert node(8, 8, shards=None) == HostMemory(24, 12)
    assert node(4, 8, shards=None) == HostMemory(24, 6)
    assert node(8, 8, shards=8) == HostMemory(24, 12)
    assert node(4, 8, shards=8) == HostMemory(48 / 2, 12 / 2)
    assert node(4, 8, shards=2) == HostMemory(48, 12 / 2), "one copy is written, on one node"
    assert node(1, 1, shards=None).most == 36
    assert host_memory(12, 1, 1, shards=None, snapshots=False) == HostMemory(0, 12)
    assert state_bytes(10, 1) == 48
    assert state_bytes(10, 1, OptimizerSection(type="lion").numbers_kept) == 44
    page = (ROOT / "docs/operations.md").read_text()
    for row in (
        "| snapshots | 24 on the first rank, else 0 | 24 on the first rank's node and on",
        "| a checkpoint | 12 / W | 12 · w / W |",
        "| snapshots, `parallel.shard: true` | 24 / W | 24 · w / W, and 48 · w / W with several",
        "| a checkpoint, `parallel.shard: true` | 12 / W | 12 · w / W |",
        "a 1B model on one node takes 36 GB",
    ):
        assert row in page


def test_the_pods_of_a_cluster_have_as_much_as_their_comment_says() -> None:
    text = (ROOT / "cluster/kuberay.yaml").read_text()
    most = host_memory(state_bytes(1, 1), 1, 1, shards=None, snapshots=True).most
    found = re.search(r"(\d+) bytes a parameter .*, and (\d+) GB: (\d+)Gi .*\n.* ([\d.]+)B\.", text)
    assert found is not None
    bytes_each, rest, limit, size = map(float, found.groups())
    assert bytes_each == most
    assert limit * 2**30 - rest * 1e9 > most * size * 1e9 > 0.9 * (limit * 2**30 - rest * 1e9)
    assert set(re.findall(r"limits: .*memory: (\d+)Gi, nvidia", text)) == {f"{limit:.0f}"}
