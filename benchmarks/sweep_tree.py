"""Manta's side of `sweep.py`: `manta sweep`, observed by the lines of `TrialLog`."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from sweep_log import TrialLog


def run(file: Path) -> None:
    """`manta sweep FILE`, in this process."""
    from manta.cli import main
    from manta.tune import run_sweep

    run_sweep.run_leg = observed_leg
    sys.argv = ["manta", "sweep", str(file)]
    main()


def observed_leg(config: dict[str, Any], coordinator: Any) -> None:
    """Manta's own leg, with a line when it begins and ends."""
    from manta.elastic.driver import trainer
    from manta.tune.leg import run_leg

    log = TrialLog(config["trial"])
    log.began()
    trainer.work = observed_work
    run_leg(config, coordinator)
    log.ended()


def observed_work(config: dict[str, Any]) -> None:
    """Manta's own work, with a line for each step and evaluation."""
    from manta.elastic.worker import mail_reporter, train_function
    from manta.train import loop

    log = TrialLog(config["assignment"].checked.config.run.name)
    stepped = mail_reporter.MailReporter.stepped

    def logged(self: Any, state: Any) -> None:
        log.stepped(state.tokens)
        stepped(self, state)

    mail_reporter.MailReporter.stepped = logged
    loop.evaluate = log.timed(loop.evaluate)
    train_function.train(config["assignment"])


if __name__ == "__main__":
    # By its name, so that Ray's processes import it instead of being sent a copy.
    from sweep_tree import run as run_by_name

    os.environ["OMP_NUM_THREADS"] = "1"
    run_by_name(Path(sys.argv[1]))
