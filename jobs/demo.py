"""The demo, on one machine: prepare a corpus, train, export, generate.

    python jobs/demo.py [KEY=VALUE ...]

Overrides change jobs/demo/run.yaml. A second start continues the run, or shows its results again.
"""

from __future__ import annotations

import json
import shutil
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "platform"))

from rich.console import Console  # noqa: E402

from manta.cluster.session import ray_session  # noqa: E402
from manta.config import CorpusConfig, MantaError, RunConfig, load  # noqa: E402

console = Console(highlight=False)


def main(overrides: list[str]) -> None:
    """Run the demo and print its results."""
    began = time.time()
    corpus = load(ROOT / "jobs/demo/corpus.yaml", CorpusConfig)
    run = load(ROOT / "jobs/demo/run.yaml", RunConfig, overrides)
    with ray_session():
        prepare_and_train(corpus, run)
    run_dir = Path(run.run.storage) / run.run.name
    model = export_anew(run_dir)
    show(run_dir, model, time.time() - began)


def prepare_and_train(corpus: CorpusConfig, run: RunConfig) -> None:
    """Prepare and train on the same Ray."""
    from manta.corpus.prepare import prepare
    from manta.elastic.checks.preflight import absolute, check, check_model
    from manta.elastic.driver.trainer import train

    console.rule("manta prepare jobs/demo/corpus.yaml")
    prepare(corpus)
    console.rule("manta train jobs/demo/run.yaml")
    checked = check_model(check(absolute(run)))
    train(checked)


def export_anew(run_dir: Path) -> Path:
    """The newest model of the run as a Hugging Face folder."""
    from manta.show.model_card import CARD, model_card
    from manta.train.export import export

    out = run_dir / "model"
    if out.exists():
        shutil.rmtree(out)
    return export(run_dir, out, beside={CARD: model_card(run_dir)})


def show(run_dir: Path, model: Path, seconds: float) -> None:
    """Print generated text, losses, and where the files are."""
    from manta.train.export import generate

    rows = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    losses = [row["val_loss"] for row in rows if "val_loss" in row]
    console.rule("the model continues 'def '")
    console.print(generate(model, "def ", tokens=60, temperature=0.7, seed=0), markup=False)
    console.rule(f"done in {seconds:.0f} s")
    console.print(f"validation loss  {losses[0]:.3f} → {losses[-1]:.3f} nats per token")
    console.print(f"report           {run_dir / 'report.html'}", soft_wrap=True)
    console.print(f"W&B files        {run_dir / 'wandb'}", soft_wrap=True)
    console.print(f"exported model   {model}", soft_wrap=True)
    console.print(
        f"""
next:
  manta schedule jobs/demo/run.yaml
  manta train jobs/demo/run.yaml run.name=demo-cosine \\
    'schedule.lr={{name: cosine, peak: 3e-3, warmup: 5%}}'
  manta generate {run_dir} "class "
(manta is .venv/bin/manta unless the environment is active)""",
        soft_wrap=True,
    )


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except MantaError as error:
        sys.exit(f"error: {error}")
