"""A model is tried before Ray is started, and once: what was found fit is remembered."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny_config import run_config

from manta.config import ConfigError, RunConfig
from manta.elastic.checks.preflight import Checked, check
from manta.elastic.driver.model_trial import CODE, FOLDER, trying


@pytest.fixture
def checked(
    tmp_path: Path,
    make_corpus: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    copies: None,
) -> Callable[..., Checked]:
    """Checks a small run, on a node that remembers nothing yet."""
    monkeypatch.setenv("MANTA_CACHE", str(tmp_path / "cache"))
    make_corpus(tmp_path / "corpus", {"train": [[400]]}, vocab_size=61)

    def build(**sections: Any) -> Checked:
        config = run_config(tmp_path / "runs", tmp_path / "corpus", **sections)
        return check(RunConfig.model_validate(config))

    return build


@pytest.fixture
def no_process(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """From a call on, no process can be started."""

    def refuse(*_: Any, **__: Any) -> None:
        raise BlockingIOError("no room for a process")

    return lambda: monkeypatch.setattr(subprocess, "Popen", refuse)


def test_what_was_found_fit_is_not_tried_again(
    checked: Callable[..., Checked], no_process: Callable[[], None], tmp_path: Path
) -> None:
    first = checked()
    dropout = first.config.model.sizes | {"attention_dropout": 0.1}
    with trying([first, checked(model={"sizes": dropout})]) as trials:
        tried = [trials.checked(index).tried for index in (0, 1)]
    assert all(one is not None and one.whole for one in tried)
    assert [len(one.remarks) for one in tried if one] == [0, 1]
    no_process()
    another_rate = checked(schedule={"lr": 0.5}, model={"sizes": dropout})
    with trying([another_rate, checked(train={"seq_len": 32})]) as trials:
        assert trials.checked(0).tried == tried[1]
        # A longer sample is another trial; without a process for it, a worker will make it.
        assert trials.checked(1).tried is None
    (kept, _) = sorted((tmp_path / "cache" / FOLDER).iterdir())
    for damaged in (b"{", b"{}", b"null"):
        kept.write_bytes(damaged)
        with trying([first, another_rate]) as trials:
            assert [trials.checked(index).tried for index in (0, 1)].count(None) == 1


def test_what_a_model_refuses_is_said_each_time(checked: Callable[..., Checked]) -> None:
    refused = checked(model={"sizes": {"num_attention_heads": 3}})
    for _ in range(2):
        with trying([refused]) as trials, pytest.raises(ConfigError, match="is not a multiple of"):
            trials.checked(0)


def test_what_is_remembered_is_of_this_code() -> None:
    assert {"tryout.py", "visibility.py"} <= {path.name for path in CODE.glob("*.py")}
