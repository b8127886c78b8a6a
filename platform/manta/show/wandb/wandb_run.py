"""One W&B run: opening, filling and closing it, in any process.

There are two ways to open it, so that the same history never shows twice:

- *online*, the run is resumed. The server says which W&B step comes next. W&B steps are the
run's steps, so exactly the rows that the server lacks are sent.
- *offline*, the run is begun anew and given its whole history. `wandb sync` of a run that
  was not resumed replaces what the server has, so the newest folder is all there is to
  upload, and uploading it twice does no harm. (Folders of *resumed* offline runs don't
  have this: W&B 0.31 shifts their steps behind those on the server.)
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, Field

from manta.config import ConfigError
from manta.config.metrics import EVALUATION, VAL_LOSS, in_wandb, of_evaluator
from manta.config.run import WandbSection
from manta.record.alert_record import RunAlert
from manta.record.number_format import bits_per_byte

Mode = Literal["online", "offline", "disabled"]
# Seconds; W&B's own limits are 90 s to open, and none to close. All can be set in the environment.
INIT_SECONDS = 20.0
FINISH_SECONDS = 30.0
LOCAL_SECONDS = 60.0
# Longest title of an alert that W&B accepts, in characters.
LONGEST_TITLE = 63
# Tokens and step of the checkpoint that evaluators have measured, in their rows; the first is the
# x-axis of what they found.
EVALUATED_TOKENS, EVALUATED_STEP = "eval/tokens", "eval/step"


class RunInfo(BaseModel):
    """The facts with which a W&B run is opened."""

    id: str
    name: str
    run_dir: Path
    section: WandbSection
    config: dict[str, Any]
    job_type: str | None = None
    step_metric: str | None = Field(default="tokens", description="x-axis of all rows")
    val_tokens_per_byte: float | None = Field(
        default=None, description="tokens a byte, to show a validation loss in bits a byte too"
    )
    alerts: int | None = Field(
        default=None, description="alerts that were told before; None if W&B is told of none"
    )
    best: dict[str, Literal["min", "max"]] = Field(
        default_factory=dict, description="metric → the value that the summary keeps: min or max"
    )


def find_mode(section: WandbSection) -> Mode:
    """Online if the user has credentials, else offline; never prompts for them.

    W&B looks for an API key in ``WANDB_API_KEY``, its settings files and netrc.

    Raises:
        ConfigError: if the config requires online and there are no credentials.
    """
    if section.mode in ("offline", "disabled"):
        return section.mode
    import wandb

    settings = wandb.setup(settings=wandb.Settings(silent=True)).settings
    if section.mode == "auto" and settings.mode in ("offline", "dryrun", "disabled"):
        return "disabled" if settings.mode == "disabled" else "offline"
    try:
        has_key = bool(wandb.login(prompt=False, verify=False))
    except wandb.errors.Error as error:
        has_key, why = False, f"W&B credentials can't be used: {error}"
    else:
        why = "no W&B API key was found"
    if section.mode == "online" and not has_key:
        raise ConfigError(
            f"wandb.mode = 'online': {why}; set WANDB_API_KEY or run 'wandb login', "
            "or use wandb.mode=auto, which logs offline without a key"
        )
    return "online" if has_key else "offline"


class Session:
    """An open W&B run."""

    def __init__(self, info: RunInfo, mode: Literal["online", "offline"]) -> None:
        """Open the run; may take up to `INIT_SECONDS` online.

        Raises:
            Exception: any error of the client that opens the run.
        """
        import wandb

        self._info = info
        self.mode = mode
        self._run: Any = wandb.init(
            id=info.id,
            name=info.name,
            project=info.section.project,
            entity=info.section.entity,
            group=info.section.group,
            job_type=info.job_type,
            tags=info.section.tags,
            mode=mode,
            resume="allow" if mode == "online" else None,
            reinit="create_new",
            dir=str(info.run_dir),
            settings=_settings(wandb, mode, info.section),
        )
        self._run.config.update(info.config, allow_val_change=True)
        if info.step_metric is not None:
            self._run.define_metric(info.step_metric, hidden=True)
            self._run.define_metric("*", step_metric=info.step_metric)
        for own in (EVALUATED_TOKENS, EVALUATED_STEP):
            self._run.define_metric(own, hidden=True)
        for metric, which in info.best.items():
            self._run.define_metric(
                in_wandb(metric), step_metric=info.step_metric, summary=f"{which},last"
            )
        self.folder = Path(self._run.settings.sync_dir)
        self.url: str | None = self._run.url if mode == "online" else None
        self.first_step: int = self._run.starting_step
        """The server has the rows before this step."""
        self._last = self.first_step
        self._passed = 0  # the last step of training in the rows so far
        self._evaluated: set[str] = set()  # metrics of evaluators that W&B knows
        self._pending = False

    def log(self, row: Mapping[str, Any]) -> None:
        """Send a row; a training and a validation row of one step become one in W&B.

        What evaluators found beside training comes later than its step: it is sent with the row
        that came before it, and drawn over the tokens of its own step.
        """
        if EVALUATION in row:
            self._log_evaluation(row)
            return
        self._passed = max(self._passed, row["step"])
        if row["step"] < self._last:
            return  # the server has it, or has a void row of this step: W&B's steps can't go back
        self._last = row["step"]
        values = {in_wandb(k): v for k, v in row.items() if k != "step" and v is not None}
        ratio, val_loss = self._info.val_tokens_per_byte, row.get(VAL_LOSS)
        if ratio is not None and val_loss is not None:
            values[in_wandb("bits_per_byte")] = bits_per_byte(val_loss, ratio)
        self._run.log(values, step=row["step"])
        self._pending = True

    def _log_evaluation(self, row: Mapping[str, Any]) -> None:
        if self._passed < self.first_step:
            return  # the server has it
        values = {in_wandb(k): v for k, v in row.items() if of_evaluator(k) and v is not None}
        for key in values.keys() - self._evaluated:
            self._run.define_metric(key, step_metric=EVALUATED_TOKENS)
            self._evaluated.add(key)
        self._last = max(self._last, self._passed)
        self._run.log(
            {**values, EVALUATED_TOKENS: row["tokens"], EVALUATED_STEP: row["step"]},
            step=self._last,
        )
        self._pending = True

    def say(self, line: str) -> None:
        """Add a line to the W&B run's log, if the config asks for one."""
        if self._info.section.console:
            print(line, flush=True)

    def alert(self, alert: RunAlert) -> None:
        """Raise an alert of W&B's, which tells its people; offline there is nobody to tell."""
        if self.mode != "online":
            return
        serious = alert.kind in ("diverged", "failed")
        self._run.alert(
            f"{alert.kind}: {self._info.name}"[:LONGEST_TITLE],
            alert.message,
            level="ERROR" if serious else "WARN",
            # W&B leaves out alerts that follow one of the same title within a minute.
            wait_duration=timedelta(milliseconds=1),
        )

    def show(self, media: Mapping[str, Any]) -> None:
        """Send tables and pages, with the newest row."""
        # Stage tables beside the run instead of in the user's home, so that an offline folder
        # is all that an upload needs.
        os.environ["WANDB_DATA_DIR"] = str(self.folder / "staged")
        self._run.log(dict(media), step=self.first_step)

    def summarise(self, summary: Mapping[str, Any]) -> None:
        """Add to the summary."""
        self._run.summary.update(dict(summary))

    @property
    def project_path(self) -> tuple[str, str]:
        """Entity and project name, as the server returned them."""
        return str(self._run.entity), str(self._run.project)

    def finish(self, summary: Mapping[str, Any], exit_code: int) -> None:
        """Close the run; takes up to `FINISH_SECONDS`.

        Raises:
            TimeoutError: if the server did not take everything in that time.
        """
        if self._pending:
            # W&B holds the last row open for more values of its step. Commit it now: later, it
            # would overwrite the summary's values of its metrics.
            self._run.log({}, step=self._last, commit=True)
        self._run.summary.update(dict(summary))
        self._run.finish(exit_code=exit_code)

    def remove_earlier(self) -> None:
        """Remove this run's older folders: their content is in this one, or uploaded."""
        for folder in self.folder.parent.glob(f"*run-*-{self._info.id}*"):
            if folder != self.folder and folder.is_dir() and not folder.is_symlink():
                shutil.rmtree(folder, ignore_errors=True)


