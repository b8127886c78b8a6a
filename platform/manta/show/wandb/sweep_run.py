"""A sweep's own W&B run: all of its trials in one table, written when the sweep ends.

As for a run, the client is a separate process with a time limit: a W&B server that hangs or
can't be reached costs the sweep only a message.
"""

from __future__ import annotations

import secrets
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

from manta.config.credentials import without_credentials
from manta.config.errors import MantaError
from manta.config.run import WandbSection
from manta.record.sweep_state import SweepState, SweepWandb, read_sweep, write_sweep
from manta.show.wandb.sweep_report import try_report
from manta.show.wandb.sweep_tables import figures_of, tree_page, trial_table
from manta.show.wandb.upload_process import serve
from manta.show.wandb.uploader import LONGEST_FINISH, WandbLog
from manta.show.wandb.wandb_run import RunInfo, Session
from manta.storage.exclusive import RunLock
from manta.storage.run_folder import COMPARISON

JOB_TYPE = "sweep"
START = "from manta.show.wandb.sweep_run import main; main()"
REMEDY = "the sweep is not affected; give the same command again to send its summary to W&B."


def show_sweep(
    folder: Path,
    section: WandbSection,
    say: Callable[[str], None],
    limit: float = LONGEST_FINISH,
) -> None:
    """Write or update the sweep's W&B run. Errors of W&B are told, not raised.

    Args:
        folder: folder of the sweep, which has ended for now.
        section: the config's W&B section: project, entity, mode.
        say: takes one line to show to people.
        limit: most seconds to wait for W&B.
    """
    if section.mode == "disabled":
        return
    try:
        lock = RunLock(folder)
        try:
            _show(folder.absolute(), section, say, limit)
        finally:
            lock.release()
    except (MantaError, OSError) as error:
        say(f"the sweep can't be shown in W&B: {error}")


def _show(folder: Path, section: WandbSection, say: Callable[[str], None], limit: float) -> None:
    state = read_sweep(folder)
    known = state.wandb or SweepWandb(id=secrets.token_hex(4))
    state.wandb = known
    write_sweep(folder, state)  # record the W&B id first, so that it stays whatever happens now
    log = WandbLog(_info(folder, section, state, known.id), START, REMEDY)
    log.finish({}, exit_code=0 if state.status == "finished" else 1, limit=limit)
    status = log.status
    state.wandb = SweepWandb(
        id=known.id,
        mode=status.mode,
        url=status.url or known.url,
        folder=status.folder,
        sync_command=sync_command(folder) if status.mode == "offline" else None,
        report=status.page or known.report,
    )
    write_sweep(folder, state)
    for line in [*log.messages(), *_lines(state.wandb)]:
        say(line)


def sync_command(folder: Path) -> str:
    """The shell command that uploads an offline sweep: its trials and its summary."""
    here, runs = shlex.quote(str(folder)), "wandb/offline-run-*"
    return f"wandb sync {here}/{runs} {here}/*/{runs}"


def _info(folder: Path, section: WandbSection, state: SweepState, id: str) -> RunInfo:
    base = dict(state.base)
    if isinstance(base.get("corpus"), str):
        base["corpus"] = without_credentials(base["corpus"])
    about = {"name": state.name, "question": state.question}
    compared = {"metric": state.metric, "mode": state.mode}
    return RunInfo(
        id=id,
        name=state.name,
        run_dir=folder,
        section=section,
        config={"sweep": {**about, **compared}, "base": base},
        job_type=JOB_TYPE,
        step_metric=None,
    )


def _lines(wandb: SweepWandb) -> list[str]:
    if wandb.mode == "online" and wandb.url:
        return [f"W&B: {wandb.url}", *([f"W&B report: {wandb.report}"] if wandb.report else [])]
    if wandb.sync_command:
        return [f"W&B: offline; upload with: {wandb.sync_command}"]
    return []


class SweepSource:
    """Fills the W&B run once, in the client's process, from the sweep's files."""

    def __init__(self, info: RunInfo) -> None:
        self._info = info
        self._sent = False
        self.page: str | None = None

    def send(self, session: Session) -> None:
        """Send the table, the tree and the comparison. Harmless when called again."""
        if self._sent:
            return
        self._sent = True
        state, folder = read_sweep(self._info.run_dir), self._info.run_dir
        table = trial_table(folder, state)
        session.show(_media(folder, state, table.columns, table.rows))
        session.summarise(figures_of(state, table))
        if session.mode == "online":
            known = state.wandb.report if state.wandb else None
            self.page = try_report(state, self._info, session.project_path, session.url, known)
            if self.page is not None:
                session.summarise({"report": self.page})


def _media(folder: Path, state: SweepState, columns: Any, rows: Any) -> dict[str, Any]:
    import wandb

    media = {
        "trials": wandb.Table(columns=list(columns), data=[list(row) for row in rows]),
        "tree": wandb.Html(tree_page(state), inject=False, data_is_not_path=True),
    }
    if (folder / COMPARISON).is_file():
        media["comparison"] = wandb.Html(str(folder / COMPARISON), inject=False)
    return media


def main() -> None:
    """Serve the driver of a sweep at the other end of the pipes."""
    serve(SweepSource)
