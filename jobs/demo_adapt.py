"""From a base model to a chat model on one machine: chats, preferences, a smaller student.

    python jobs/demo_adapt.py [KEY=VALUE ...]

Trains the demo's base model if it isn't there, then three runs of the configs beside this file: an
adapter on chats made of docstrings (`jobs/chat`), another on pairs of answers (`jobs/preference`),
and a student that learns the answers from the result (`jobs/distill`). Overrides go to all three.
Shows how each validation loss fell, an answer before and after, and a page that compares the runs.
Started again it continues, or shows what is there.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "platform"))

from rich.console import Console  # noqa: E402

from manta.cluster.session import ray_session  # noqa: E402
from manta.config import CorpusConfig, MantaError, RunConfig, load  # noqa: E402
from manta.storage.run_folder import CONFIG, METRICS  # noqa: E402

BASE, CHAT, PREFERENCE, STUDENT = (
    Path("runs") / name for name in ("demo", "chat-lora", "preference-lora", "student")
)
QUESTION = "What does textwrap.dedent do?"
ADAPTER = "model.adapter={rank: 16}"
# The configs beside this file are for all weights; these runs train adapters, with more to move.
RUNS = {
    CHAT: ("chat", [ADAPTER, "schedule.lr.peak=3e-3"]),
    PREFERENCE: ("preference", [ADAPTER, f"model.pretrained={CHAT}", "schedule.horizon=200K"]),
    STUDENT: (
        "distill",
        [
            *("corpus=corpora/chat", f"objective.teacher={PREFERENCE}"),
            *("data.document_mask=true", "train.seq_len=256", "eval.tokens=40K"),
        ],
    ),
}
console = Console(highlight=False, soft_wrap=True)


def main(overrides: list[str]) -> None:
    """Run all of it and print what came of it."""
    began = time.time()
    if not (BASE / "model").exists():
        subprocess.run([sys.executable, str(ROOT / "jobs/demo.py")], check=True)
    with ray_session():
        for name in ("chat", "preference"):
            prepare_records(name)
        for run, (job, changes) in RUNS.items():
            train_run(run, job, [*changes, *overrides])
    show(time.time() - began)


def prepare_records(job: str) -> None:
    """The records of a job, made from real text, as a corpus."""
    from manta.corpus.prepare import prepare

    config = load(ROOT / "jobs" / job / "corpus.yaml", CorpusConfig)
    records = Path(config.sources[0].paths[0])
    if not records.exists():
        subprocess.run([sys.executable, str(ROOT / "jobs" / job / "data.py")], check=True)
    console.rule(f"manta prepare jobs/{job}/corpus.yaml")
    prepare(config)


def train_run(run: Path, job: str, changes: list[str]) -> None:
    """A run of a job's config."""
    from manta.elastic.checks.preflight import absolute, check, check_model
    from manta.elastic.driver.trainer import train

    given = [f"run.name={run.name}", f"run.storage={run.parent}", *changes]
    console.rule(f"manta train jobs/{job}/run.yaml {' '.join(given)}")
    config = load(ROOT / "jobs" / job / "run.yaml", RunConfig, given)
    train(check_model(check(absolute(config))))


def show(seconds: float) -> None:
    """What the reader came for."""
    from manta.show.compare.comparing import compare_places

    console.rule(f"before: {BASE}")
    console.print(before(), markup=False)
    for run in (CHAT, PREFERENCE, STUDENT):
        console.rule(f"after: {run}")
        console.print(answer(run), markup=False)
    # The page has all curves; that their losses mean different things is said on it.
    page = compare_places([str(run) for run in RUNS], metric=None, output=None, top=len(RUNS))
    console.rule(f"done in {seconds:.0f} s")
    for run in RUNS:
        first, last = losses(run)
        kind = load(run / CONFIG, RunConfig).objective.type
        console.print(f"{run.name:16} {kind:11} validation loss {first:.3f} → {last:.3f}")
    console.print(f"comparison       {page}")
    console.print(f"\nnext:\n  manta chat {PREFERENCE}\n  manta export {PREFERENCE} model --merge")


def before() -> str:
    """How the base model goes on where a chat model would answer."""
    from manta.train.export import generate

    asked = f"Question: {QUESTION}\nAnswer:"  # as jobs/chat/template.jinja has it
    return generate(BASE, asked, tokens=40, temperature=0.0, seed=0)


def answer(run: Path) -> str:
    """The answer of a run's model to the question."""
    from manta.train.chat_session import ChatSession

    session = ChatSession(run, system="", tokens=60, temperature=0.0, seed=0)
    session.answer(QUESTION, lambda piece: None)
    return f"{QUESTION}\n{session.messages[-1]['content']}"


def losses(run: Path) -> tuple[float, float]:
    """Validation loss at a run's start and end."""
    rows = [json.loads(line) for line in (run / METRICS).read_text().splitlines()]
    found = [row["val_loss"] for row in rows if "val_loss" in row]
    return found[0], found[-1]


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except MantaError as error:
        sys.exit(f"error: {error}")
