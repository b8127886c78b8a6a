"""Datasets of Hugging Face as `save_to_disk` writes them: which Arrow files are theirs.

Their folder may hold other Arrow files too, such as caches of what was computed of them.
"""

from __future__ import annotations

import json
import os
from typing import Any

from manta.config.errors import CorpusError

STATE, SPLITS = "state.json", "dataset_dict.json"


def files_of_dataset(folder: str) -> list[str] | None:
    """The files of the dataset that is saved in a folder; None if there is none.

    Raises:
        CorpusError: if the folder has several splits, or the dataset can't be read as it is.
    """
    if splits := _read(os.path.join(folder, SPLITS)).get("splits"):
        raise CorpusError(
            f"{folder}: a dataset with the splits {', '.join(splits)}: name one of them, such as "
            f"{os.path.join(folder, splits[0])}"
        )
    state = _read(os.path.join(folder, STATE))
    if not isinstance(state.get("_data_files"), list):
        return None
    if state.get("_indices_data_files"):
        raise CorpusError(
            f"{folder}: rows of this dataset are chosen by a table of indices, which only "
            "'datasets' reads: call flatten_indices() on it and save it again"
        )
    return [os.path.join(folder, str(one["filename"])) for one in state["_data_files"]]


def _read(path: str) -> dict[str, Any]:
    """A JSON object in a file; empty if there is no such file, or something else in it."""
    try:
        with open(path, encoding="utf-8") as file:
            found = json.load(file)
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
