"""What changing a config key means stands at the key, and all that follows from it is derived."""

import pytest

from manta.config import RunConfig
from manta.config.mistakes import keys
from manta.config.on_change import OnChange, keys_of, on_change_of

EVERY = sorted(keys(RunConfig))


@pytest.mark.parametrize("key", EVERY)
def test_every_key_of_a_run_says_what_changing_it_means(key):
    assert on_change_of(RunConfig, key), (
        f"{key}: say `on_change` in its section, or declare it by `key(OnChange.…, …)`"
    )


@pytest.mark.parametrize("key", EVERY)
def test_each_key_is_in_the_list_of_its_kind_alone(key):
    kinds = [
        kind
        for kind in OnChange
        if any(key == k or key.startswith(f"{k}.") for k in keys_of(RunConfig, kind))
    ]
    assert kinds == [on_change_of(RunConfig, key)]


@pytest.mark.parametrize(
    ("key", "kind"),
    [
        ("run.name", OnChange.START),
        ("run.storage", OnChange.KEEP),
        ("run.seed", OnChange.START),
        ("corpus", OnChange.NOTE),
        ("model.sizes.n_layer", OnChange.START),
        ("train.seq_len", OnChange.START),
        ("train.micro_batch", OnChange.NOTE),
        ("train.compile", OnChange.NOTE),
        ("train.precision", OnChange.FORK),
        ("parallel.shard", OnChange.NOTE),
        ("parallel.reduce_dtype", OnChange.FORK),
        ("schedule.lr.peak", OnChange.FORK),
        ("scaling.max", OnChange.KEEP),
        ("scaling.resources_per_worker.GPU", OnChange.KEEP),
        ("eval.every", OnChange.NOTE),
        ("eval.tokens", OnChange.FORK),
        ("wandb.project", OnChange.LABEL),
        ("faults", OnChange.LABEL),
    ],
)
def test_data_and_mathematics_change_in_a_fork_only(key, kind):
    assert on_change_of(RunConfig, key) is kind
