"""Optimizers: each update against NumPy, dropped updates, and runs at any number of ranks."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from plain_runs import Fault, engine_of, ledger, losses, outcome, run_ranks, streams_of, train
from torch import nn
from torch.distributed.tensor import DTensor

from manta.config.errors import ConfigError
from manta.config.load import load
from manta.config.optimizer import OptimizerSection
from manta.config.run import RunConfig
from manta.elastic.checks.preflight import Checked, try_model
from manta.model.weight_groups import weight_groups
from manta.optimizer import muon as muon_module
from manta.optimizer.build import build, takes_orders
from manta.state.checkpoint_files import newest
from manta.state.loading import load as load_checkpoint

Floats = NDArray[np.float64]
State = dict[str, Floats]
TYPES: dict[str, dict[str, Any]] = {
    "adamw": {"cautious": True},
    "muon": {"type": "muon", "weight_decay": 0.5},
    "cautious muon": {"type": "muon", "cautious": True, "weight_decay": 0.5, "nesterov": False},
    "lion": {"type": "lion", "weight_decay": 0.5},
    "cautious lion": {"type": "lion", "cautious": True, "weight_decay": 0.5},
    "sgd": {"type": "sgd", "weight_decay": 0.01},
    "nesterov": {"type": "sgd", "momentum": 0.8, "nesterov": True},
    "plain sgd": {"type": "sgd", "momentum": 0},
}
LR = 0.01
STEP = 16 * 7  # tokens


# ------------------------------------------------------------- updates, by their formulas


def _decayed(w: Floats, u: Floats, section: OptimizerSection) -> Floats:
    decays = w * u >= 0 if section.cautious else np.ones(w.shape)
    return w - LR * section.weight_decay * decays * w


def adamw(w: Floats, g: Floats, s: State, t: int, section: OptimizerSection) -> Floats:
    """Loshchilov & Hutter, 2019, algorithm 2."""
    b1, b2 = section.betas
    s["m"] = b1 * s.get("m", 0 * g) + (1 - b1) * g
    s["v"] = b2 * s.get("v", 0 * g) + (1 - b2) * g**2
    u = s["m"] / (1 - b1**t) / (np.sqrt(s["v"] / (1 - b2**t)) + section.eps)
    return _decayed(w, u, section) - LR * u


def lion(w: Floats, g: Floats, s: State, t: int, section: OptimizerSection) -> Floats:
    """Chen et al., 2023, algorithm 2."""
    b1, b2 = section.betas
    m = s.get("m", 0 * g)
    u = np.sign(b1 * m + (1 - b1) * g)
    s["m"] = b2 * m + (1 - b2) * g
    return _decayed(w, u, section) - LR * u


def sgd(w: Floats, g: Floats, s: State, t: int, section: OptimizerSection) -> Floats:
    """Sutskever et al., 2013, as Torch writes it: the decay is a part of the gradient."""
    g = g + section.weight_decay * w
    s["m"] = section.momentum_used * s.get("m", 0 * g) + g
    u = g + section.momentum_used * s["m"] if section.nesterov_used else s["m"]
    return w - LR * u


def muon(w: Floats, g: Floats, s: State, t: int, section: OptimizerSection) -> Floats:
    """Jordan, 2024: five Newton-Schulz iterations with his coefficients."""
    mu = section.momentum_used
    s["m"] = mu * s.get("m", 0 * g) + (1 - mu) * g
    x = (1 - mu) * g + mu * s["m"] if section.nesterov_used else s["m"]
    x = x / np.linalg.norm(x)
    for _ in range(5):
        gram = x @ x.T
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return _decayed(w, x, section) - LR * 0.2 * np.sqrt(max(w.shape)) * x


RULES = {"adamw": adamw, "muon": muon, "lion": lion, "sgd": sgd}


def _weights(count: int = 2) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(1)
    return [nn.Parameter(torch.randn(6, 4 + 3 * n, generator=generator)) for n in range(count)]


class _Matrices(nn.Module):
    def __init__(self, weights: list[nn.Parameter]):
        super().__init__()
        self.matrices = nn.ParameterList(weights)


def _set(optimizer: torch.optim.Optimizer) -> list[torch.Tensor]:
    """Set the rate, and gradients that differ in each call; returns them."""
    found = []
    for group in optimizer.param_groups:
        group["lr"] = LR
        for weight in group["params"]:
            weight.grad = torch.randn(weight.shape)
            found.append(weight.grad.clone())
    return found


@pytest.mark.parametrize("name", TYPES)
def test_an_update_is_that_of_the_papers(name) -> None:
    section = OptimizerSection(**TYPES[name])
    weights = _weights()
    optimizer = build(section, _Matrices(weights), 1)
    torch.manual_seed(2)
    expected = [weight.detach().double().numpy().copy() for weight in weights]
    states: list[State] = [{} for _ in weights]
    for step in range(1, 6):
        gradients = _set(optimizer)
        optimizer.step()
        for index, gradient in enumerate(gradients):
            expected[index] = RULES[section.type](
                expected[index], gradient.double().numpy(), states[index], step, section
            )
    # Muon's updates are in bf16, each at most LR · 0.2 · √7 · 1.2; where one is so small that its
    # sign is lost, a cautious decay differs.
    tolerance, most = (2e-3, 0.05) if section.type == "muon" else (1e-6, 0.0)
    for weight, wanted in zip(weights, expected, strict=True):
        near = np.isclose(weight.detach().numpy(), wanted, atol=tolerance, rtol=1e-5)
        assert np.mean(~near) <= most


@pytest.mark.parametrize("adjust", ["match_rms_adamw", "original"])
def test_muon_is_torchs_to_the_bit(adjust) -> None:
    ours, theirs = _weights(), _weights()
    section = OptimizerSection(type="muon", adjust_lr=adjust)
    one = build(section, _Matrices(ours), 1)
    other = torch.optim.Muon(theirs, lr=LR, adjust_lr_fn=adjust)
    for seed in range(3):
        for optimizer in (one, other):
            torch.manual_seed(seed)
            _set(optimizer)
            optimizer.step()
    assert all(map(torch.equal, ours, theirs))


@pytest.mark.parametrize("name", TYPES)
def test_orders_drop_an_update_and_divide_the_gradient(name) -> None:
    def state(optimizer: torch.optim.Optimizer) -> list[torch.Tensor]:
        return [v.clone() for s in optimizer.state.values() for v in s.values()]

    weights, others = _weights(), _weights()
    pair = [build(OptimizerSection(**TYPES[name]), _Matrices(w), 1) for w in (weights, others)]
    assert all(map(takes_orders, pair))
    ordered, plain = pair
    before = copy.deepcopy(weights)
    _set(ordered)
    weights[0].grad[0, 0] = torch.nan
    ordered.found_inf = torch.ones(())
    ordered.step()  # the first one of all: no state is left without values
    assert all(map(torch.equal, weights, before))
    assert not any(value.any() for value in state(ordered))
    for seed in range(3):
        for optimizer in pair:
            torch.manual_seed(seed)
            _set(optimizer)
        for weight in others:
            weight.grad /= 4
        ordered.found_inf, ordered.grad_scale = torch.zeros(()), torch.tensor(4.0)
        ordered.step()
        plain.step()
        kept, held = copy.deepcopy(weights), state(ordered)
        _set(ordered)
        ordered.found_inf = torch.ones(())
        ordered.step()
        assert all(map(torch.equal, weights, kept))
        assert all(map(torch.equal, state(ordered), held))
    assert all(map(torch.equal, weights, others))


def _count_rank(runs: list[Checked], folder: Path) -> None:
    """Note the matrices that this rank makes orthogonal in a step, and the weights after it."""
    for index, run in enumerate(runs):
        engine, count, own = engine_of(run), [0], muon_module._orthogonal

        def counted(update: Any, count=count, own=own) -> torch.Tensor:
            count[0] += 1
            return own(update)

        muon_module._orthogonal = counted
        ranks = engine.ranks
        engine.step(next(streams_of(run, ranks.rank, ranks.world_size)(0)))
        muon_module._orthogonal = own
        weights = [full(weight) for weight in engine.trained.lm.parameters()]
        torch.save((count[0], weights), folder / f"{index}-{ranks.world_size}-{ranks.rank}.pt")


def full(tensor: torch.Tensor) -> torch.Tensor:
    tensor = tensor.detach()
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor.clone()


def test_ranks_share_what_muon_computes(checked, tmp_path) -> None:
    """14 matrices: each is made orthogonal by one rank, whole or split, and all have the same."""
    changes = {**EXACT, **RUNS["muon"]}
    runs = [checked({**changes, "parallel.shard": shard}) for shard in (False, True)]
    for ranks in (1, 3):
        run_ranks(ranks, _count_rank, runs, tmp_path)
    _, expected = torch.load(tmp_path / "0-1-0.pt")
    for index in range(2):
        found = [torch.load(tmp_path / f"{index}-3-{rank}.pt") for rank in range(3)]
        assert [count for count, _ in found] == [5, 5, 4]
        for _, weights in found:
            assert all(map(torch.equal, weights, expected))


# ------------------------------------------------------------------------------- groups


def named(lm: nn.Module, section: OptimizerSection) -> dict[str, tuple[str, float, float]]:
    """Update, factor of the rate, and decay of each weight by name."""
    names = {id(weight): name for name, weight in lm.named_parameters()}
    return {
        names[id(weight)]: (group.update, group.lr_factor, group.weight_decay)
        for group in weight_groups(lm, section)
        for weight in group.weights
    }


def test_groups_are_by_name_and_muon_has_the_hidden_matrices(checked) -> None:
    lm = engine_of(checked()).trained.lm
    groups = [
        {"names": ["model.layers.{0..0}.mlp.*"], "lr": 0.5, "decay": 2},
        {"names": ["*embed*", "*norm*"], "lr": 0.1},
    ]
    found = named(
        lm, OptimizerSection(type="muon", groups=groups, by_adamw=["*.{1..1}.mlp.*", "*.o_proj.*"])
    )
    assert found.keys() == dict(lm.named_parameters()).keys()
    assert found["model.layers.0.mlp.up_proj.weight"] == ("muon", 0.5, 0.2)
    assert found["model.layers.1.mlp.up_proj.weight"] == ("adamw", 1.0, 0.1)
    assert found["model.layers.0.self_attn.o_proj.weight"] == ("adamw", 1.0, 0.1)
    assert found["model.layers.0.self_attn.q_proj.weight"] == ("muon", 1.0, 0.1)
    assert found["model.embed_tokens.weight"] == ("adamw", 0.1, 0.0)
    assert found["model.norm.weight"] == ("adamw", 0.1, 0.0)
    assert found["lm_head.weight"] == ("adamw", 1.0, 0.1)


def test_a_group_has_its_share_of_the_rate(checked) -> None:
    run = checked({"optimizer.groups": [{"names": ["*embed*"], "lr": 0}], "schedule.lr": 0.5})
    engine = engine_of(run)
    before = {name: w.detach().clone() for name, w in engine.trained.lm.named_parameters()}
    batch = next(streams_of(run)(0))
    engine.step(batch)
    same = {n for n, w in engine.trained.lm.named_parameters() if torch.equal(w, before[n])}
    assert same == {"model.embed_tokens.weight"}
    assert {g["lr"] for g in engine.trained.optimizer.param_groups} == {0.0, 0.5}


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ({"groups": [{"names": ["*.mpl.*"]}]}, r"optimizer\.groups\.0\.names: '\*\.mpl\.\*' is"),
        ({"type": "muon", "by_adamw": ["*"]}, "no matrix between"),
    ],
)
def test_what_does_not_fit_the_model_is_refused_before_a_device_is_held(
    checked, section, said
) -> None:
    with pytest.raises(ConfigError, match=said):
        try_model(checked({"optimizer": section}))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ("type=sgd optimizer.eps=1e-6", "'eps' is only for adamw and muon, not for sgd"),
        ("type=lion optimizer.momentum=0.5", "'momentum' is only for muon and sgd"),
        ("type=sgd optimizer.cautious=true", "'cautious' is only for adamw and muon and lion"),
        ("type=sgd optimizer.momentum=0 optimizer.nesterov=true", "'nesterov' needs"),
        ("by_adamw=[a]", "'by_adamw' is only for muon, not for adamw"),
        ("type=adam", "adamw"),
    ],
)
def test_keys_of_other_types_are_refused(tmp_path, changes, said) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("run: {name: x}\ncorpus: c\nmodel: {type: llama}\nschedule: {}\n")
    overrides = ["schedule={horizon: 1M, lr: 0.1, batch: 4}"]
    overrides += ["optimizer." + part.removeprefix("optimizer.") for part in changes.split()]
    with pytest.raises(ConfigError, match=said):
        load(path, RunConfig, overrides)


def test_lion_has_betas_of_its_own() -> None:
    assert OptimizerSection(type="lion").betas == (0.9, 0.99)
    assert OptimizerSection(type="lion", betas=(0.9, 0.95)).betas == (0.9, 0.95)
    dumped = OptimizerSection(type="lion").model_dump(mode="json")
    assert OptimizerSection(**dumped) == OptimizerSection(type="lion")


# --------------------------------------------------------------------------- whole runs

RUNS = {
    "muon": {"optimizer": {"type": "muon"}, "schedule.lr": 3e-2},
    "lion": {"optimizer": {"type": "lion", "cautious": True}, "schedule.lr": 3e-3},
    "sgd": {"optimizer": {"type": "sgd", "nesterov": True}, "schedule.lr": 1.0},
    "adamw": {
        "optimizer": {
            "cautious": True,
            "groups": [{"names": ["*embed*"], "lr": 0.5}],
            "average": {"half_life": 3 * STEP},
        },
        "eval": {"every": 4 * STEP, "tokens": 160},
    },
}
# Their losses after steps 1, 5 and 12: as far as another machine may round otherwise.
GOLDEN = {
    "muon": (4.12056, 4.23516, 4.19288),
    "lion": (4.12056, 4.11317, 4.10696),
    "sgd": (4.12056, 4.21207, 4.18466),
    "adamw": (4.12056, 4.11678, 4.12262),
}
EXACT = {
    "train.reproducible": "any_world_size",
    "train.micro_batch": 3,
    "guards.nonfinite": "skip",
    "checkpoint": {"every": 6 * STEP, "snapshot_every": 1},
    # What ranks have equal parts of, in multiples of what a CPU rounds together.
    "model.sizes.hidden_size": 96,
    "model.sizes.intermediate_size": 96,
}


@pytest.mark.parametrize("name", RUNS)
def test_the_curve_is_kept(checked, name) -> None:
    """By one rank, and by two that hold parts of the model."""
    curves = []
    for ranks, shard in ((1, False), (2, True)):
        changes = {**RUNS[name], "parallel.shard": shard, "run.name": f"{ranks}-{shard}"}
        curves.append(losses(train(checked(changes), ranks)))
    assert [curves[0][step] for step in (1, 5, 12)] == pytest.approx(GOLDEN[name], rel=1e-3)
    # Muon's iteration computes in bf16, in which a last bit of a gradient is a step of 2^-8.
    assert curves[1] == pytest.approx(curves[0], rel=2e-4 if name == "muon" else 1e-5)


@pytest.mark.parametrize("name", [*RUNS, "plain sgd"])
def test_any_number_of_ranks_gives_the_same_weights(checked, name) -> None:
    """Whole or in parts, from snapshots and checkpoints of other sizes; bad steps are left out."""
    fault = Fault((3,), float("nan"))
    changes = RUNS.get(name) or {"optimizer": TYPES[name]}
    alone = checked({**EXACT, **changes, "run.name": "alone"})
    expected = outcome(alone, train(alone, fault=fault))
    assert [row["step"] for row in ledger(alone) if row["skipped"]] == [3]
    parts = {"parallel.shard": True, "scaling": {"min": 1, "max": 3}, "run.name": "parts"}
    run = checked({**EXACT, **changes, **parts})
    train(run, 2, die_after=5, snapshots=True, fault=fault)
    train(run, 3, die_after=9, snapshots=True, attempt=2, fault=fault)
    rows = train(run, 1, attempt=3, fault=fault)
    resumed = [row["source"] for row in rows if "resumed" in row]
    assert resumed == ["start", "snapshot", "checkpoint"]
    assert outcome(run, rows) == expected


def test_a_fork_goes_by_its_own_decay_and_groups(checked) -> None:
    """Of a checkpoint, the moments are taken, and not the settings that they were made by."""
    parent = checked({"run.name": "parent"})
    train(parent)
    changed = {"weight_decay": 0.3, "groups": [{"names": ["*norm*"], "lr": 2}], "eps": 1e-6}
    engine = engine_of(checked({"optimizer": changed}), empty=True)
    load_checkpoint(newest(parent.run_dir / "checkpoints"), engine.trained)
    groups = engine.trained.optimizer.param_groups
    settings = [(group["weight_decay"], group["eps"], group["lr_factor"]) for group in groups]
    assert settings == [(0.3, 1e-6, 1.0), (0.0, 1e-6, 1.0), (0.0, 1e-6, 2.0)]
    weights = [weight for group in groups for weight in group["params"]]
    assert all(engine.trained.optimizer.state[weight]["exp_avg_sq"].any() for weight in weights)
