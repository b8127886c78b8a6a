"""Pairs of answers from chats: the one to the question that was asked, and one to another question.

    python jobs/preference/data.py [PAIRS.jsonl]

The chats are those of jobs/chat/data.py: what a function does, and how it is called. A model is to
prefer what it was asked for.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

CHATS, OUT = Path("corpora/chat.jsonl"), Path("corpora/pairs.jsonl")

Turns = list[dict[str, str]]


def main(out: Path) -> None:
    """Write the pairs of all chats, in their order."""
    if not CHATS.exists():
        sys.exit(f"{CHATS}: not there; make it first: python jobs/chat/data.py")
    chats = [json.loads(line)["messages"] for line in CHATS.read_text("utf-8").splitlines()]
    pairs = list(pairs_of(chats))
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text("".join(json.dumps(pair, ensure_ascii=False) + "\n" for pair in pairs), "utf-8")
    print(f"{out}: {len(pairs):,} pairs")


def pairs_of(chats: list[Turns]) -> Iterator[dict[str, object]]:
    """Two pairs for each chat with two questions: to each its answer, and that to the other."""
    for turns in chats:
        if len(turns) == 4:
            does, called = turns[1]["content"], turns[3]["content"]
            yield {"prompt": turns[:1], "chosen": does, "rejected": called}
            yield {"prompt": turns[:3], "chosen": called, "rejected": does}


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else OUT)
