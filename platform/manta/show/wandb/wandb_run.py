"""One run of the W&B client, opened, filled and closed, in whatever process.

Two ways to open it, so that the same history never shows twice:

- *online*, the run is resumed. The server tells which W&B step comes next, W&B steps are
  our steps, so exactly the rows that the server lacks are sent.
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
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, Field

from manta.config import ConfigError
from manta.config.metrics import VAL_LOSS, in_wandb
from manta.config.run import WandbSection
from manta.record.number_format import bits_per_byte

Mode = Literal["online", "offline", "disabled"]
# W&B's own limits are 90 s and none. Theirs can be set in the environment; so can ours.
INIT_SECONDS = 20.0
FINISH_SECONDS = 30.0
LOCAL_SECONDS = 60.0


class RunInfo(BaseModel):
    """What W&B is told about the run when it is opened."""

    id: str
    name: str
    run_dir: Path
    section: WandbSection
    config: dict[str, Any]
    job_type: str | None = None
    step_metric: str | None = Field(default="tokens", description="what rows are drawn over")
    val_tokens_per_byte: float | None = Field(
        default=None, description="by which a validation loss is shown in bits a byte as well"
    )
    best: dict[str, Literal["min", "max"]] = Field(
        default_factory=dict, description="which value of a row's metric the summary keeps"
    )


def find_mode(section: WandbSection) -> Mode:
    """Online if the user has credentials, else offline; never asks for any.

    W&B looks for an API key in ``WANDB_API_KEY``, its settings files and netrc.

    Raises:
        ConfigError: if the config insists on online and there are no credentials.
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
            Exception: whatever the client raises if it can't.
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
        for metric, which in info.best.items():
            self._run.define_metric(
                in_wandb(metric), step_metric=info.step_metric, summary=f"{which},last"
            )
        self.folder = Path(self._run.settings.sync_dir)
        self.url: str | None = self._run.url if mode == "online" else None
        self.first_step: int = self._run.starting_step
        """Rows before this step are at the server."""
        self._last = self.first_step
        self._pending = False

    def log(self, row: Mapping[str, Any]) -> None:
        """Send a row; a training and a validation row of one step become one in W&B."""
        if row["step"] < self._last:
            return  # at the server, or void there since the run went back: W&B's steps can't
        self._last = row["step"]
        values = {in_wandb(k): v for k, v in row.items() if k != "step" and v is not None}
        ratio, val_loss = self._info.val_tokens_per_byte, row.get(VAL_LOSS)
        if ratio is not None and val_loss is not None:
            values[in_wandb("bits_per_byte")] = bits_per_byte(val_loss, ratio)
        self._run.log(values, step=row["step"])
        self._pending = True

    def say(self, line: str) -> None:
        """A line of the run's log in W&B, where the config asks for one."""
        if self._info.section.console:
            print(line, flush=True)

    def show(self, media: Mapping[str, Any]) -> None:
        """Send tables and pages, as the newest row."""
        # Tables are staged on the way: beside the run, not in the user's home, so that an
        # offline folder is all that is needed.
        os.environ["WANDB_DATA_DIR"] = str(self.folder / "staged")
        self._run.log(dict(media), step=self.first_step)

    def summarise(self, summary: Mapping[str, Any]) -> None:
        """Add to the summary."""
        self._run.summary.update(dict(summary))

    @property
    def place(self) -> tuple[str, str]:
        """Entity and project, as the server named them."""
        return str(self._run.entity), str(self._run.project)

    def finish(self, summary: Mapping[str, Any], exit_code: int) -> None:
        """Close the run; takes up to `FINISH_SECONDS`.

        Raises:
            TimeoutError: if the server did not take everything in that time.
        """
        if self._pending:
            # The last row is held open for more of its step: written later, it would
            # replace what the summary says of its metrics.
            self._run.log({}, step=self._last, commit=True)
        self._run.summary.update(dict(summary))
        self._run.finish(exit_code=exit_code)

    def remove_earlier(self) -> None:
        """Take away this run's older folders: what they hold is in this one or uploaded."""
        for folder in self.folder.parent.glob(f"*run-*-{self._info.id}*"):
            if folder != self.folder and folder.is_dir() and not folder.is_symlink():
                shutil.rmtree(folder, ignore_errors=True)


def _settings(wandb: Any, mode: str, section: WandbSection) -> Any:
    """Silent, bounded, and with nothing in it but what we give it."""
    # Offline there is only this machine to wait for, which may be busy.
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
        # The driver's machine and command line say nothing about the workers and may
        # hold secrets; what matters is in the run's config.
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
    """The user's own limit, set the way W&B documents it, or ours."""
    try:
        return float(os.environ[variable])
    except (KeyError, ValueError):
        return default


def check() -> None:
    """The whole of a process: exits with 1 and the reason if the config can't be followed."""
    try:
        find_mode(WandbSection.model_validate_json(sys.stdin.read()))
    except ConfigError as error:
        sys.exit(str(error))
