"""A registry's versions never change, its aliases go back as they came, nothing is half there."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from manta.config.errors import ConfigError, RunError
from manta.record.audit_log import read_log
from manta.record.model_registry import ModelRegistry, registered_model
from manta.record.registered_version import split_name
from manta.storage.place import place_of

FACTS: dict[str, Any] = {
    "created": "2030-01-01",
    "user": "someone",
    "host": "here",
    "manta_version": "test",
    "source": "runs/a",
    "parameters": 3,
    "fingerprint": "f" * 64,
}


def model(folder: Path, text: str = "weights") -> Path:
    """A folder with a model's files, and what was done with it."""
    for name in ("model.safetensors", "deep/config.json", "evaluations/q/x.json", "audit.jsonl"):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text} {name}")
    return folder


def added(registry: ModelRegistry, folder: Path, **changes: Any) -> int:
    with registry.alone("chat"):
        return registry.add(folder, {"name": "chat", **FACTS, **changes}).version


@pytest.fixture(params=["folder", "store"])
def registry(request: pytest.FixtureRequest, tmp_path: Path) -> ModelRegistry:
    place = tmp_path / "registry"
    return ModelRegistry(place_of(str(place) if request.param == "folder" else f"file://{place}"))


def test_versions_are_numbered_whole_and_read_again(
    registry: ModelRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MANTA_CACHE", str(tmp_path / "cache"))
    assert registry.names() == []
    made = [added(registry, model(tmp_path / text, text)) for text in "ab"]
    assert made == registry.numbers("chat") == [1, 2]
    assert registry.names() == ["chat"]
    version = registry.read("chat", 2)
    assert set(version.files) == {"model.safetensors", "deep/config.json"}
    for _ in range(2):  # of a store it is fetched once
        local = registry.local_model("chat", 2)
        assert (local / "deep/config.json").read_text() == "b deep/config.json"
    registry.verify("chat", 2)


def test_what_was_changed_is_found(tmp_path: Path) -> None:
    registry = ModelRegistry(tmp_path)
    added(registry, model(tmp_path / "m"))
    folder = registry.folder("chat", 1)
    assert isinstance(folder, Path)
    weights = folder / "model/model.safetensors"
    weights.write_text(weights.read_text().replace("w", "W"))
    with pytest.raises(RunError, match=r"model\.safetensors: missing, or not as it was promoted"):
        registry.verify("chat", 1)
    weights.unlink()
    with pytest.raises(RunError, match=r"model\.safetensors: missing"):
        registry.local_model("chat", 1)
    record = folder / "version.json"
    record.write_text(record.read_text().replace('"parameters":3', '"parameters":4'))
    record.write_text(record.read_text().replace('"parameters": 3', '"parameters": 4'))
    with pytest.raises(RunError, match="seal doesn't match"):
        registry.read("chat", 1)


def test_what_a_killed_promotion_left_does_not_count(
    registry: ModelRegistry, tmp_path: Path
) -> None:
    versions = tmp_path / "registry/chat/versions"
    for left in (".tmp-1/model/stale.bin", "1/model/stale.bin"):  # in a folder, in a store
        (versions / left).parent.mkdir(parents=True)
        (versions / left).write_text("half")
    if isinstance(registry.place, Path):
        (versions / "1/model/stale.bin").unlink()
        (versions / "1/model").rmdir()
        (versions / "1").rmdir()
    assert registry.numbers("chat") == []
    assert added(registry, model(tmp_path / "m")) == 1
    assert not (versions / "1/model/stale.bin").exists()
    registry.verify("chat", 1)


def test_promotions_at_once_lose_nothing(tmp_path: Path) -> None:
    registry, folder = ModelRegistry(tmp_path / "registry"), model(tmp_path / "m")
    errors = list[BaseException]()

    def promote() -> None:
        try:
            with registry.alone("chat"):
                version = registry.add(folder, {"name": "chat", **FACTS})
                registry.point("chat", "champion", version.version)
        except BaseException as error:  # the test's own thread raises it
            errors.append(error)

    threads = [threading.Thread(target=promote) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert registry.numbers("chat") == registry.aliases("chat")["champion"] == [1, 2, 3, 4, 5, 6]


def test_in_a_store_a_second_process_is_refused(tmp_path: Path) -> None:
    registry = ModelRegistry(place_of(f"file://{tmp_path}/registry"))
    with (
        registry.alone("chat"),
        pytest.raises(RunError, match="another"),
        registry.alone("chat"),
    ):
        pass
    with registry.alone("chat"):
        pass


@settings(max_examples=15, deadline=None)
@given(steps=st.lists(st.integers(0, 3), max_size=8))
def test_rolling_back_undoes_promotions(
    tmp_path_factory: pytest.TempPathFactory, steps: list[int]
) -> None:
    """0 rolls back, other numbers are promoted: the alias is the top of a stack."""
    home = tmp_path_factory.mktemp("stack")
    registry, stack = ModelRegistry(home / "registry"), list[int]()
    for _ in range(3):
        added(registry, model(home / "m"))
    for step in steps:
        if step:
            with registry.alone("chat"):
                assert registry.point("chat", "best", step) == (stack[-1] if stack else None)
            stack += [step] if stack[-1:] != [step] else []
        elif len(stack) > 1:
            assert registry.roll_back("chat", "best") == (stack.pop(), stack[-1])
        else:
            with pytest.raises(RunError, match=r"no alias|nothing to go back to"):
                registry.roll_back("chat", "best")
        assert registry.aliases("chat").get("best", []) == stack
    assert not read_log(home / "registry/chat").problem


def test_names_and_what_they_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    registry = ModelRegistry(tmp_path / "registry")
    added(registry, model(tmp_path / "m"))
    with registry.alone("chat"):
        registry.point("chat", "champion", 1)
    monkeypatch.setenv("MANTA_REGISTRY", str(tmp_path / "registry"))
    folder = tmp_path / "registry/chat/versions/1/model"
    for text in ("chat", "chat@1", "chat@champion", f"{tmp_path}/registry/chat@champion"):
        assert registered_model(f"registry:{text}") == folder
    assert registered_model("runs/chat@1") is None
    for text, said in (
        ("chat@2", "has no version 2; there are: 1"),
        ("chat@best", "has no alias 'best'; there are: champion"),
        ("other", "there is no model 'other' in this registry; it has: chat"),
    ):
        with pytest.raises(RunError, match=said):
            registered_model(f"registry:{text}")
    for text in ("", "a b", "../x", "chat@", "chat@-1", ".hidden"):
        with pytest.raises(ConfigError, match="write NAME"):
            split_name(text)
