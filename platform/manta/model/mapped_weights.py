"""Frozen weights in memory once a node, however many processes compute with them.

A process that holds frozen weights in the number format of their safetensors file uses the file's
pages as the kernel has read them: workers and trials on one node that start from the same folder
have these pages in common. Such a file must not be written to while they train.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn
from torch.distributed.tensor import DTensor

SUFFIX = ".safetensors"
MAPS = Path("/proc/self/maps")


def may_share(target: Tensor, whole: Tensor) -> bool:
    """Whether a tensor of a model may take the memory of what was read for it.

    Args:
        target: a parameter or buffer, with memory.
        whole: values for the tensor, as they were read.
    """
    return (
        isinstance(target, nn.Parameter)
        and not target.requires_grad  # nothing writes to it
        and not isinstance(target.data, DTensor)
        and target.device.type == whole.device.type == "cpu"
        and target.dtype == whole.dtype
    )


@dataclass(frozen=True)
class MappedFiles:
    """The safetensors files that this process maps, as they were when it read them.

    Attributes:
        files: path, inode, size in bytes, and last change in nanoseconds of each file.
    """

    files: tuple[tuple[str, int, int, int], ...] = ()

    @classmethod
    def now(cls) -> MappedFiles:
        """Those of this moment; none where the system does not tell."""
        try:
            lines = MAPS.read_text().splitlines()
        except OSError:
            return cls()
        paths = {line.split(maxsplit=5)[5] for line in lines if line.endswith(SUFFIX)}
        found = (_look(path) for path in sorted(paths))
        return cls(tuple(one for one in found if one is not None))

    def changed(self) -> str | None:
        """The path of a file that was written to since; None if all are as they were.

        A file that another one has replaced stays as it was for who maps it.
        """
        for before in self.files:
            after = _look(before[0])
            if after is not None and after[1] == before[1] and after != before:
                return before[0]
        return None


def _look(path: str) -> tuple[str, int, int, int] | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return path, status.st_ino, status.st_size, status.st_mtime_ns
