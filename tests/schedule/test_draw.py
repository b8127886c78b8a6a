"""The pictures of a schedule: what is on them, and that they are whole."""

import io
import re

import numpy as np
import pytest
from rich.console import Console

from manta.config.mixture import MixtureSection
from manta.config.schedule import ScheduleSection
from manta.schedule import Schedule
from manta.schedule.canvas import draw_curve
from manta.schedule.draw import draw_terminal
from manta.schedule.shares import Mixture

CONFIG = {
    "horizon": "10B",
    "lr": {"name": "wsd", "peak": 1e-3, "warmup": "5%", "decay": "20%"},
    "batch": {"name": "ramp", "from": 32, "to": 512, "start": "5%", "over": "50%"},
}


@pytest.fixture(scope="module")
def schedule():
    return Schedule.resolve(ScheduleSection.model_validate(CONFIG), seq_len=1000)


def drawn(schedule, encoding="utf-8", width=90, mixture=None) -> str:
    raw = io.BytesIO()
    file = io.TextIOWrapper(raw, encoding=encoding, errors="replace", write_through=True)
    draw_terminal(schedule, Console(file=file, width=width), mixture)
    return raw.getvalue().decode(encoding)


def test_a_rising_line_is_drawn_from_corner_to_corner():
    lines = draw_curve(np.arange(8.0), width=4, height=2)
    assert lines == ["⠀⠀⡠⠊", "⡠⠊⠀⠀"]


def test_a_jump_is_joined_by_a_vertical_line():
    lines = draw_curve(np.array([0.0, 0.0, 7.0, 7.0]), width=2, height=2)
    assert lines == ["⠀⡏", "⣀⠇"]


def test_a_curve_of_zeros_lies_on_the_axis():
    assert draw_curve(np.zeros(4), width=2, height=2) == ["⠀⠀", "⣀⣀"]


def test_the_terminal_shows_panels_segments_and_totals(schedule):
    text = drawn(schedule)
    for part in ("Learning rate", "Batch size (samples)", "Steps", "10B tokens"):
        assert part in text
    assert re.search(r"learning rate +8B +10B +20\.0% +1-sqrt +0\.001 → 0", text)
    assert re.search(r"batch size +500M +5\.5B +50\.0% +linear +32 → 512", text)
    assert f"{schedule.steps:,} steps" in text
    assert f"{schedule.positions:,} samples" in text


@pytest.mark.parametrize("width", [20, 60, 200])
def test_the_picture_fits_the_terminal(schedule, width):
    assert max(map(len, drawn(schedule, width=width).splitlines())) <= max(width, 25)


def test_a_terminal_without_unicode_gets_stars(schedule):
    text = drawn(schedule, encoding="ascii")
    assert "*****" in text
    panels = text[: text.index("10B tokens")]
    assert "?" not in panels


def test_a_mixture_has_a_panel_for_each_source_and_its_segments(schedule):
    line = {"shape": "linear", "to": 60}
    sources = {"web": {"weight": [{"from": 90, "until": "70%"}, line]}, "code": {"weight": 10}}
    section = MixtureSection.model_validate({"sources": sources})
    mixture = Mixture.resolve(section, {"web": 5, "code": 5}, schedule.horizon, 1000)
    text = drawn(schedule, mixture=mixture)
    assert "Share of the samples (%) of web" in text
    assert re.search(r"share of web +0 +7B +70\.0% +constant +90 %", text)
    assert re.search(r"share of code +7B +10B +30\.0% +linear +10 % → 14\.3 %", text)
