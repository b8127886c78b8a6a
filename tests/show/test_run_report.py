"""The report: needs nothing else, shows what is in the files, and can be made again."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from manta.config import RunConfig, load
from manta.config.errors import RunError
from manta.corpus.manifest import Manifest
from manta.record.history import Tail
from manta.record.run_record import RunRecord
from manta.record.run_state import GroupStart
from manta.schedule import Schedule
from manta.schedule.lines import batch_line, lr_line
from manta.show.report.run_report import write_report
from manta.show.report.series import MOST_POINTS, read_series
from manta.storage.run_folder import METRICS


class Page(HTMLParser):
    """Collects what a page refers to, its figures, its visible text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.references: list[str] = []
        self.tags: list[str] = []
        self.text = ""
        self.figures: list[dict[str, Any]] = []
        self._in: tuple[str, dict[str, str | None]] = ("", {})
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self._in = (tag, dict(attrs))
        named = dict(attrs)
        self.references += [v for k in ("src", "href", "data", "action") if (v := named.get(k))]

    def handle_endtag(self, tag: str) -> None:
        self._in = ("", {})

    def handle_data(self, data: str) -> None:
        tag, attributes = self._in
        if tag == "script" and attributes.get("id") == "figures":
            self.figures = json.loads(data)
        elif tag not in ("script", "style"):
            self.text += f" {data}"


@pytest.fixture
def run_dir(
    make_config: Callable[..., RunConfig], manifest: Manifest, clock: Any, training_row: Any
) -> Path:
    config = make_config(cost={"per_device_hour": 2.0})
    record = RunRecord.open(config, manifest, total_steps=30, total_tokens=300, clock=clock)
    for attempt, (world, begin, end) in enumerate([(4, 0, 12), (3, 10, 30)]):
        record.group_started(
            GroupStart(
                world_size=world, attempt=attempt, step=begin, tokens=begin * 10, hardware={}
            )
        )
        record.group_timed({"place": 0.25, "data_and_first_step": 1.5})
        for step in range(begin + 1, end + 1):
            clock.now += 60
            record.add({**training_row(step), "world_size": world})
            if step % 5 == 0:
                record.add({"step": step, "tokens": step * 10, "val_loss": 6.0 / step})
        record.event("a </script> <b>worker</b> was lost")
    record.finish("finished", reason="", final={})
    record.close()
    return record.run_dir


def shown(run_dir: Path) -> Page:
    return Page(write_report(run_dir).read_text())


def test_it_needs_nothing_else(run_dir: Path) -> None:
    text = write_report(run_dir).read_text()
    page = Page(text)
    assert page.references == []
    assert not {"link", "img", "iframe", "object", "embed"} & set(page.tags)
    assert "@import" not in text.split("</style>")[0]
    assert page.tags.count("svg") == 0, "the script draws in the reader's browser"
    assert len(text) < 100_000
    assert page.tags.count("b") == 0
    assert "a </script> <b>worker</b> was lost" in page.text


def test_values_are_those_of_the_metrics(run_dir: Path) -> None:
    rows = list(Tail(run_dir / METRICS).rows())
    training = [row for row in rows if "loss" in row]
    validation = [row for row in rows if "val_loss" in row]
    figures = shown(run_dir).figures
    loss, val = figures[0]["data"]
    assert loss["x"] == [row["tokens"] for row in training]
    assert loss["y"] == [row["loss"] for row in training]
    assert val["x"] == [row["tokens"] for row in validation]
    assert val["y"] == [row["val_loss"] for row in validation]
    by_title = {figure["data"][0]["name"].split(" (")[0]: figure for figure in figures}
    for title, key in [
        ("Throughput", "tokens_per_s"),
        ("World size", "world_size"),
        ("Gradient norm", "grad_norm"),
    ]:
        (trace,) = by_title[title]["data"]
        assert trace["x"] == [row["tokens"] for row in training]
        assert trace["y"] == [row[key] for row in training]


def test_the_schedule_is_drawn_as_it_is_not_from_rows(run_dir: Path) -> None:
    """A warm-up ends where it ends, not at the next row; what is to come is there as well."""
    config = load(run_dir / "config.yaml", RunConfig)
    schedule = Schedule.resolve(config.schedule, config.train.seq_len)
    by_title = {figure["title"]: figure["data"] for figure in shown(run_dir).figures}
    for title, known in (
        ("Learning rate", lr_line(schedule)),
        ("Batch size (samples)", batch_line(schedule)),
    ):
        coming, done = by_title[title]
        assert (coming["name"], done["name"]) == ("to come", title)
        assert [coming["x"], coming["y"]] == [pytest.approx(list(axis)) for axis in known]
        assert done["x"][-1] == 300, "as far as it was trained"
        assert done["y"][-1] == pytest.approx(
            coming["y"][-1] if title != "Learning rate" else float(schedule.lr(300)), rel=1e-3
        )
        assert all(series["exact"] for series in (coming, done))


