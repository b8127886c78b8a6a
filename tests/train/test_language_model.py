"""Model, labels, document mask, optimizer groups, and the refusal of what can't work."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import nullcontext

import pytest
import torch
from plain_runs import engine_of, run_ranks
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import LlamaConfig

from manta.config.errors import ConfigError
from manta.config.optimizer import OptimizerSection
from manta.corpus.manifest import Vocabulary
from manta.elastic.checks.preflight import Checked
from manta.model import hf_config
from manta.model import language_model as models
from manta.model.cross_entropy import IGNORE
from manta.objective.causal import TokenLoss, labels_of
from manta.optimizer import build as optimizer
from manta.stream.plan import local_stream

VOCABULARY = Vocabulary(61, eos_id=0)
TYPES = {
    "llama": {},
    "qwen3": {"head_dim": 16},
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 64},
}


@pytest.mark.parametrize("model_type", TYPES)
def test_masked_documents_are_as_if_they_ran_apart(checked, model_type) -> None:
    changes = {"model.type": model_type, "data.document_mask": True}
    if model_type == "gpt2":
        changes["model.sizes"] = TYPES["gpt2"]
    run = checked(changes)
    resolved = hf_config.resolve(run.config, VOCABULARY)
    loss = TokenLoss(models.build(run.config, resolved)).eval()
    lengths = [3, 1, 7, 5]
    documents = [torch.randint(0, 61, (1, n)) for n in lengths]
    packed = torch.cat(documents, dim=1)
    positions = torch.cat([torch.arange(n) for n in lengths])[None]
    with torch.no_grad():
        together = loss(packed, labels_of(packed, positions), positions)
        apart = [loss(d, labels_of(d, None), torch.arange(d.shape[1])[None]) for d in documents]
        unmasked = loss(packed, labels_of(packed, positions), None)
    assert together.item() == pytest.approx(sum(a.item() for a in apart), rel=1e-5)
    assert unmasked.item() != pytest.approx(together.item(), rel=1e-5)


def test_labels_are_the_next_token_within_window_and_document() -> None:
    tokens = torch.tensor([[5, 6, 0, 7, 8], [1, 0, 2, 0, 3]])
    positions = torch.tensor([[0, 1, 2, 0, 1], [0, 1, 0, 1, 0]])
    plain = [[6, 0, 7, 8, IGNORE], [0, 2, 0, 3, IGNORE]]
    masked = [[6, 0, IGNORE, 8, IGNORE], [0, IGNORE, 0, IGNORE, IGNORE]]
    assert labels_of(tokens, None).tolist() == plain
    assert labels_of(tokens, positions).tolist() == masked


def test_norms_biases_and_embeddings_do_not_decay(checked) -> None:
    run = checked({"model.type": "gpt2", "model.sizes": TYPES["gpt2"]})
    lm = models.build(run.config, hf_config.resolve(run.config, VOCABULARY))
    names = {id(parameter): name for name, parameter in lm.named_parameters()}
    decayed, kept = optimizer.build(OptimizerSection(), lm, 1).param_groups
    assert (decayed["weight_decay"], kept["weight_decay"]) == (0.1, 0.0)
    assert all(".c_" in names[id(p)] and p.ndim == 2 for p in decayed["params"])
    assert {"transformer.wte.weight", "transformer.wpe.weight"} <= {
        names[id(p)] for p in kept["params"]
    }
    assert len(names) == len(decayed["params"]) + len(kept["params"])
    (everything,) = optimizer.build(OptimizerSection(decay_all=True), lm, 1).param_groups
    assert everything["weight_decay"] == 0.1
    assert len(everything["params"]) == len(names)


def test_of_a_pretrained_model_no_size_is_to_be_changed(checked, tmp_path) -> None:
    LlamaConfig(vocab_size=64, max_position_embeddings=8).save_pretrained(tmp_path)
    pretrained = {"type": None, "sizes": {}, "pretrained": str(tmp_path)}
    config = checked().config
    config = config.model_copy(update={"model": config.model.model_copy(update=pretrained)})
    with pytest.raises(ConfigError, match=r"the model's context is 8; lower it$"):
        hf_config.resolve(config, VOCABULARY)
    (tmp_path / "config.json").unlink()
    with pytest.raises(ConfigError, match="neither a folder with a config"):
        hf_config.resolve(config, VOCABULARY)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"type": "lama"}, "did you mean 'llama'"),
        ({"sizes": {"hiden_size": 3}}, "'model.sizes.hiden_size'.*'hidden_size'"),
        ({"sizes": {"vocab_size": 60}}, "at least 61"),
        ({"sizes": {"max_position_embeddings": 15}}, "the model's context is 15"),
        ({"sizes": {"hidden_size": 33}}, r"llama refuses them: .*33.* is not a multiple"),
        ({"sizes": {"num_attention_heads": 0}}, "llama refuses them: .*by zero"),
    ],
)
def test_what_can_not_work_is_refused_with_the_remedy(checked, changes, message) -> None:
    """Also where the names could not be looked up before."""
    config = checked().config
    wrong = config.model_copy(update={"model": config.model.model_copy(update=changes)})
    with pytest.raises(ConfigError, match=message):
        hf_config.resolve(wrong, VOCABULARY)


def test_fp16_needs_a_gpu(checked) -> None:
    with pytest.raises(ConfigError, match=r"train\.precision = 'fp16' needs a GPU"):
        checked({"train.precision": "fp16"})


@pytest.mark.parametrize(("gpus", "workers"), [(2, 1), (1.5, 1), (0.5, 2)])
def test_a_worker_has_one_gpu_or_a_share_of_one_for_itself(checked, gpus, workers) -> None:
    def asks_for(gpus: float, workers: int):
        resources = {"CPU": 1, "GPU": gpus}
        section = {"min": 1, "max": workers, "resources_per_worker": resources}
        return checked({"scaling": section})

    with pytest.raises(
        ConfigError, match=rf"^scaling\.resources_per_worker\.GPU = {gpus:g}.*set GPU: 1"
    ):
        asks_for(gpus, workers)
    assert asks_for(0.5, 1)
    assert asks_for(1, 4)


@pytest.mark.parametrize(
    ("changes", "tolerance"),
    [
        ({"train.precision": "bf16"}, 1e-2),
        ({"train.activation_checkpointing": True}, 1e-6),
        ({"train.compile": True, "model.sizes.num_hidden_layers": 1}, 1e-5),
    ],
    ids=["bf16", "checkpointing", "compile"],
)
def test_options_that_change_speed_do_not_change_the_loss(checked, changes, tolerance) -> None:
    """Two steps each: the second one sees whether the first one's update was the same."""
    seen = []
    sizes = {key: value for key, value in changes.items() if key.startswith("model.")}
    for options in (sizes, changes):
        run = checked(options)
        engine = engine_of(run)
        batches = local_stream(run.corpus, run.schedule, cursor=0, rank=0, world_size=1)
        results = [engine.step(next(batches)) for _ in range(2)]
        seen.append([float(r.loss) for r in results])
    assert seen[1] == pytest.approx(seen[0], rel=tolerance)


