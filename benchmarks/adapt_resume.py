"""A run that is killed in its middle and goes on with half the workers: Manta beside TRL.

    torchrun … benchmarks/adapt_resume.py FOLDER OUT RANKS ACCUMULATION

`adapt.py` calls it. Each system trains LoRA on the demo's chats with two workers, in full once;
then again, until all of its processes are killed between two checkpoints, and goes on by the same
command with one worker. As a process of `torchrun` it is TRL's SFTTrainer, with the batches and
the sampler that it has by itself. Of each step the loss is kept, and which samples it took.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil
import pyarrow.parquet as pq
from adapt_case import RANK, TASKS, Case, conversations

ROOT = Path(__file__).resolve().parents[1]
STEPS, KILLED_AFTER, CHECKPOINT_EVERY = 24, 15, 6
TASK, DEADLINE = TASKS["chat"], 600.0
ACCUMULATED = "TRL, accumulating 2 batches by hand"

Steps = dict[int, dict[str, Any]]  # loss and samples of each step


def resumed(folder: Path, peers: str) -> dict[str, dict[str, Any]]:
    """How each system goes on.

    Args:
        folder: what `adapt.py` made.
        peers: the Python that has TRL.
    """
    whole, broken = _manta(folder, "whole", 2), _manta(folder, "broken", 2, 1)
    found = {"Manta": _compared(whole, broken)}
    whole = _trl(peers, folder, "whole", [2])
    found["TRL, same command"] = _compared(whole, _trl(peers, folder, "same", [2, 1]))
    by_hand = _trl(peers, folder, "by_hand", [2, 1], accumulation=2)
    found[ACCUMULATED] = _compared(whole, by_hand)
    return found


def told(found: dict[str, dict[str, Any]]) -> str:
    """Markdown."""
    lines = [
        f"Two workers, all killed after step {KILLED_AFTER} of {STEPS}, a checkpoint every "
        f"{CHECKPOINT_EVERY}; it goes on with one.",
        "",
        "| | first step again | later steps with the same samples | largest difference of a loss "
        "| last loss, undisturbed and killed |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name, one in found.items():
        lines.append(
            f"| {name} | {one['again']} | {one['same']} of {one['later']} | "
            f"{one['difference']:.1e} | {one['whole']:.4f}, {one['broken']:.4f} |"
        )
    return "\n".join(lines) + "\n"


def _compared(whole: Steps, broken: Steps) -> dict[str, Any]:
    again = min(step for step, row in broken.items() if row["resumed"])
    later = [step for step in whole if step >= again and step in broken]
    return {
        "again": again,
        "later": STEPS - again + 1,
        "same": sum(whole[step]["samples"] == broken[step]["samples"] for step in later),
        "difference": max(
            abs(broken[step]["loss"] - whole[step]["loss"]) / whole[step]["loss"] for step in later
        ),
        "whole": whole[max(later)]["loss"],
        "broken": broken[max(later)]["loss"],
        "curves": {str(step): [whole[step]["loss"], broken[step]["loss"]] for step in later},
    }


def _until_step(command: Sequence[str], told_in: Path, step: int, log: Path) -> None:
    """Run a command until it has told of a step, then kill all of its processes."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with log.open("w") as out:
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=out, stderr=out)
    deadline = time.monotonic() + DEADLINE
    while process.poll() is None and time.monotonic() < deadline:
        if step and max(_rows(told_in), default=0) >= step:
            for one in [*psutil.Process(process.pid).children(recursive=True), process]:
                one.kill()
            process.wait()
            return
        time.sleep(0.02)
    if step or process.wait(1):
        raise RuntimeError(f"{' '.join(command)} ended:\n{log.read_text()[-3000:]}")


def _rows(path: Path) -> Steps:
    """The rows of a file that have a loss, by step; the last of each step."""
    if not path.exists():
        return {}
    lines = path.read_text().splitlines(keepends=True)
    rows = [json.loads(line) for line in lines if line.endswith("\n")]
    return {row["step"]: row for row in rows if "loss" in row}


# --------------------------------------------------------------------------------- Manta


