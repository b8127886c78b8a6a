"""The page of a comparison: needs nothing else, and shows what is in the files."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from made_sweep import HORIZON, Made, base, decay_fan, plausible_loss, write_run, write_sweep

from manta.config.errors import RunError
from manta.show.compare.chart_style import SCALE, metric_colour
from manta.show.compare.comparison import Comparison
from manta.show.compare.comparison_charts import charts
from manta.show.compare.comparison_page import write_page
from manta.show.compare.ranking import Ranking, rank
from manta.show.compare.reading import load_comparison
from manta.show.compare.stage_tree import in_tree_order, tree
from manta.show.compare.verdict import sentences
from manta.show.pages.charts import PALE, Figure

EVIL = "</script><b>evil</b> & co"


class Text(HTMLParser):
    """Collects a page's visible text, tags and references."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.references: list[str] = []
        self.ids: list[str] = []
        self.text = ""
        self._hidden = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self._hidden = tag in ("script", "style")
        named = dict(attrs)
        self.references += [v for k in ("src", "href", "data", "action") if (v := named.get(k))]
        self.ids += [v for k, v in attrs if k == "id" and v]

    def handle_endtag(self, tag: str) -> None:
        self._hidden = False

    def handle_data(self, data: str) -> None:
        if not self._hidden:
            self.text += f" {data}"


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    trials = decay_fan()
    trials[-1].label = trials[-1].reason = EVIL
    folder = tmp_path_factory.mktemp("sweeps") / "fan"
    return write_sweep(folder, trials, plausible_loss, question=f"How long?\n{EVIL}")


@pytest.fixture(scope="module")
def compared(sweep: Path) -> tuple[Comparison, Ranking]:
    comparison = load_comparison([sweep])
    return comparison, rank(comparison)


