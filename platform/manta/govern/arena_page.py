"""The page of an arena: one file with blind pairs, on which people choose and save that."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from manta.govern.arena import CHOICE_KEYS, BlindPair
from manta.show.pages import page as html

SCRIPT = """
const key = 'manta-arena-' + document.getElementById('arena').dataset.key;
const kept = JSON.parse(localStorage.getItem(key) || '{}');
const said = document.getElementById('said');
function show() {
  const inputs = document.querySelectorAll('input[type=radio]');
  for (const one of inputs) one.checked = kept[one.name] === one.value;
  const all = new Set(Array.from(inputs, one => one.name)).size;
  said.textContent = Object.keys(kept).length + ' of ' + all + ' chosen';
}
document.addEventListener('change', event => {
  kept[event.target.name] = event.target.value;
  localStorage.setItem(key, JSON.stringify(kept));
  show();
});
document.getElementById('save').addEventListener('click', () => {
  const rows = Object.entries(kept).map(([id, choice]) => JSON.stringify({id, choice}) + '\\n');
  const link = document.createElement('a');
  link.href = URL.createObjectURL(new Blob(rows, {type: 'application/json'}));
  link.download = 'choices.jsonl';
  link.click();
});
show();
"""


def write_arena_page(pairs: Sequence[BlindPair], key: str, path: Path) -> Path:
    """Write the page to `path` atomically; it does not say whose answer stands where.

    Args:
        pairs: the pairs; those with the same answer twice are left out.
        key: text under which the browser keeps choices.
        path: file to write.

    Raises:
        RunError: if it can't be written.
    """
    shown = [pair for pair in pairs if not pair.same]
    lines = [
        "Choose the better answer of each two; whose it is, the page does not know.",
        "Save the choices, and give the file to manta arena with --choices.",
    ]
    parts = [
        html.header(f"{len(shown):,} blind pairs", "", lines),
        f'<div id="arena" data-key="{escape(key)}">',
        *map(_card, shown),
        '</div><p><button id="save">Save choices</button> <span id="said"></span></p>',
        f"<script>{SCRIPT}</script>",
    ]
    html.write(path, "Blind pairs – Manta", "\n".join(parts), [], "--page")
    return path


def _card(pair: BlindPair) -> str:
    answers = "".join(f"<td><pre>{escape(answer)}</pre></td>" for answer in pair.answers)
    name = escape(pair.record.id, quote=True)
    inputs = " ".join(
        f'<label><input type="radio" name="{name}" value="{choice}"> {escape(meaning)}</label>'
        for choice, meaning in CHOICE_KEYS.items()
    )
    return (
        f'<div class="card"><pre>{escape(prompt_text(pair.record.content))}</pre>'
        f'<div class="wide"><table><tr>{answers}</tr></table></div><p>{inputs}</p></div>'
    )


def prompt_text(content: dict[str, Any]) -> str:
    """A prompt for people: its text, or its conversation."""
    if (prompt := content.get("prompt")) is not None:
        return str(prompt)
    return "\n".join(f"{turn['role']}: {turn['content']}" for turn in content["messages"])
