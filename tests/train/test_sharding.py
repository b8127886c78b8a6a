"""Models over two ranks, split or not, compiled or not: one result, and what each rank holds."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from plain_runs import engine_of, run_ranks
from torch import Tensor
from torch._dynamo import lookup_backend
from torch._dynamo.utils import counters
from torch.distributed.fsdp import FSDPModule

from manta.elastic.checks.preflight import Checked
from manta.model import cross_entropy
from manta.parallel import exchange
from manta.stream.plan import local_stream
from manta.train.engine import Engine
from manta.train.evaluate import evaluate

# Two micro-steps on each of two ranks, with dead weight in neither: 8 rows.
STEPS = {
    "schedule.batch": 8,
    "schedule.horizon": 16 * 8 * 3,
    "train.micro_batch": 2,
    "eval": {"every": 16 * 8, "tokens": 16 * 13},
}
COMPILED = {"train.compile": True}
SHARDED = {"parallel.shard": True}
CHECKPOINTING = {"train.activation_checkpointing": True}


def trained(engine: Engine, run: Checked) -> list[float]:
    """Loss and gradient norm of each step, and the loss of an evaluation after them."""
    return [*stepped(engine, run), evaluate(engine, run.validation).loss]


def stepped(engine: Engine, run: Checked) -> list[float]:
    """Loss and gradient norm of each step."""
    values = []
    batches = local_stream(
        run.corpus,
        run.schedule,
        cursor=0,
        rank=engine.ranks.rank,
        world_size=engine.ranks.world_size,
    )
    for batch in batches:
        result = engine.step(batch)
        loss = float(engine.ranks.sum(result.loss))
        values += [loss, float(result.grad_norm)]
    return values


def whole_gradients(engine: Engine) -> int:
    """Elements of gradients that are not split, which a rank of a sharded model holds now."""
    groups = [
        group
        for module in engine.trained.lm.modules()
        if isinstance(module, FSDPModule)
        for group in module._get_fsdp_state()._fsdp_param_groups
    ]
    assert groups
    held: list[Tensor | None] = []
    for parameter in (one for group in groups for one in group.fsdp_params):
        held += [parameter.unsharded_accumulated_grad]
        held += [getattr(getattr(parameter, "_unsharded_param", None), "grad", None)]
    return sum(one.numel() for one in held if one is not None)


def test_a_sharded_rank_never_keeps_whole_gradients(checked) -> None:
    """In bf16 Torch would keep them in fp32, of all parameters, until the last micro-step."""
    alone = checked(STEPS)
    expected = trained(engine_of(alone), alone)
    runs = [(checked(STEPS | SHARDED | {"train.precision": p}), p) for p in ("no", "bf16")]
    run_ranks(2, _assert_split_gradients, runs, expected)


def _assert_split_gradients(runs: list[tuple[Checked, str]], expected: list[float]) -> None:
    for run, precision in runs:
        engine, passes = engine_of(run), []
        backward = engine._passes.backward

        def watched(*given: Any, engine=engine, backward=backward, passes=passes, **more) -> None:
            backward(*given, **more)
            split = [p.grad.to_local().numel() for p in engine._parameters if p.grad is not None]
            passes.append((whole_gradients(engine), sum(split)))

        object.__setattr__(engine._passes, "backward", watched)
        found = trained(engine, run)
        mine = sum(parameter.to_local().numel() for parameter in engine._parameters)
        assert passes == [(0, mine)] * 6
        assert found == pytest.approx(expected, rel=1e-5 if precision == "no" else 2e-2)


def test_ranks_of_a_compiled_model_train_as_one_that_is_not(checked) -> None:
    # Each layer has 1 MB of parameters, which is the least that Torch's first bucket holds.
    sizes = {"hidden_size": 128, "intermediate_size": 512, "num_hidden_layers": 2}
    steps = STEPS | {f"model.sizes.{name}": size for name, size in sizes.items()}
    alone = checked(steps)
    expected = trained(engine_of(alone), alone)
    kinds = {
        "sharded": SHARDED,
        "sharded, checkpointing": SHARDED | CHECKPOINTING,
        "replicated": {},
        "replicated in pieces": {},
    }
    runs = {kind: checked(steps | COMPILED | options) for kind, options in kinds.items()}
    run_ranks(2, _assert_compiled, runs, expected)


def _assert_compiled(runs: dict[str, Checked], expected: list[float]) -> None:
    cross_entropy.LEAST_ROWS = 4  # the loss is computed in chunks
    cross_entropy.CHUNK["cpu"] = 1
    made, without_kernels = [0], lookup_backend("aot_eager")

    def counted(graph: torch.fx.GraphModule, inputs: list[Any]) -> Any:
        made[0] += 1
        return without_kernels(graph, inputs)

    torch.compiler.set_default_backend(counted)
    trainings, all_graphs = {}, {}
    for kind, run in runs.items():
        torch.compiler.reset()
        counters.clear()
        if kind == "replicated in pieces":
            exchange.COMPILED_BUCKET = 1
        made[0], engine = 0, engine_of(run)
        found = stepped(engine, run)
        trainings[kind] = made[0]
        if kind.startswith("sharded"):  # tests/train/test_compiling.py evaluates without shards
            found.append(evaluate(engine, run.validation).loss)
        all_graphs[kind] = made[0]
        assert found == pytest.approx(expected[: len(found)], rel=1e-5), kind
        assert not counters["graph_break"]
    # One graph for training and one for evaluations; all layers share them. Where activations are
    # recomputed there is one more, whatever the number of layers.
    assert all_graphs["sharded"] == 2, all_graphs
    assert all_graphs["sharded, checkpointing"] <= 3, all_graphs
    assert trainings["replicated"] < trainings["replicated in pieces"], trainings