def _settings(wandb: Any, mode: str, section: WandbSection) -> Any:
    """Settings of W&B's client: silent, with time limits, and without facts of the machine."""
    # Offline, the client waits only for this machine, which may be busy.
    opening = closing = LOCAL_SECONDS
    if mode == "online":
        opening = _seconds("WANDB_INIT_TIMEOUT", INIT_SECONDS)
        closing = _seconds("WANDB_FINISH_TIMEOUT", FINISH_SECONDS)
    return wandb.Settings(
        silent=True,
        console="wrap" if section.console else "off",
        init_timeout=opening,
        finish_timeout=closing,
        finish_timeout_raises=True,
        # Don't send the driver's machine and command line: they tell nothing about the
        # workers and may have secrets.
        x_disable_machine_info=not section.system,
        x_disable_meta=True,
        x_disable_stats=not section.system,
        x_save_requirements=False,
        disable_git=True,
        disable_code=True,
        save_code=False,
        disable_job_creation=True,
        program="manta",
        symlink=False,
    )


def _seconds(variable: str, default: float) -> float:
    """A time limit in seconds: the user's, from W&B's own variable, or the default."""
    try:
        return float(os.environ[variable])
    except (KeyError, ValueError):
        return default


def check() -> None:
    """The main function of the checking process: exits with 1 and the reason on a bad config."""
    try:
        find_mode(WandbSection.model_validate_json(sys.stdin.read()))
    except ConfigError as error:
        sys.exit(str(error))
