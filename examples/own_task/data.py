"""Writes the corpus of the regression: here made up, else from Parquet, CSV or a database."""

import numpy as np
import pyarrow as pa
from regression import FEATURES, table

from manta import api


def rows(count: int, seed: int) -> pa.Table:
    random = np.random.default_rng(seed)
    features = random.normal(size=(count, FEATURES)).astype(np.float32)
    target = np.sin(features[:, 0]) + 0.5 * features[:, 1] * features[:, 2]
    columns = [pa.FixedSizeListArray.from_arrays(features.reshape(-1), FEATURES), target]
    return pa.table(columns, names=["features", "target"])


api.write_corpus(
    "data/regression",
    {
        "train": {"first": rows(3000, 1), "second": rows(1000, 2)},
        "validation": {"first": rows(300, 3), "second": rows(100, 4)},
    },
    table,
)
