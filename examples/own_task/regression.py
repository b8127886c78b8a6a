"""A regression on a table of numbers: what a sample is, the model, and what is trained on."""

import pyarrow as pa
from torch import nn

from manta.objective.device_columns import DeviceColumns
from manta.objective.protocol import Term
from manta.sample.rows import RowFormat

FEATURES = 4
SCHEMA = pa.schema([("features", pa.list_(pa.float32(), FEATURES)), ("target", pa.float32())])

table = RowFormat("regression", SCHEMA)  # a sample is a row of the table


class Net(nn.Sequential):
    """The model. `model.sizes` are its arguments."""

    def __init__(self, width: int):
        super().__init__(nn.Linear(FEATURES, width), nn.Tanh(), nn.Linear(width, 1))


class SquaredError:
    """What is trained on: the sum of squared errors, divided by the number of samples."""

    columns = frozenset({"features", "target"})
    terms = (Term("squared_error"),)

    def module(self, models):
        return Sum(models.trained)

    def inputs(self, batch, device):
        return DeviceColumns.of(batch, ("features", "target"), device)

    def weights(self, inputs):
        return inputs.counted.sum().reshape(1)


class Sum(nn.Module):
    """Sums over rows; a blank row, which only fills up a forward pass, counts 0."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, features, target, counted):
        errors = (self.net(features).squeeze(-1) - target).square()
        return (errors * counted).sum().reshape(1)
