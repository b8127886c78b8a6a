"""An arena in the terminal: pairs are shown one by one, and a key is a choice."""

from __future__ import annotations

from collections.abc import Sequence

from manta.govern.arena import CHOICE_KEYS, Arena, ArenaStanding, BlindPair
from manta.govern.arena_page import prompt_text


def ask(arena: Arena, pairs: Sequence[BlindPair]) -> None:
    """Ask for each pair that nobody chose of yet, until the end of input or ``q``."""
    known = arena.choices()
    asked = [pair for pair in pairs if not pair.same and pair.record.id not in known]
    keys = ", ".join(f"{key} {meaning}" for key, meaning in CHOICE_KEYS.items())
    for number, pair in enumerate(asked, start=1):
        print(f"\n── {number} of {len(asked)} ──\n{prompt_text(pair.record.content)}")
        for place, answer in enumerate(pair.answers, start=1):
            print(f"\n── answer {place} ──\n{answer}")
        if not _asked(arena, pair, f"\n{keys}, q ends: "):
            break
    print()


def _asked(arena: Arena, pair: BlindPair, question: str) -> bool:
    """Whether a choice was made and kept."""
    while True:
        try:
            said = input(question).strip()
        except (EOFError, KeyboardInterrupt):
            return False
        if said == "q":
            return False
        for key in CHOICE_KEYS:
            if said == key:
                arena.choose(pair.record.id, key)
                return True


def standing_lines(standings: Sequence[ArenaStanding]) -> list[str]:
    """A line for each two models."""
    if not standings:
        return ["no choices yet that compare all models"]
    return [
        f"{one.models[0]} is chosen over {one.models[1]} in {100 * one.rate.rate:.0f} % "
        f"({100 * one.rate.low:.0f} to {100 * one.rate.high:.0f} %): {one.rate.verdict} "
        f"({one.wins} won, {one.losses} lost, {one.ties} tied)"
        for one in standings
    ]
