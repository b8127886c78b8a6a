"""Every page in a real browser, where there is one: drawn, without an error, at any width."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from made_sweep import base, decay_fan, plausible_loss, write_run, write_sweep

from manta.config import RunConfig
from manta.schedule import Schedule
from manta.show.compare.comparison_page import write_page
from manta.show.compare.ranking import rank
from manta.show.compare.reading import load_comparison
from manta.show.pages.schedule_page import write_schedule
from manta.show.report.run_report import write_report

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
# Draws all views, moves the pointer over all charts, and says what came of it.
PROBE = """
<script>
const errors = [];
window.onerror = message => { errors.push(message); };
setTimeout(() => {
  const tips = new Set();
  for (const button of document.querySelectorAll(".views button, button.key")) button.click();
  for (const button of document.querySelectorAll(".views button, button.key")) button.click();
  for (const shape of document.querySelectorAll(".stage rect, .stage path, .stage circle")) {
    const box = shape.getBoundingClientRect();
    const at = { clientX: box.x + box.width / 2, clientY: box.y + box.height / 2, bubbles: true };
    shape.dispatchEvent(new PointerEvent("pointermove", at));
    const tip = shape.closest(".stage").querySelector(".tip");
    if (tip.style.display === "block") tips.add(tip.textContent);
  }
  const left = () => document.querySelectorAll(".left-out").length, kept = [left()];
  for (const axis of document.querySelectorAll(".handle")) {
    const box = axis.getBoundingClientRect();
    const press = (type, share) => axis.dispatchEvent(new PointerEvent(type, {
      clientX: box.x + box.width / 2, clientY: box.y + share * box.height, bubbles: true }));
    // The upper half of the axis, then a click.
    press("pointerdown", 0);
    press("pointermove", 0.5);
    press("pointerup", 0.5);
    kept.push(left());
    press("pointerdown", 0.7);
    press("pointerup", 0.7);
    kept.push(left());
  }
  const places = [...document.querySelectorAll("[id^=chart-]")];
  document.title = JSON.stringify({
    errors, places: places.length, tips: [...tips], kept,
    drawn: places.filter(place => place.querySelectorAll("svg[role=img] path").length).length,
    wide: document.documentElement.scrollWidth,
    not_numbers: places.filter(place => /NaN/.test(place.innerHTML)).length,
  });
}, 300);
</script>
"""


def seen(page: Path, width: int, profile: Path) -> dict[str, object]:
    copy = page.with_suffix(".probed.html")
    text = page.read_text()
    copy.write_text(text.replace("<body>", f"<body>{PROBE}"))
    options = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run "
    options += "--disable-background-networking --disable-component-update --disable-sync "
    options += f"--virtual-time-budget=3000 --window-size={width},2000 --dump-dom"
    assert CHROMIUM is not None
    done = subprocess.run(
        [CHROMIUM, *options.split(), f"--user-data-dir={profile}", copy.as_uri()],
        capture_output=True,
        text=True,
        timeout=300,
    )
    found = re.search(r"<title>(\{.*?\})</title>", done.stdout)
    assert found, done.stderr
    return dict(json.loads(found.group(1).replace("&amp;", "&").replace("&lt;", "<")))


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pages")
    sweep = write_sweep(folder / "fan", decay_fan(), plausible_loss)
    comparison = load_comparison([sweep])
    config = base(folder, "run")
    run = write_run(config, plausible_loss(decay_fan()[0]), until=10**9, status="interrupted")
    checked = RunConfig.model_validate(config)
    schedule = Schedule.resolve(checked.schedule, checked.train.seq_len)
    return {
        "report": write_report(run),
        "comparison": write_page(comparison, rank(comparison), folder / "compare.html"),
        "schedule": write_schedule(schedule, folder / "schedule.html", "run"),
    }


@pytest.mark.skipif(CHROMIUM is None, reason="no browser here")
@pytest.mark.parametrize("name", ["report", "comparison", "schedule"])
@pytest.mark.parametrize("width", [500, 1400])
def test_a_page_is_drawn(pages: dict[str, Path], name: str, width: int, tmp_path: Path) -> None:
    found = seen(pages[name], width, tmp_path / "profile")
    assert found["errors"] == []
    assert found["drawn"] == found["places"]
    assert found["not_numbers"] == 0
    assert isinstance(found["wide"], int)
    assert found["wide"] <= width, "nothing stands out on the right"
    assert isinstance(found["tips"], list)
    assert isinstance(found["kept"], list)
    before, *kept = found["kept"]
    assert before == 0
    assert len(kept) == (2 * 4 if name == "comparison" else 0)
    # Of twelve configurations, some lie in the upper half of each axis; a click frees them all.
    assert all(0 < left < 12 for left in kept[::2])
    assert not any(kept[1::2])
    assert len(found["tips"]) >= {"report": 5, "comparison": 60, "schedule": 3}[name]