@pytest.fixture(scope="module")
def page(compared: tuple[Comparison, Ranking], tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("pages") / "deep" / "compare.html"
    return write_page(*compared, path, top=5).read_text()


def chart(compared: tuple[Comparison, Ranking], title: str, top: int = 10) -> Figure:
    (found,) = [one for one in charts(*compared, top) if one["title"].startswith(title)]
    return found


def test_it_needs_nothing_else(page: str) -> None:
    found = Text(page)
    assert found.references == []
    assert not {"link", "img", "iframe", "object", "embed"} & set(found.tags)
    assert re.findall(r"https?://[^\s\"']*", page) == ["http://www.w3.org/2000/svg"]
    assert len(page) < 200_000


def test_text_from_files_is_never_markup(page: str) -> None:
    found = Text(page)
    assert "b" not in found.tags
    assert found.text.count(EVIL) >= 3
    figures = page.split('id="figures">')[1].split("</script>")[0]
    assert "evil" in figures
    assert "<" not in figures


def test_the_answer_is_on_it(page: str, compared: tuple[Comparison, Ranking]) -> None:
    text = " ".join(Text(page).text.split())
    for sentence in sentences(*compared):
        assert " ".join(sentence.text.split()) in text
    assert "within noise" in text
    assert "clear" in text


def test_the_standings_have_every_configuration_and_its_values(
    page: str, compared: tuple[Comparison, Ranking]
) -> None:
    comparison, ranking = compared
    text = " ".join(Text(page).text.split())
    assert f"{len(comparison.configurations) - 5} more" in text
    assert ranking.main is not None
    for entry in ranking.main.entries:
        assert f"{entry.estimate.mean:.4f} ± {entry.estimate.half:.4f}" in text
    for key in ("lr.peak", "lr.decay", "batch"):
        assert f" {key} " in text
    assert "1 diverged, 1 finished" in text
    assert "hidden_size: 768" in text


def test_a_place_for_each_chart(page: str, compared: tuple[Comparison, Ranking]) -> None:
    below = tree(*compared)
    assert below is not None
    drawn = [*charts(*compared, 5), below]
    assert [name for name in Text(page).ids if name.startswith("chart-")] == [
        f"chart-{number}" for number in range(len(drawn))
    ]
    titles = [one["title"].split(",")[0].split(":")[0] for one in drawn]
    assert titles == [
        "val_loss at the end",
        "val_loss over tokens",
        "val_loss over device-hours",
        "Learning rate over tokens",
        "Batch size over tokens (samples)",
        "Importance of each parameter",
        "Parameters and val_loss",
        "Stage tree",
    ]


def test_a_forked_trial_is_drawn_from_its_fork_on(compared: tuple[Comparison, Ranking]) -> None:
    comparison, _ = compared
    data = chart(compared, "val_loss over tokens")["data"]
    assert len(data) == len(comparison.trials)
    by_text = {trace["text"]: trace for trace in data}
    forked = by_text["flat batch, decay 20 %, peak 0.001, seed 1"]
    (trial,) = (t for t in comparison.trials if t.name == "flat-20-0.001-s1")
    assert forked["x"][0] == trial.fork_tokens
    assert forked["x"][-1] == HORIZON
    assert trial.curve is not None
    assert forked["y"][-1] == pytest.approx(trial.curve.values[-1], rel=1e-5)
    assert by_text["flat batch, decay 10 %, peak 0.001, seed 1"]["x"][0] == HORIZON // 100


def test_beyond_the_top_all_is_grey(compared: tuple[Comparison, Ranking]) -> None:
    data = chart(compared, "val_loss over tokens", top=3)["data"]
    named = {trace["name"] for trace in data if trace["color"] != PALE}
    assert len(named) == 3
    assert {trace["name"] for trace in data} - named == {"others"}
    assert sum(trace["legend"] for trace in data) == 4


def test_each_schedule_is_drawn_once(compared: tuple[Comparison, Ranking]) -> None:
    rates = chart(compared, "Learning rate")["data"]
    batches = chart(compared, "Batch size")["data"]
    assert (len(rates), len(batches)) == (6, 2)
    assert {max(trace["y"]) for trace in rates} == {1e-3, 3e-3}
    assert {trace["y"][-1] for trace in batches} == {64, 192}
    best = rates[-1]  # drawn last, on top
    assert best["name"].startswith("1  ")
    assert best["y"][-1] == 0


def test_parallel_axes_know_numbers_logarithms_and_words(
    compared: tuple[Comparison, Ranking], tmp_path: Path
) -> None:
    figure = chart(compared, "Parameters")
    axes = {axis["label"]: (row, axis["ticks"]) for row, axis in enumerate(figure["axes"])}
    assert [text for _, text in axes["lr.decay"][1]] == ["10%", "20%", "40%"]
    row, ticks = axes["lr.peak"]
    assert ticks == [[0, "0.001"], [1, "0.003"]]
    assert [line["at"][row] for line in figure["lines"]].count(0) == 6
    row, ticks = axes["val_loss"]
    best = figure["lines"][-1]  # drawn last, on top
    assert (best["at"][row], best["color"]) == (1, SCALE[0])
    assert best["text"].startswith("1  ")
    assert [share for share, _ in ticks] == [0, 0.25, 0.5, 0.75, 1]
    assert ticks[-1][1] == best["text"].split("\n")[1]
    trials = [
        Made(f"t{number}", "", {"schedule.lr.peak": 10.0**-number}, 0) for number in (2, 3, 4)
    ]
    comparison = load_comparison([write_sweep(tmp_path / "s", trials, plausible_loss)])
    figure = chart((comparison, rank(comparison)), "Parameters")
    assert figure["axes"][0]["ticks"] == [[0, "0.0001"], [0.5, "0.001"], [1, "0.01"]]
    assert sorted(line["at"][0] for line in figure["lines"]) == [0, 0.5, 1]


def test_the_tree_shows_own_stretches_forks_and_fates(compared: tuple[Comparison, Ranking]) -> None:
    comparison, ranking = compared
    below = tree(*compared)
    assert below is not None
    rows = in_tree_order(comparison.trials, ranking)
    assert sorted(trial.name for trial in rows) == sorted(t.name for t in comparison.trials)
    place = {trial.name: number for number, trial in enumerate(rows)}
    assert all(place[t.parent] < place[t.name] for t in rows if t.parent)
    bars = {bar["row"]: bar for bar in below["bars"]}
    for trial in rows:
        bar = bars[place[trial.name]]
        assert (bar["from"], bar["to"] - bar["from"]) == (trial.fork_tokens, trial.own_tokens)
    colour = {trial.value: bars[place[trial.name]]["color"] for trial in rows}
    assert colour[min(colour)] == SCALE[0]
    assert colour[max(colour)] == SCALE[2]
    assert len(set(colour.values())) > 10
    forks = {tuple(line["points"][1]) for line in below["lines"]}
    assert forks >= {(t.fork_tokens, place[t.name]) for t in rows if t.parent}
    signs = [(dot["shape"], dot["x"]) for dot in below["dots"]]
    assert signs.count(("bar", HORIZON * 9 // 10)) == 2, "paused"
    assert signs.count(("cross", HORIZON * 7 // 10)) == 1, "diverged"
    assert [name for name, *_ in below["legend"]] == ["shared with others", "diverged", "paused"]
    assert comparison.tokens is not None
    saved = comparison.tokens.apart / comparison.tokens.trained
    assert f"{saved:.2f} times as many" in below["note"]


def test_colours_are_mixed_between_best_and_worst() -> None:
    assert [metric_colour(value, 1.0, 3.0, "min") for value in (0, 1, 2, 3, 9)] == [
        SCALE[0],
        SCALE[0],
        SCALE[1],
        SCALE[2],
        SCALE[2],
    ]
    assert metric_colour(3.0, 1.0, 3.0, "max") == SCALE[0]
    assert metric_colour(2.5, 1.0, 3.0, "min") == "#749444"
    assert metric_colour(1.0, 1.0, 1.0, "min") == SCALE[0]


def test_many_trials_stay_readable_and_small(tmp_path: Path) -> None:
    trials = [
        Made(f"t{n:03d}", f"trial {n}", {"schedule.lr.peak": 1e-4 * (n + 1)}, 0) for n in range(110)
    ]
    for n, trial in enumerate(trials[1:]):
        trial.parent, trial.fork_tokens = "t000", HORIZON * (n % 9 + 1) // 10
    comparison = load_comparison([write_sweep(tmp_path / "s", trials, plausible_loss)])
    ranking = rank(comparison)
    page = write_page(comparison, ranking, tmp_path / "page.html").read_text()
    assert len(page) < 500_000
    assert "100 more" in page
    below = tree(comparison, ranking)
    assert below is not None
    assert below["rows"] == []
    assert below["height"] < 1200


def test_plain_runs_have_no_tree_and_no_page_without_room(tmp_path: Path) -> None:
    for name, wd in (("a", 0.1), ("b", 0.2)):
        config = base(tmp_path, name, optimizer={"weight_decay": wd})
        write_run(config, lambda tokens: 5 - tokens / HORIZON)
    comparison = load_comparison([tmp_path / "a", tmp_path / "b"])
    ranking = rank(comparison)
    assert tree(comparison, ranking) is None
    assert "One seed each" in chart((comparison, ranking), "val_loss at the end")["note"]
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match=r"can't be written: .* --output"):
        write_page(comparison, ranking, tmp_path / "file" / "compare.html")


def test_nothing_is_said_to_be_saved_where_nothing_is_shared(tmp_path: Path) -> None:
    trials = [Made(f"t{n}", f"trial {n}", {"schedule.lr.peak": 1e-3 * n}, 0) for n in (1, 2)]
    comparison = load_comparison([write_sweep(tmp_path / "s", trials, plausible_loss)])
    page = write_page(comparison, rank(comparison), tmp_path / "page.html").read_text()
    assert "1.00" not in Text(page).text
    assert "times" not in Text(page).text.partition("How to read this")[0]
