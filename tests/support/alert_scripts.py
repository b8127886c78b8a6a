"""A command that keeps what it is told of alerts, for tests to read back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def alert_script(folder: Path) -> Path:
    """A command that appends each alert to a file beside it; `told` reads them."""
    path = folder / "alert.sh"
    lines = [
        "#!/bin/sh",
        'cat >> "$0.told"',
        'echo "$MANTA_ALERT_KIND $MANTA_ALERT_NAME" >> "$0.kinds"',
    ]
    path.write_text("\n".join(lines) + "\n")
    path.chmod(0o755)
    return path


def told(script: Path) -> list[dict[str, Any]]:
    """The alerts that the command was given, in their order."""
    file = Path(f"{script}.told")
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def kinds(script: Path) -> list[str]:
    """Kind and name of each alert, as the command's variables had them."""
    return Path(f"{script}.kinds").read_text().splitlines()
