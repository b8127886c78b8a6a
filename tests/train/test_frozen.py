"""A frozen model beside the trained one: it computes as that one would, and stays what it was."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from plain_runs import engine_of, losses, train
from saved_models import saved_llama
from transformers import AutoModelForCausalLM

from manta.config.errors import ConfigError, RunError
from manta.elastic.checks.fork_run import fork_run
from manta.elastic.checks.preflight import absolute, check, check_continues, try_model
from manta.model.fingerprint import fingerprint

# An objective of a user's own: how far logits are from those of the frozen model, beside the loss.
OWN = """
import torch
import torch.nn.functional as F
from torch import nn

from manta.objective.device_columns import DeviceColumns
from manta.objective.protocol import Term


class Apart:
    columns = frozenset({"tokens"})
    terms = (Term("loss"), Term("apart", 0.0))

    def module(self, models):
        return Sums(models)

    def inputs(self, batch, device):
        return DeviceColumns.of({"tokens": batch["tokens"].astype("int64")}, ["tokens"], device)

    def weights(self, inputs):
        rows, length = inputs.tensors[0].shape
        return torch.full((2,), rows * (length - 1), device=inputs.counted.device)


class Sums(nn.Module):
    def __init__(self, models):
        super().__init__()
        self.lm, self.frozen = models.trained, models.frozen

    def forward(self, tokens, counted):
        given = {"input_ids": tokens, "use_cache": False}
        logits, others = (lm(**given).logits[:, :-1] for lm in (self.lm, self.frozen))
        assert not others.requires_grad
        loss = F.cross_entropy(logits.float().transpose(1, 2), tokens[:, 1:], reduction="none")
        apart = (logits - others).float().square().sum(-1)
        return torch.stack([(each * counted[:, None]).sum() for each in (loss, apart)])
