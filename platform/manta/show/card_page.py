"""A model card as a page: one file that a browser shows, from the card's Markdown."""

from __future__ import annotations

from html import escape
from pathlib import Path

import manta
from manta.show.pages import page as html

FENCE = "---\n"


def write_card_page(card: str, path: Path) -> Path:
    """Write the page of a card to `path` atomically; returns `path`.

    Args:
        card: the card, with or without front matter.
        path: file to write.

    Raises:
        RunError: if it can't be written.
    """
    facts, text = _parts(card)
    title = next((line[2:] for line in text.splitlines() if line.startswith("# ")), "Model card")
    parts = [
        f'<div class="card wide">{rendered(text)}</div>',
        f'<div class="card"><pre>{escape(facts)}</pre></div>' if facts else "",
        html.footer(f"Manta {manta.__version__}, the model card of {title}"),
    ]
    html.write(path, f"{title} – Manta", "\n".join(filter(None, parts)), [], "--output")
    return path


def rendered(text: str) -> str:
    """Markdown as HTML; HTML in it is shown as text."""
    # Rich, by which Manta prints, brings this package.
    from markdown_it import MarkdownIt

    found: str = MarkdownIt("commonmark", {"html": False}).enable("table").render(text)
    return found


def _parts(card: str) -> tuple[str, str]:
    """The front matter of a card, and the rest."""
    if not card.startswith(FENCE):
        return "", card
    facts, _, text = card.removeprefix(FENCE).partition(f"\n{FENCE}")
    return facts, text
