"""What can't be the same to the bit at any world size is refused, and what rounds is kept."""

from __future__ import annotations

import pytest

from manta.config import RunConfig
from manta.config.errors import RunError
from manta.record.identity import check_free_changes_only


@pytest.fixture
def exact(make_config):
    """Makes a config with the key, and other values."""

    def make(train=None, **sections):
        train = {"reproducible": "any_world_size", "seq_len": 10, **(train or {})}
        return make_config(train=train, **sections)

    return make


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"train": {"precision": "fp16"}}, r"fp16', whose loss scale .* use 'bf16'"),
        ({"parallel": {"reduce_dtype": "bf16"}}, r"leave parallel\.reduce_dtype out"),
        (
            {
                "train": {"precision": "bf16"},
                "parallel": {"shard": True},
                "scaling": {"min": 1, "max": 2},
            },
            r"set scaling\.min to 2 or more",
        ),
    ],
)
def test_what_cannot_be_exact_is_refused(exact, sections, message) -> None:
    with pytest.raises(ValueError, match=message):
        exact(**sections)


@pytest.mark.parametrize(
    "changed",
    [
        {"train": {"micro_batch": 3}},
        {"train": {"compile": True}},
        {"train": {"activation_checkpointing": True}},
        {"parallel": {"shard": True}},
        {"scaling": {"resources_per_worker": {"CPU": 2}}},
    ],
    ids=lambda changed: ".".join(f"{a}.{b}" for a, keys in changed.items() for b in keys),
)
def test_what_rounds_may_change_without_it_and_in_a_fork_with_it(
    exact, make_config, changed
) -> None:
    ((section, keys),) = changed.items()
    (key,) = keys
    with pytest.raises(RunError, match=rf"{section}\.{key}.*changes rounding"):
        check_free_changes_only("run", exact(), exact(**changed))
    plain: dict[str, dict[str, object]] = {"train": {"seq_len": 10}}
    merged = {**plain, section: {**plain.get(section, {}), **keys}}
    (change,) = check_free_changes_only("run", make_config(**plain), make_config(**merged))
    assert change.key.startswith(f"{section}.{key}")


def test_the_number_of_workers_may_change(exact) -> None:
    assert check_free_changes_only("run", exact(), exact(scaling={"min": 1, "max": 4}))


def test_it_is_off_by_default() -> None:
    assert RunConfig.model_fields["train"].annotation().reproducible is None
