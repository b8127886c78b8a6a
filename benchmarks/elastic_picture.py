"""Draws docs/elastic.svg from the two runs that `make demo-elastic` leaves.

    make demo-elastic && .venv/bin/python benchmarks/elastic_picture.py

Above, the loss of the undisturbed run, and over it that of the run whose workers come and go;
below, how many workers that one had at each step.
"""

from __future__ import annotations

from pathlib import Path

from manta import api

ROOT = Path(__file__).resolve().parents[1]
RUNS = ROOT / "runs"
OUT = ROOT / "docs" / "elastic.svg"
WIDTH, HEIGHT = 860, 300
LEFT, RIGHT, TOP, GAP, WORKERS = 68, 20, 34, 34, 44
LOSS = HEIGHT - TOP - GAP - WORKERS - 30  # height of the upper part
CALM, DISTURBED, BAR, TEXT, GRID = "#b9c2cf", "#1f5fd0", "#9db8e8", "#444b57", "#e4e7ec"
Points = list[tuple[float, float]]


def rows(run: str) -> tuple[list[int], list[float], list[int]]:
    """Tokens, loss and workers of each step of a run."""
    table = api.read_metrics(RUNS / run, "training")
    tokens, loss, workers = (table.column(n).to_pylist() for n in ("tokens", "loss", "world_size"))
    return tokens, loss, workers


def line(points: Points, colour: str, width: float) -> str:
    """A line through points."""
    where = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return f'<polyline points="{where}" fill="none" stroke="{colour}" stroke-width="{width}"/>'


def text(x: float, y: float, words: str, anchor: str = "start", colour: str = TEXT) -> str:
    """Words at a place."""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{colour}">{words}</text>'


def picture() -> str:
    """The whole SVG."""
    tokens, calm, _ = rows("demo-elastic-calm")
    same, disturbed, workers = rows("demo-elastic")
    assert tokens == same, "the two runs are not of the same steps"
    largest = max(abs(a - b) / a for a, b in zip(calm, disturbed, strict=True))
    print(f"{len(tokens)} steps, largest relative difference {largest:.1e}")
    low, high = min(calm), max(calm)

    def x(value: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * value / tokens[-1]

    def y(value: float) -> float:
        return TOP + LOSS * (high - value) / (high - low)

    parts = [f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>']
    for value in range(int(low) + 1, int(high) + 1):
        parts.append(line([(LEFT, y(value)), (WIDTH - RIGHT, y(value))], GRID, 1))
        parts.append(text(LEFT - 8, y(value) + 4, str(value), "end"))
    parts.append(line([(x(t), y(v)) for t, v in zip(tokens, calm, strict=True)], CALM, 6))
    parts.append(
        line([(x(t), y(v)) for t, v in zip(tokens, disturbed, strict=True)], DISTURBED, 1.6)
    )
    parts += [
        text(LEFT, 20, "training loss, nats a token"),
        text(WIDTH - RIGHT - 190, 20, "undisturbed", "end", "#8592a6"),
        text(WIDTH - RIGHT, 20, "workers come and go", "end", DISTURBED),
    ]
    return "\n".join([HEAD, *parts, *bars([0, *tokens], workers, x), "</svg>", ""])


HEAD = (
    f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
    'font-family="system-ui, sans-serif" font-size="13" role="img" '
    'aria-label="Loss over tokens of two runs, one on top of the other, and the workers of one">'
)


def bars(edges: list[int], workers: list[int], x) -> list[str]:  # type: ignore[no-untyped-def]
    """Workers over tokens: a bar for each stretch with as many."""
    bottom, unit = HEIGHT - 30, WORKERS / max(workers)
    parts, first = [text(LEFT - 8, bottom - WORKERS / 2 + 4, "workers", "end")], 0
    for step in range(1, len(workers) + 1):
        if step < len(workers) and workers[step] == workers[first]:
            continue
        left, right, height = x(edges[first]), x(edges[step]), unit * workers[first]
        parts.append(
            f'<rect x="{left:.1f}" y="{bottom - height:.1f}" width="{right - left:.1f}" '
            f'height="{height:.1f}" fill="{BAR}"/>'
        )
        parts.append(text((left + right) / 2, bottom - 8, str(workers[first]), "middle"))
        first = step
    total = f"{edges[-1] / 1000:.0f}K tokens"
    return [*parts, text(LEFT, HEIGHT - 10, "0"), text(WIDTH - RIGHT, HEIGHT - 10, total, "end")]


if __name__ == "__main__":
    OUT.write_text(picture())
    print(OUT.relative_to(ROOT))
