"""What people are told of while they don't look, and how: a command of theirs, and W&B's alerts."""

from __future__ import annotations

import os
import shlex
import shutil
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from pydantic import Field, field_validator

from manta.config.errors import ConfigError
from manta.config.on_change import OnChange
from manta.config.section import Section

S = TypeVar("S", bound="AlertCommandSection")


class AlertCommandSection(Section):
    """A command that is run for each alert."""

    command: list[str] = Field(
        default_factory=list,
        description="command and its arguments, as a list or a text, run without a shell for each "
        "alert, which it gets as JSON on standard input and in variables MANTA_ALERT_*",
    )
    timeout: float = Field(
        default=30.0, gt=0, description="seconds after which the command is ended"
    )

    @field_validator("command", mode="before")
    @classmethod
    def _words_of_a_text(cls, value: Any) -> Any:
        """The words of a text as a shell would split it; anything else as it is."""
        if not isinstance(value, str):
            return [] if value is None else value
        words = shlex.split(value)
        if not words:
            raise ValueError("give a command, such as ./alert.sh, or leave it out")
        return words


class AlertsSection(AlertCommandSection):
    """Alerts of a run: each is told once for its cause, also over restarts."""

    on_change: ClassVar[OnChange] = OnChange.LABEL

    stall: float | None = Field(
        default=None,
        gt=0,
        description="seconds without a new step, for whatever reason, that are an alert; if left "
        "out, only workers that hang are",
    )
    wandb: bool = Field(default=True, description="send W&B's alerts, too, where W&B is online")


def with_absolute_command(section: S, folder: Path) -> S:
    """The section with an absolute path of the command, if that is a path; it is in `folder`."""
    words = section.command
    if not words or not _is_path(words[0]):
        return section
    path = os.path.normpath((folder / Path(words[0]).expanduser()).absolute())
    return section.model_copy(update={"command": [path, *words[1:]]})


def check_command(section: AlertCommandSection, where: str = "alerts.command") -> None:
    """Refuse a command that can't be run.

    Args:
        section: the section.
        where: file and key, for the message.

    Raises:
        ConfigError: naming the remedy.
    """
    words = section.command
    if not words or shutil.which(words[0]) is not None:
        return
    name = words[0]
    if os.path.isfile(name):
        raise ConfigError(f"{where} = '{name}': the file can't be executed: chmod +x {name}")
    if _is_path(name):
        raise ConfigError(f"{where} = '{name}': there is no such file; give the path of a command")
    raise ConfigError(
        f"{where} = '{name}': no such command is found on PATH; install it, or give its path, "
        f"such as ./{name}"
    )


def _is_path(word: str) -> bool:
    return "/" in word
