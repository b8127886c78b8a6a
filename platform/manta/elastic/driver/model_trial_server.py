"""Tries the models of runs for a driver that should not import Torch; see `model_trial`.

Run as a script: it reads the runs from its standard input and writes what it found to its
standard output, both pickled.
"""

from __future__ import annotations

import os
import pickle
import sys


def main() -> None:
    """Serve one driver."""
    answer = os.dup(1)
    os.dup2(2, 1)  # redirect prints of libraries away from the pickled answer
    runs = pickle.load(sys.stdin.buffer)
    from manta.elastic.worker.worker_calls import try_model

    found = [try_model(run) for run in runs]
    with os.fdopen(answer, "wb") as file:
        pickle.dump(found, file)


if __name__ == "__main__":
    main()