def test_the_loss_is_no_single_row(run_dir: Path) -> None:
    rows = [row for row in Tail(run_dir / METRICS).rows() if "loss" in row]
    training, _ = read_series(rows)
    assert training.last_mean("loss", 0.1) == pytest.approx(
        sum(row["loss"] for row in rows[-3:]) / 3
    )
    assert training.last_mean("loss", 0.001) == rows[-1]["loss"]
    assert read_series([])[0].last_mean("loss", 0.1) is None
    assert "mean of the last 2%" in shown(run_dir).text


def test_the_horizon_is_that_of_the_config(run_dir: Path) -> None:
    assert "horizon 1K tokens; 30 steps, which end at 300 tokens" in shown(run_dir).text


def test_another_runs_loss_is_drawn_over(
    run_dir: Path, make_config: Callable[..., RunConfig], manifest: Manifest, training_row: Any
) -> None:
    config = make_config(run={"name": "other"})
    record = RunRecord.open(config, manifest, total_steps=30, total_tokens=300)
    for step in range(1, 8):
        record.add({**training_row(step), "loss": 7.0 - step})
        record.add({"step": step, "tokens": step * 10, "val_loss": 1.0})
    record.close()
    alone = shown(run_dir).figures
    figures = Page(write_report(run_dir, against=record.run_dir).read_text()).figures
    *own, other = figures[0]["data"]
    assert own == alone[0]["data"]
    assert figures[1:] == alone[1:]
    assert other["name"] == "other"
    assert other["x"] == [10, 20, 30, 40, 50, 60, 70]
    assert other["y"] == [6.0, 5.0, 4.0, 3.0, 2.0, 1.0, 0.0]
    assert other["dash"] is True
    assert len(shown(run_dir).figures[0]["data"]) == 2


def test_a_run_to_draw_against_must_be_there(run_dir: Path, tmp_path: Path) -> None:
    before = write_report(run_dir).read_text()
    with pytest.raises(RunError, match="no run here"):
        write_report(run_dir, against=tmp_path)
    assert (run_dir / "report.html").read_text() == before


def test_restarts_are_marked_everywhere(run_dir: Path) -> None:
    figures = shown(run_dir).figures
    for figure in figures:
        assert [mark["x"] for mark in figure["marks"]] == [100]
    assert [mark["label"] for mark in figures[0]["marks"]] == ["4 → 3"]


def test_starts_show_where_their_time_went(run_dir: Path) -> None:
    text = shown(run_dir).text
    assert "Starts and restarts" in text
    assert "data and first step" in text
    assert text.count("1.75") == 2


def test_the_header_has_status_totals_cost_and_fingerprint(
    run_dir: Path, manifest: Manifest
) -> None:
    text = " ".join(shown(run_dir).text.split())
    state = json.loads((run_dir / "run.json").read_text())
    assert "one finished" in text
    assert manifest.fingerprint in text
    assert f"Cost {state['totals']['cost']:,.2f}" in text
    assert "Tokens 300 20 trained again" in text
    assert "4 → 3 1 restart" in text


def test_a_run_that_trains_or_has_nothing_yet(
    make_config: Callable[..., RunConfig], manifest: Manifest
) -> None:
    record = RunRecord.open(make_config(), manifest, total_steps=1, total_tokens=10)
    page = shown(record.run_dir)
    assert "running" in page.text
    assert page.figures[0]["data"][0]["x"] == []


def test_no_run_no_report(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no run here"):
        write_report(tmp_path)


def test_a_long_run_is_thinned_to_rows_that_exist_with_every_extreme() -> None:
    count = 50_000
    spikes = {7_001: 9.0, 31_337: -3.0}
    rows = [
        {
            "step": step,
            "tokens": step * 10,
            "loss": spikes.get(step, 1.0 + step / count),
            "world_size": 4 if step < 20_123 else 3,
            "batch_size": 8,
        }
        for step in range(1, count + 1)
    ]
    training, _ = read_series(rows)
    kept = training.thinned("loss")
    assert len(kept) <= MOST_POINTS * 1.3
    assert kept == sorted(set(kept))
    steps = training.values("step", kept)
    assert {1, count, 20_123, *spikes} <= set(steps)
    assert training.values("loss", kept) == [rows[row]["loss"] for row in kept]


def test_missing_values_stay_missing() -> None:
    training, _ = read_series([{"step": 1, "tokens": 1, "loss": None, "lr": 0.1}])
    assert training.values("loss", [0]) == [None]
    assert not training.has("mfu")


def test_nothing_is_fetched(run_dir: Path) -> None:
    """Script, style and figures name no address, but for the name of SVG."""
    text = write_report(run_dir).read_text()
    assert re.findall(r"https?://[^\s\"']*", text) == ["http://www.w3.org/2000/svg"]


def test_rows_that_were_changed_are_told(run_dir: Path) -> None:
    assert "was changed" not in shown(run_dir).text
    rows = run_dir / METRICS
    rows.write_bytes(rows.read_bytes().replace(b'"val_loss": 0.3', b'"val_loss": 0.2', 1))
    assert "metrics.jsonl was changed after it was written" in shown(run_dir).text