class Casts(TorchDispatchMode):
    """Counts casts of each of some parameters."""

    def __init__(self, parameters: Iterable[nn.Parameter]):
        super().__init__()
        self.counts = {id(parameter): 0 for parameter in parameters}

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function is torch.ops.aten._to_copy.default and id(args[0]) in self.counts:
            self.counts[id(args[0])] += 1
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("recomputed", [False, True], ids=["plain", "checkpointing"])
def test_weights_are_cast_once_for_all_micro_steps(checked, recomputed) -> None:
    """Without that in each of the four, and again where activations are recomputed."""
    options = {"train.micro_batch": 2, "train.activation_checkpointing": recomputed}
    run = checked({"train.precision": "bf16", **options})
    engine, other = engine_of(run), engine_of(run)
    other._casting_once = lambda _: nullcontext()
    batch = next(local_stream(run.corpus, run.schedule, cursor=0, rank=0, world_size=1))
    layers = [p for p in engine.trained.lm.model.layers.parameters() if p.ndim == 2]
    with Casts(layers) as casts:
        mine = engine.step(batch)
    theirs = other.step(batch)
    assert set(casts.counts.values()) == {8 if recomputed else 1}
    assert mine.sums == theirs.sums
    for one, another in zip(
        engine.trained.lm.parameters(), other.trained.lm.parameters(), strict=True
    ):
        assert torch.equal(one, another)


def test_the_gradient_is_clipped_to_the_norm(checked) -> None:
    def moved(clip: float | None) -> float:
        # Without momentum's normalisation Adam hides the scale: look at its first moment.
        run = checked({"train.clip_norm": clip})
        engine = engine_of(run)
        batch = next(local_stream(run.corpus, run.schedule, cursor=0, rank=0, world_size=1))
        norm = float(engine.step(batch).grad_norm)
        moments = [s["exp_avg"].norm() for s in engine.trained.optimizer.state.values()]
        after = float(torch.stack(moments).norm()) / (1 - 0.9)
        return after / norm

    assert moved(None) == pytest.approx(1.0, rel=1e-4)
    run = checked({"train.clip_norm": 1e-3})
    engine = engine_of(run)
    batch = next(local_stream(run.corpus, run.schedule, cursor=0, rank=0, world_size=1))
    norm = float(engine.step(batch).grad_norm)
    assert moved(1e-3) * norm == pytest.approx(1e-3, rel=1e-3)


@pytest.mark.parametrize("ranks", [1, 2])
def test_gradients_go_through_ddp_only_where_they_are_exchanged(checked, ranks) -> None:
    run_ranks(ranks, _assert_ddp, checked(), ranks > 1)


def _assert_ddp(run: Checked, expected: bool) -> None:
    assert isinstance(engine_of(run).model, DistributedDataParallel) == expected


def test_float32_products_are_as_precise_as_the_config_says(checked) -> None:
    """Of each engine, also in a process that had another before."""
    for precision in ("high", "highest"):
        engine_of(checked({"train.matmul_precision": precision}))
        assert torch.get_float32_matmul_precision() == precision