"""


def beside(folder: Path, **changes: Any) -> dict[str, Any]:
    """A run that starts from a model, and compares with the same one."""
    return {
        "model": {"pretrained": str(folder)},
        "objective": {"type": "mine.py:Apart", "teacher": str(folder)},
        "code": {"mine.py": OWN},
        **changes,
    }


LAYOUTS = {
    "float32": {},
    "autocast": {"train.precision": "bf16"},
    "rounded": {"train.precision": "bf16", "train.param_dtype": "bf16"},
    "sharded": {"parallel.shard": True},
    "sharded_bf16": {"parallel.shard": True, "train.precision": "bf16"},
}


@pytest.mark.parametrize("tied", [False, True], ids=["", "tied"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_it_computes_to_the_bit_as_the_trained_model_with_its_weights(
    checked, tmp_path, layout, tied
) -> None:
    folder = saved_llama(tmp_path / "model", tie_word_embeddings=tied)
    run = checked(beside(folder, **LAYOUTS[layout], **{"schedule.horizon": 16 * 7 * 3}))
    rows = [row for row in train(run, 2) if "loss" in row]
    assert rows[0]["term/apart"] == 0, "before the first update"
    assert len(rows) == 3
    assert all(row["term/apart"] > 0 for row in rows[1:])


def test_compiled_it_is_the_same_but_for_rounding(checked, tmp_path) -> None:
    folder, teacher = saved_llama(tmp_path / "model"), saved_llama(tmp_path / "teacher", seed=1)
    changes = beside(folder, **{"objective.teacher": str(teacher), "schedule.horizon": 16 * 7 * 3})
    plain = train(checked({**changes, "run.name": "plain"}), 2)
    compiled = checked({**changes, "run.name": "compiled", "train.compile": True})
    # tests/train/test_language_model.py has kernels made, which takes a second each.
    rows = train(compiled, 2, kernels=False)
    apart = [[row["term/apart"] for row in each if "loss" in row] for each in (plain, rows)]
    assert apart[0] == pytest.approx(apart[1], rel=1e-5)
    assert min(apart[0]) > 1


def test_a_run_goes_on_beside_it_at_any_world_size(checked, tmp_path) -> None:
    folder, teacher = saved_llama(tmp_path / "model"), saved_llama(tmp_path / "teacher", seed=1)
    changes = beside(folder, **{"objective.teacher": str(teacher), "checkpoint.every": 16 * 7 * 4})
    alone = train(checked({**changes, "run.name": "alone"}))
    mixed = checked({**changes, "run.name": "mixed"})
    train(mixed, 2, die_after=6)
    found = train(mixed, 3, attempt=2)
    for key in ("loss", "term/apart"):
        expected = {row["step"]: row[key] for row in alone if key in row}
        assert {row["step"]: row[key] for row in found if key in row} == pytest.approx(
            expected, rel=1e-5
        )
    assert losses(alone)[12] < losses(alone)[1]


def test_its_weights_are_not_among_those_that_are_trained_and_saved(checked, tmp_path) -> None:
    folder = saved_llama(tmp_path / "model")
    engine = engine_of(checked(beside(folder)))
    own = {id(weight) for weight in engine.trained.lm.parameters()}
    assert {id(weight) for weight in engine.model.parameters()} == own
    engine.model.train()
    assert not engine.model.frozen.lm.training
    assert not any(weight.requires_grad for weight in engine.model.frozen.lm.parameters())


def test_under_autocast_linear_layers_alone_are_held_rounded(checked, tmp_path) -> None:
    def types(changes: dict[str, Any], **sizes: Any) -> dict[str, torch.dtype]:
        folder = saved_llama(tmp_path / f"{len(list(tmp_path.iterdir()))}", **sizes)
        frozen = engine_of(checked(beside(folder, **changes))).model.frozen.lm
        names = ("lm_head.weight", "model.embed_tokens.weight", "model.norm.weight")
        return {name: dict(frozen.named_parameters(remove_duplicate=False))[name].dtype
                for name in names}  # fmt: skip

    half, full = torch.bfloat16, torch.float32
    assert list(types(LAYOUTS["autocast"]).values()) == [half, full, full]
    assert list(types(LAYOUTS["autocast"], tie_word_embeddings=True).values()) == [full] * 3
    assert list(types(LAYOUTS["rounded"]).values()) == [half] * 3
    assert list(types({}).values()) == [full] * 3


def test_the_objective_is_tried_with_another_model_of_the_kind(checked, tmp_path) -> None:
    run = checked(beside(saved_llama(tmp_path / "model")))
    assert try_model(run).whole
    mean = OWN.replace("(logits - others).float().square().sum(-1)", "(logits - others).mean()")
    mean = mean.replace("(each * counted[:, None]).sum() for", "each.sum() for")
    with pytest.raises(ConfigError, match="Apart: its term 'apart'"):
        try_model(checked(beside(saved_llama(tmp_path / "model"), code={"mine.py": mean})))


def test_another_vocabulary_is_refused(checked, tmp_path) -> None:
    folder, teacher = (
        saved_llama(tmp_path / "model"),
        saved_llama(tmp_path / "teacher", vocabulary=64),
    )
    said = (
        r"objective.teacher = '.*teacher': its vocabulary has 64 entries, .* trained model has 61"
    )
    with pytest.raises(ConfigError, match=said):
        checked(beside(folder, **{"objective.teacher": str(teacher)}))
    with pytest.raises(ConfigError, match=said):  # of a model from scratch, the corpus's
        checked({**beside(teacher), "model": checked().config.model.model_dump()})


@pytest.mark.parametrize("lacking", ["config.json", "model.safetensors"])
def test_a_folder_that_lacks_a_file_is_refused(checked, tmp_path, lacking) -> None:
    folder, teacher = saved_llama(tmp_path / "model"), saved_llama(tmp_path / "teacher")
    (teacher / lacking).unlink()
    with pytest.raises(ConfigError, match=rf"objective.teacher = '.*teacher': .*{lacking}"):
        checked(beside(folder, **{"objective.teacher": str(teacher)}))


def test_a_run_goes_on_only_beside_the_same_weights(checked, tmp_path) -> None:
    folder, teacher = saved_llama(tmp_path / "model"), saved_llama(tmp_path / "teacher", seed=1)
    run = checked(beside(folder, **{"objective.teacher": str(teacher)}))
    assert run.frozen == fingerprint(teacher)
    run.tracker(console=False).finish("interrupted", reason="")
    check_continues(check(run.config))

    saved_llama(teacher, seed=2)
    with pytest.raises(RunError, match=rf"fingerprint {run.frozen[:12]}.*objective.teacher = '"):
        check_continues(check(run.config))
    saved_llama(teacher, seed=1)
    check_continues(check(run.config))


def test_a_run_goes_on_only_from_the_same_base(checked, tmp_path) -> None:
    """Told on the driver, by the files: no checkpoint holds the base."""
    folder = saved_llama(tmp_path / "model")
    changes = {"model": {"pretrained": str(folder), "adapter": {"rank": 2}}, "run.name": "adapted"}
    run = checked({**changes, "checkpoint.every": 16 * 7 * 6})
    train(run)
    run.tracker(console=False).finish("interrupted", reason="")
    check_continues(check(run.config))
    assert checked({"model": {"pretrained": str(folder)}}).base == "", "all of it is saved"

    saved_llama(folder, seed=2)
    said = rf"beside the frozen weights .* {run.base[:12]}.*model.pretrained = '.*model'"
    with pytest.raises(RunError, match=said):
        check_continues(check(run.config))
    with pytest.raises(RunError, match=said):
        fork_run(run.place, 6, "forked")
    saved_llama(folder)
    check_continues(check(run.config))


def test_the_fingerprint_is_of_weights_however_they_are_cut_into_files(tmp_path) -> None:
    whole, cut = saved_llama(tmp_path / "whole"), tmp_path / "cut"
    AutoModelForCausalLM.from_pretrained(whole).save_pretrained(cut, max_shard_size="20KB")
    assert len(list(cut.glob("*.safetensors"))) > 2
    assert fingerprint(cut) == fingerprint(whole)
    part = next(cut.glob("*.safetensors"))
    content = part.read_bytes()
    part.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert fingerprint(cut) != fingerprint(whole)
    part.write_bytes(content[:-8])
    with pytest.raises(ValueError, match="is cut off: 8 bytes are missing"):
        fingerprint(cut)
    settings = json.loads((whole / "config.json").read_text())
    assert fingerprint(whole) != fingerprint(_with(whole, settings | {"rms_norm_eps": 0.1}))
    assert fingerprint(whole) == fingerprint(_with(whole, settings | {"transformers_version": ""}))


def _with(folder: Path, settings: dict[str, Any]) -> Path:
    copied = Path(shutil.copytree(folder, folder.parent / f"{len(settings)}", dirs_exist_ok=True))
    (copied / "config.json").write_text(json.dumps(settings))
    return copied


def test_a_run_may_be_the_frozen_model(checked, tmp_path) -> None:
    base = checked({"run.name": "base", "checkpoint.every": 16 * 7 * 4})
    train(base)
    base.tracker(console=False).finish("finished", reason="")
    changes = beside(saved_llama(tmp_path / "model"), **{"run.name": "next"})
    changes["objective"]["teacher"] = f"{base.run_dir}@8"
    config = absolute(_unchecked(checked, changes))
    folder = base.run_dir / "exported" / "step-000000000008"
    assert config.objective.teacher == str(folder)


def _unchecked(checked: Any, changes: dict[str, Any]) -> Any:
    """A config as it is before names in it are resolved."""
    named = changes["objective"].pop("teacher")
    changes["objective"] = {}
    config = checked(changes).config
    own = config.objective.model_copy(update={"type": "mine.py:Apart", "teacher": named})
    return config.model_copy(update={"objective": own, "code": {"mine.py": OWN}})


COMMITS = ["a" * 40, "b" * 40]


@pytest.fixture
def hub(tmp_path, monkeypatch) -> Path:
    """A cache of the Hub as Hugging Face lays it out, with two commits of a model, offline."""
    from huggingface_hub import constants

    cache = tmp_path / "hub"
    folder = cache / "models--org--teacher"
    for seed, commit in enumerate(COMMITS):
        saved_llama(folder / "snapshots" / commit, seed=seed)
    (folder / "refs").mkdir()
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return folder / "refs" / "main"


def test_a_name_on_the_hub_is_resolved_to_a_commit_once(checked, tmp_path, hub) -> None:
    changes = beside(saved_llama(tmp_path / "model"))
    changes["objective"]["teacher"] = "org/teacher"
    plain = _unchecked(checked, changes)
    for commit in COMMITS:
        hub.write_text(commit)
        config = absolute(plain)
        assert config.objective.teacher == f"org/teacher@{commit}"
        assert absolute(config) == config
        assert check(config).frozen == commit
