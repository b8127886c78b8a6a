"""The page of a schedule: whole, by itself, and what the schedule is."""

from __future__ import annotations

from pathlib import Path

import pytest

from manta.config.errors import RunError
from manta.config.schedule import ScheduleSection
from manta.schedule import Schedule
from manta.show.pages.schedule_page import write_schedule

CONFIG = {
    "horizon": "10B",
    "lr": {"name": "wsd", "peak": 1e-3, "warmup": "5%", "decay": "20%"},
    "batch": {"name": "ramp", "from": 32, "to": 512, "start": "5%", "over": "50%"},
}


@pytest.fixture(scope="module")
def schedule() -> Schedule:
    return Schedule.resolve(ScheduleSection.model_validate(CONFIG), seq_len=1000)


def test_the_page_is_whole_and_self_contained(schedule: Schedule, tmp_path: Path) -> None:
    path = tmp_path / "new" / "schedule.html"
    write_schedule(schedule, path, title="My sweep's schedule")
    page = path.read_text(encoding="utf-8")
    assert [p.name for p in path.parent.iterdir()] == ["schedule.html"]
    assert "</html>" in page
    assert "My sweep" in page
    assert "src=" not in page
    for text in ("Learning rate", "Batch size (samples)", "Steps", "1-sqrt", "32 → 512"):
        assert text in page
    assert len(page) < 100_000


def test_the_same_schedule_gives_the_same_page(schedule: Schedule, tmp_path: Path) -> None:
    for name in ("a.html", "b.html"):
        write_schedule(schedule, tmp_path / name, title="Twice")
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()


def test_where_it_can_not_be_written(schedule: Schedule, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match=r"can't be written: .* --html"):
        write_schedule(schedule, tmp_path / "file" / "page.html", title="x")