def _manta(folder: Path, name: str, *workers: int) -> Steps:
    """A run by `manta train`, with that many workers until it is killed, and after that."""
    run = folder / "runs" / name
    tokens = TASK.length * TASK.rows
    overrides = [
        *(f"run.name={name}", f"run.storage={folder / 'runs'}"),
        *(f"corpus={folder / 'chat-packed'}", f"model.pretrained={folder / 'base'}"),
        *(f"model.adapter={{rank: {RANK}}}", f"schedule.lr={TASK.learning_rate}"),
        *(f"schedule.batch={TASK.rows}", f"schedule.horizon={tokens * STEPS}"),
        *(
            f"log.every={tokens}",
            f"checkpoint.every={tokens * CHECKPOINT_EVERY}",
            "eval.every=null",
        ),
    ]
    before = 0
    for index, count in enumerate(workers):
        last = index == len(workers) - 1
        many = [f"scaling.min={count}", f"scaling.max={count}"]
        command = [sys.executable, "-m", "manta.cli", "train", "jobs/chat/run.yaml"]
        command += [*overrides, *many]
        log = folder / f"manta-{name}-{index}.log"
        _until_step(command, run / "metrics.jsonl", 0 if last else KILLED_AFTER, log)
        if not last:
            states = [int(path.name.rpartition("-")[2]) for path in _checkpoints(run)]
            before = max(states)
    losses = _rows(run / "metrics.jsonl")
    ledger = pq.read_table(run / "ledger.parquet").to_pylist()
    digests = {row["step"]: row["digest"] for row in ledger}
    return {
        step: {
            "loss": row["loss"],
            "samples": digests[step],
            "resumed": len(workers) > 1 and step > before,
        }
        for step, row in losses.items()
    }


def _checkpoints(run: Path) -> list[Path]:
    return [path.parent for path in (run / "checkpoints").glob("step-*/state.json")]


# ----------------------------------------------------------------------------------- TRL


def _trl(peers: str, folder: Path, name: str, ranks: Sequence[int], accumulation: int = 1) -> Steps:
    """TRL with so many processes until it is killed, and after that."""
    out = folder / f"trl-{name}"
    out.mkdir()
    for index, count in enumerate(ranks):
        last = index == len(ranks) - 1
        accumulated = accumulation if index else 1
        command = [
            *(peers, "-m", "torch.distributed.run", f"--nproc-per-node={count}"),
            *("--master-port=29571", str(Path(__file__)), str(folder), str(out)),
            *(str(count), str(accumulated)),
        ]
        log = folder / f"trl-{name}-{index}.log"
        _until_step(command, out / "progress.jsonl", 0 if last else KILLED_AFTER, log)
    return _rows(out / "progress.jsonl")


def main(folder: Path, out: Path, ranks: int, accumulation: int) -> None:
    """One process of TRL's, which goes on from the newest checkpoint in `out`, if there is one."""
    import torch
    from adapt_trl import common, with_lora
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl import SFTConfig, SFTTrainer

    torch.set_num_threads(1)
    case = Case("chat", adapter=True, threads=1)
    rows = [{**row} for row in conversations(folder, case, 60)]
    resumes = any(out.glob("checkpoint-*"))
    rank, batches = int(os.environ["RANK"]), list[list[str]]()

    class Tell(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            # What each rank took: the loader is a batch ahead, so the step's own are counted.
            self.done = getattr(self, "done", 0) + 1
            mine = batches[(self.done - 1) * accumulation : self.done * accumulation]
            gathered: list[Any] = [None] * ranks
            if ranks > 1:
                torch.distributed.all_gather_object(gathered, mine)
            else:
                gathered = [mine]
            digests = sorted(one for of_rank in gathered for batch in of_rank for one in batch)
            self.samples = hashlib.sha256("".join(digests).encode()).hexdigest()

        def on_log(self, args: Any, state: Any, control: Any, logs: Any, **_: Any) -> None:
            if "loss" in logs and rank == 0:
                row = {"step": state.global_step, "loss": logs["loss"], "resumed": resumes}
                with (out / "progress.jsonl").open("a") as file:
                    file.write(json.dumps({**row, "samples": self.samples}) + "\n")

    lm = with_lora(AutoModelForCausalLM.from_pretrained(folder / "base", dtype=torch.float32))
    by_itself = ("train_sampling_strategy", "save_strategy")
    given = {k: v for k, v in common(case, TASK.samples // 2, STEPS).items() if k not in by_itself}
    given |= {"output_dir": str(out), "save_steps": CHECKPOINT_EVERY, "ddp_backend": "gloo"}
    trainer = SFTTrainer(
        model=lm,
        args=SFTConfig(max_length=TASK.length, gradient_accumulation_steps=accumulation, **given),
        train_dataset=Dataset.from_list(rows),
        processing_class=AutoTokenizer.from_pretrained(folder / "base"),
        callbacks=[Tell()],
    )
    collate = trainer.data_collator

    def noted(examples: list[dict[str, Any]]) -> Any:
        batches.append(
            [hashlib.sha256(str(one["input_ids"]).encode()).hexdigest() for one in examples]
        )
        return collate(examples)

    trainer.data_collator = noted
    trainer.train(resume_from_checkpoint=resumes or None)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
