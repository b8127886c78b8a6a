"""Which of the demo's models should ship? Base, chat and distilled model through one gate.

    python jobs/demo_evaluate.py [KEY=VALUE ...]

Makes the models by jobs/demo_adapt.py if they aren't there. Evaluates each by jobs/ship/eval.yaml
(which the overrides change), compares them with the base example by example, asks the gate of
jobs/ship/gate.yaml, weighs quality against cost on a page, and promotes the smallest model that
passed into a registry. Models that were evaluated by the same config are not evaluated again.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "platform"))

from rich.console import Console  # noqa: E402

from manta.config import MantaError  # noqa: E402
from manta.storage.run_folder import CHECKPOINTS  # noqa: E402

EVALUATION = ROOT / "jobs/ship/eval.yaml"
RUNS = Path("runs")
MODELS = BASE, CHAT, STUDENT = tuple(RUNS / name for name in ("demo", "chat-lora", "student"))
REGISTRY, NAME = RUNS / "registry", "demo-chat@champion"
COMPARISON, ECONOMICS = RUNS / "demo-evaluate.html", RUNS / "demo-economics.html"
console = Console(highlight=False, soft_wrap=True)


def main(overrides: list[str]) -> None:
    """Run all of it and print what came of it."""
    from manta.config.load_evaluation import load_evaluation

    began = time.time()
    if not all((model / CHECKPOINTS).exists() for model in MODELS):
        subprocess.run([sys.executable, str(ROOT / "jobs/demo_adapt.py")], check=True)
    name = load_evaluation(EVALUATION, overrides).name
    for model in MODELS:
        console.rule(f"manta evaluate {model} jobs/ship/eval.yaml")
        evaluate_once(model, overrides)
    compare(name)
    ask_gate(name)
    smallest = weigh(name)
    if smallest is not None:
        promote(smallest)
    console.rule(f"done in {time.time() - began:.0f} s")
    console.print(f"comparison  {COMPARISON}\neconomics   {ECONOMICS}")
    console.print(f"\nnext:\n  manta models --registry {REGISTRY}\n  manta audit {STUDENT}")


def evaluate_once(model: Path, overrides: list[str]) -> None:
    """Evaluate a model in a process of its own, unless its checkpoint was by the same config.

    Peak memory is that of the process, so that two models in one would share it.
    """
    from manta.config.load_evaluation import load_evaluation
    from manta.record.evaluation_record import evaluations_of
    from manta.show.evaluations.evaluation_lines import print_evaluation
    from manta.state.checkpoint_files import newest, read_state

    config = load_evaluation(EVALUATION, overrides)
    asked = (config.name, config.model_dump(mode="json"))
    step = read_state(newest(model / CHECKPOINTS)).step
    for record in evaluations_of(model).values():
        if (record.name, record.config) == asked and record.model.step == step:
            print_evaluation(record, console)
            return
    words = ["evaluate", str(model), str(EVALUATION), *overrides]
    subprocess.run([sys.executable, "-m", "manta.cli", *words], check=True)


def compare(name: str) -> None:
    """The chat model and the student against the base, example by example."""
    from manta.record.evaluation_record import find_evaluation
    from manta.show.evaluations.paired_comparison import compare_evaluations
    from manta.show.evaluations.paired_lines import print_comparisons
    from manta.show.evaluations.paired_page import write_paired_page

    console.rule(f"manta compare {' '.join(map(str, MODELS))} --evaluation {name}")
    found = compare_evaluations([find_evaluation(model, name) for model in MODELS])
    print_comparisons(found, console)
    write_paired_page(found, COMPARISON)


def ask_gate(name: str) -> None:
    """The gate's decision on each model."""
    from manta.config.gate import load_gate
    from manta.evaluate.gate_decision import decide

    gate = load_gate(ROOT / "jobs/ship/gate.yaml", [f"baseline={CHAT}"])
    for model in MODELS:
        console.rule(f"manta gate {model} jobs/ship/gate.yaml")
        decision = decide(model, gate, name)
        for check in decision.checks:
            mark = "passed" if check.passed else "FAILED"
            console.print(f"{mark}  {check.metric}: {check.asked}; found {check.found}")
        console.print(f"gate {decision.name}: {'passed' if decision.passed else 'failed'}")


def weigh(name: str) -> Path | None:
    """The folder of the smallest model that passed; None if none did."""
    from manta.govern.economics import economics_of
    from manta.govern.economics_page import print_economics, write_economics_page

    console.rule(f"manta economics {' '.join(map(str, MODELS))} --quality answers/success")
    found = economics_of(list(MODELS), name, quality="answers/success")
    print_economics(found, console)
    write_economics_page(found, ECONOMICS)
    places = {model.name: Path(model.place) for model in found.models}
    return places.get(found.smallest)


def promote(model: Path) -> None:
    """Put a model into the registry, as the champion."""
    from manta.govern.promotion import promote as put
    from manta.record.model_registry import ModelRegistry

    console.rule(f"manta promote {model.name} {NAME} --registry {REGISTRY}")
    found = put(model, None, NAME, ModelRegistry.at(str(REGISTRY)), tell=print)
    version = found.version
    console.print(f"registry:{REGISTRY}/{NAME} is version {version.version}: {version.source}")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except MantaError as error:
        sys.exit(f"error: {error}")
