"""Weights: drawn once and by one rank, the same on every mesh, and only where nothing is loaded."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from plain_runs import engine_of, loop_of, run_ranks, streams_of
from small_models import VOCABULARY, sizes_of
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from manta.corpus.manifest import Vocabulary
from manta.elastic.checks.preflight import Checked
from manta.model import hf_config, weights
from manta.model import language_model as models
from manta.model.assembly import assemble

CPU = torch.device("cpu")
# Rotary tables, learned positions, ALiBi, scaled embeddings, experts, a state-space model, a model
# whose output layer has a bias; tied embeddings and others.
# A last one draws some of its weights without Torch's functions for that.
TYPES = [
    "qwen3_next",
    "llama",
    "qwen3",
    "gpt2",
    "bloom",
    "gemma3_text",
    "mixtral",
    "mamba",
    "phi",
    "opt",
]


def tensors_of(lm: nn.Module) -> dict[str, Tensor]:
    """All that a model computes with, by each of its names: what is tied has several."""
    parameters = lm.named_parameters(remove_duplicate=False)
    return {name: one.detach() for name, one in (*parameters, *lm.named_buffers())}


@pytest.mark.parametrize("model_type", TYPES)
@pytest.mark.parametrize("tied", [False, True], ids=["", "tied"])
def test_a_model_made_without_weights_is_filled_as_one_that_is_built(
    checked, model_type, tied
) -> None:
    sizes = sizes_of(model_type) | {"tie_word_embeddings": tied}
    config = checked().config
    section = config.model.model_copy(update={"type": model_type, "sizes": sizes})
    config = config.model_copy(update={"model": section})
    resolved = hf_config.resolve(config, Vocabulary(VOCABULARY, eos_id=0))

    built = models.build(config, copy.deepcopy(resolved))
    lm = assemble(config, resolved, CPU)
    assert all(parameter.is_meta for parameter in lm.parameters())
    weights.give_memory(lm, CPU, sharded=False)
    buffers = {name: buffer.clone() for name, buffer in lm.named_buffers()}
    weights.fill(lm, lambda: models.build(config, resolved))

    expected, found = tensors_of(built), tensors_of(lm)
    assert found.keys() == expected.keys()
    for name, one in expected.items():
        assert torch.equal(found[name], one), name
        assert name not in buffers or torch.equal(buffers[name], one), name
    one_and_all = [len({id(p) for p in model.parameters()}) for model in (lm, built)]
    assert one_and_all[0] == one_and_all[1]
    assert [p.requires_grad for p in lm.parameters()] == [
        p.requires_grad for p in built.parameters()
    ]


def test_any_number_of_ranks_begins_with_the_same_weights(checked) -> None:
    runs = [checked({"parallel.shard": shard}) for shard in (False, True)]
    run_ranks(2, _assert_as_built, runs)
    _assert_as_built(runs)


def _assert_as_built(runs: list[Checked]) -> None:
    for run in runs:
        resolved = hf_config.resolve(run.config, run.manifest.vocabulary)
        expected = dict(models.build(run.config, resolved).named_parameters())
        for name, parameter in engine_of(run).trained.lm.named_parameters():
            whole = parameter.full_tensor() if isinstance(parameter, DTensor) else parameter
            assert torch.equal(whole, expected.pop(name)), name
        assert not expected


def test_nothing_is_drawn_for_a_run_that_goes_on(checked, monkeypatch) -> None:
    run = checked({"schedule.horizon": 16 * 7 * 2, "checkpoint": {"at": [16 * 7]}})
    run.run_dir.mkdir(parents=True)
    drawn, build = [], models.build
    monkeypatch.setattr(models, "build", lambda *given: drawn.append(1) or build(*given))

    def train() -> list[Tensor]:
        engine = engine_of(run, empty=True)
        loop_of(run, engine, run.run_dir / "rows.jsonl").run(streams_of(run))
        return [parameter.detach().clone() for parameter in engine.trained.lm.parameters()]

    trained = train()
    assert drawn == [1]
    again = train()
    assert drawn == [1]
    assert all(map(torch.equal, trained, again))


def test_a_rank_never_holds_a_whole_model_that_is_split(checked) -> None:
    """Of 2 ranks one draws it, for a moment; neither does where the run goes on."""
    sizes = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 4}
    changes = {f"model.sizes.{name}": size for name, size in sizes.items()}
    run_ranks(2, _assert_share, checked(changes | {"parallel.shard": True}))


def _assert_share(run: Checked) -> None:
    engine_of(run, empty=True)  # Torch's and Transformers' own needs, of the first time
    for empty in (True, False):
        before = _resident(peak=False)
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
        engine = engine_of(run, empty=empty)
        taken = _resident(peak=True) - before
        whole = sum(4 * parameter.numel() for parameter in engine.trained.lm.parameters())
        assert whole > 140e6
        # Half of the model, tensors on their way, and what the allocator keeps of them; the rank
        # that draws holds the whole beside that.
        most = 0.2 if empty else 0.9 if engine.ranks.rank else 1.9
        assert taken < most * whole, (engine.ranks.rank, empty, taken / whole)
        assert engine.ranks.rank or empty or taken > whole  # what was measured is memory indeed
        del engine


def _resident(*, peak: bool) -> int:
    """Bytes of this process in memory."""
    key = "VmHWM:" if peak else "VmRSS:"
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(key)).split()[1])
