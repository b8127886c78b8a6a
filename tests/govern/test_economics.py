"""The front has what nothing beats, and the smallest that passes is found."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from made_evaluations import example, write_made
from typer.testing import CliRunner

from manta import cli
from manta.config.errors import ConfigError, RunError
from manta.config.gate import load_gate
from manta.evaluate.gate_decision import decide
from manta.govern.economics import economics_of, front

POINTS = st.lists(st.tuples(*[st.integers(0, 4)] * 3), min_size=1, max_size=12)


@given(POINTS)
def test_the_front_is_what_nothing_beats(points: list[tuple[int, ...]]) -> None:
    found = front(points)

    def beats(one: tuple[int, ...], other: tuple[int, ...]) -> bool:
        pairs = list(zip(one, other, strict=True))
        return all(a <= b for a, b in pairs) and any(a < b for a, b in pairs)

    assert any(found)
    for point, here in zip(points, found, strict=True):
        beaten = any(beats(other, point) for other in points)
        assert here is not beaten
        if beaten:  # by one of the front, too
            best = [one for one, on in zip(points, found, strict=True) if on]
            assert any(beats(one, point) for one in best)


def model(folder: Path, name: str, right: int, size: int, seconds: float, **more: Any) -> Path:
    """A model that answers some of 20 prompts right, each in some seconds."""
    rows = [example(f"{n:02d}", float(n < right)) for n in range(20)]
    rows = [row.model_copy(update={"shown": {**row.shown, "seconds": seconds}}) for row in rows]
    facts = {"place": str(folder / name), "parameters": size, "fingerprint": name}
    values = {"latency_p95": seconds, "peak_memory": 100.0 * size, "cost_per_1000": seconds}
    write_made(folder / name, rows, values=values, model=facts, **more)
    return folder / name


@pytest.fixture
def models(tmp_path: Path) -> list[Path]:
    gate = tmp_path / "gate.yaml"
    bound = {"answers/success": {"at_least": 0.5}}
    gate.write_text(yaml.safe_dump({"name": "ship", "thresholds": bound}))
    made = [
        model(tmp_path, "large", 18, 900, 3.0),
        model(tmp_path, "slow", 12, 300, 4.0),
        model(tmp_path, "middle", 12, 300, 1.0),
        model(tmp_path, "small", 6, 100, 0.5),
    ]
    for one in made:
        decide(one, load_gate(gate))
    return made


def test_the_smallest_that_passes(models: list[Path], tmp_path: Path) -> None:
    page = tmp_path / "economics.html"
    words = ["economics", *map(str, models), "--output", str(page)]
    shown = CliRunner().invoke(cli.app, words)
    assert shown.exit_code == 0, shown.output
    assert "the smallest that passes: middle, 300" in shown.stdout
    assert "answers/success over 95th percentile of latency" in page.read_text()
    found = json.loads(CliRunner().invoke(cli.app, [*words[:5], "--json"]).stdout)
    assert found["quality"] == "answers/success"
    assert [(one["name"], one["on_front"], one["passed"]) for one in found["models"]] == [
        ("large", True, True),
        ("slow", False, True),
        ("middle", True, True),
        ("small", True, False),
    ]
    priced = economics_of(models, price=7.2)
    assert [one.costs["cost_per_1000"] for one in priced.models] == pytest.approx([6, 8, 2, 1])


def test_what_can_not_be_weighed_says_why(models: list[Path], tmp_path: Path) -> None:
    other = model(tmp_path, "other", 5, 10, 1.0, data_hash="1" * 16)
    with pytest.raises(RunError, match="read other data"):
        economics_of([models[0], other])
    with pytest.raises(ConfigError, match=r"--quality answers/los: .* there are answers/success"):
        economics_of(models, quality="answers/los")
    with pytest.raises(RunError, match="two or more models"):
        economics_of(models[:1])
    alone = model(tmp_path, "alone", 5, 10, 1.0)
    assert "No gate has decided on alone." in economics_of([models[0], alone]).remarks
