"""What is sent with a job: code and configs, never data, in a folder laid out like a checkout.

Of a checkout, `platform/`, `jobs/` and `tune_spaces/` are sent as they are on the disk, without
what `.gitignore` and `.rayignore` name; of an installed Manta, the package is sent. Of the user's
own files only those are sent that make up the config.
"""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from manta.cluster.session import PACKAGE
from manta.config.errors import ConfigError

CODE = ("platform", "jobs", "tune_spaces")
CONFIGS = "configs"  # folder of the user's files from outside the checkout
# Ignore files are followed here, not sent: Ray would follow them too, and drop a config they name.
NEVER = {".git", "__pycache__", ".gitignore", ".rayignore"}
# Manta's own code is less than one MB. More than LARGE bytes was probably not meant to be sent;
# LARGEST is Ray's own limit.
LARGE = 20 * 2**20
LARGEST = 500 * 2**20

Excluded = Callable[[Path], bool]


@dataclass(frozen=True)
class Package:
    """A folder to be sent as the working directory of a job.

    Attributes:
        folder: path of the folder.
        script: arguments for Python to run the job: a path in the folder, or ``-m`` and a module.
        files: number of files.
        bytes: total size of the files.
        largest: the largest folders, with their sizes in bytes.
        placed: path of each config in the folder.
    """

    folder: Path
    script: tuple[str, ...]
    files: int
    bytes: int
    largest: list[tuple[str, int]]
    placed: Mapping[Path, Path] = field(default_factory=dict)

    @property
    def is_large(self) -> bool:
        """Whether the folder holds more than code and configs would take."""
        return self.bytes > LARGE

    def described(self) -> str:
        """The folder's size and number of files, to print."""
        return f"{self.bytes / 2**20:.1f} MB of code and configs in {self.files} files"


def checkout() -> Path | None:
    """The checkout that this package lies in; None if it is installed."""
    root = PACKAGE.parents[1]
    return root if (root / "jobs" / "train.py").is_file() else None


def pack(into: Path, command: str, configs: list[Path], extra: Mapping[str, str]) -> Package:
    """Copy into the empty folder `into` what a job needs.

    Args:
        command: Manta's command: train, sweep, tune, prepare or evaluate.
        configs: the config file and those that it refers to.
        extra: texts of small files at the top, by name.

    Raises:
        ConfigError: if the folder is larger than Ray accepts, naming its largest folders.
    """
    root = checkout()
    if root is None:
        _copy(PACKAGE.parent, ["manta"], into)
        script: tuple[str, ...] = ("-m", "manta.cli", command)
    else:
        _copy(root, [name for name in CODE if (root / name).is_dir()], into)
        script = (f"jobs/{command}.py",)
    placed = _place(configs, root, into)
    for name, text in extra.items():
        (into / name).write_text(text)
    package = _measured(into, script, placed)
    if package.bytes > LARGEST:
        raise ConfigError(
            f"{package.described()} are more than the {LARGEST / 2**20:.0f} MB that Ray accepts: "
            f"{advice(package)}"
        )
    return package


def advice(package: Package) -> str:
    """What to do about a large package."""
    listed = ", ".join(f"{name} ({size / 2**20:.1f} MB)" for name, size in package.largest)
    return (
        f"the largest folders are {listed}; data belongs on storage that the nodes share: move it "
        f"out of {', '.join(CODE)}, or name it in .gitignore or .rayignore"
    )


def _copy(root: Path, names: list[str], into: Path) -> None:
    excluded = list(_excludes(root))
    for name in names:
        for path in _walk(root / name, excluded):
            target = into / path.relative_to(root)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, target)


def _walk(folder: Path, excluded: list[Excluded]) -> Iterator[Path]:
    """The files below a folder that the ignore files don't exclude, as `ray job submit` has it."""
    excluded = [*excluded, *_excludes(folder)]
    for path in sorted(folder.iterdir()):
        if path.name in NEVER or any(matches(path) for matches in excluded):
            continue
        if path.is_dir() and not path.is_symlink():
            yield from _walk(path, excluded)
        elif path.is_file():
            yield path


def _excludes(folder: Path) -> Iterator[Excluded]:
    # Ray's own function, so that the same is sent as with `ray job submit --working-dir .`
    from ray._private.runtime_env.packaging import get_excludes_from_ignore_files

    yield from get_excludes_from_ignore_files(folder, include_gitignore=True)


def _place(configs: list[Path], root: Path | None, into: Path) -> dict[Path, Path]:
    """Copy the configs: those of the checkout to the same path, others into `CONFIGS`."""
    inside = [path for path in configs if root is not None and path.is_relative_to(root)]
    outside = [path for path in configs if path not in inside]
    placed = {path: path.relative_to(root) for path in inside if root is not None}
    if outside:
        above = Path(os.path.commonpath([path.parent for path in outside]))
        placed |= {path: CONFIGS / path.relative_to(above) for path in outside}
    for path, place in placed.items():
        (into / place).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, into / place)
    return placed


def _measured(folder: Path, script: tuple[str, ...], placed: Mapping[Path, Path]) -> Package:
    sizes: Counter[str] = Counter()
    files = [path for path in folder.rglob("*") if path.is_file()]
    for path in files:
        sizes[str(path.parent.relative_to(folder))] += path.stat().st_size
    return Package(
        folder=folder,
        script=script,
        files=len(files),
        bytes=sum(sizes.values()),
        largest=sizes.most_common(3),
        placed=placed,
    )
