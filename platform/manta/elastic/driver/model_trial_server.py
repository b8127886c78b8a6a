"""Tries the models of runs for a driver that is not to import Torch; see `model_trial`.

Run as a script: it reads the runs from its standard input and writes what it found to its
standard output, both pickled.
"""

from __future__ import annotations

import os
import pickle
import sys


def main() -> None:
    """Answer one driver."""
    answer = os.dup(1)
    os.dup2(2, 1)  # what libraries print is no part of the answer
    runs = pickle.load(sys.stdin.buffer)
    from manta.elastic.worker.worker_calls import try_model

    found = [try_model(run) for run in runs]
    with os.fdopen(answer, "wb") as file:
        pickle.dump(found, file)


if __name__ == "__main__":
    main()
