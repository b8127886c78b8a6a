"""The page of a sweep that runs: browsers load it again, until the sweep has ended."""

from __future__ import annotations

import threading
from pathlib import Path

import made_sweep
from made_sweep import trial

from manta.show.compare.live_page import LivePage

REFRESH = '<meta http-equiv="refresh" content="1">'


def test_it_is_written_on_the_way_and_stands_still_at_the_end(tmp_path: Path) -> None:
    trials = [trial("a", 1e-3), trial("b", 3e-3, until=made_sweep.HORIZON // 2, status="running")]
    folder = made_sweep.write_sweep(
        tmp_path / "s", trials, lambda made: made_sweep.ends_at(2.0), status="running"
    )
    written, pages = threading.Event(), list[str]()

    def wrote(page: Path) -> None:
        pages.append(page.read_text())
        written.set()

    with LivePage(folder, wrote):
        pass
    assert not pages, "a sweep that is over at once costs no page"
    with LivePage(folder, wrote, every=0.01):
        assert written.wait(60)
    assert REFRESH in pages[0]
    assert "running" in pages[0]
    assert REFRESH not in pages[-1]
    assert (folder / "compare.html").read_text() == pages[-1]


def test_it_comes_once_there_is_something_to_compare(tmp_path: Path) -> None:
    def write(status: str) -> Path:
        made = [trial("a", 1e-3, status=status)]
        return made_sweep.write_sweep(tmp_path / "s", made, lambda made: made_sweep.ends_at(2.0))

    folder, written = write("waiting"), threading.Event()
    with LivePage(folder, lambda page: written.set(), every=0.01):
        write("finished")
        assert written.wait(60)
