"""Each type of causal language model of Transformers: is it trained right, or refused with reason?

    make models                                  # all types, some 10 minutes; writes docs/models.md
    make models ARGS="--types mixtral bert"      # these types alone: their rows on the page

Each type is made small, given to the same checks as any run, and trained for some steps, in a
process of its own; what was trained is then looked at (`model_survey`). The exit code is 1 if a
type was taken that isn't trained right, or refused for what it doesn't do.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path

import models_page
import torch
from model_survey import look_at, make_corpus
from models_page import Found
from small_models import TYPES

PAGE = Path(__file__).resolve().parents[2] / "docs/models.md"
SECONDS = 180.0


def main() -> int:
    """Look at all types, or some; returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--types", nargs="+", choices=TYPES, default=TYPES, metavar="TYPE")
    options = parser.parse_args()
    found = []
    with tempfile.TemporaryDirectory(prefix="models", dir="/tmp") as name:
        corpus = make_corpus(Path(name))
        for model_type in options.types:
            began = time.monotonic()
            found.append(apart(model_type, corpus))
            print(f"{found[-1].line()}  ({time.monotonic() - began:.1f} s)", flush=True)
    others = [] if options.types == TYPES else models_page.read(PAGE.read_text(encoding="utf-8"))
    rows = {one.type: one for one in [*others, *found]}
    PAGE.write_text(models_page.page([rows[name] for name in sorted(rows)]), encoding="utf-8")
    wrong = [one for one in found if one.wrong]
    print(f"{len(found)} types, {len(wrong)} wrong: {', '.join(o.type for o in wrong) or 'none'}")
    return 1 if wrong else 0


def apart(model_type: str, corpus: Path) -> Found:
    """What is found of a type in a process of its own."""
    context = multiprocessing.get_context("fork")  # its imports are done
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_tell, args=(model_type, corpus, theirs))
    process.start()
    theirs.close()
    try:
        found: Found = ours.recv() if ours.poll(SECONDS) else None
    except EOFError:
        found = Found(model_type, untried=f"its process died ({process.exitcode})")
    process.kill()
    process.join()
    return found or Found(model_type, untried=f"it takes more than {SECONDS:.0f} s")


def _tell(model_type: str, corpus: Path, answers: Connection) -> None:
    torch.set_num_threads(1)
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    answers.send(look_at(model_type, corpus))


if __name__ == "__main__":
    sys.exit(main())
