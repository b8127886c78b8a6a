"""What a frozen model says of samples, as the columns that are kept beside the corpus."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, TypeAlias

import torch

from manta.config.run import RunConfig
from manta.objective.causal import Causal
from manta.objective.distill import TeacherPass
from manta.objective.preference import ReferencePass
from manta.objective.protocol import FrozenModel
from manta.sample.columns import Columns
from manta.sample.teacher_top import TOKENS
from manta.stream.precomputed import TeacherSettings
from manta.train.frozen import ROUNDED

# From the columns of samples to those that are kept, in the order of their schema.
Makes: TypeAlias = Callable[[Columns], Sequence[Any]]


class TeacherColumns:
    """A teacher's most likely tokens after each token, as `manta.sample.teacher_top` has them."""

    def __init__(
        self,
        teacher: FrozenModel,
        config: RunConfig,
        settings: TeacherSettings,
        device: torch.device,
    ):
        self._says, self._config, self._settings = TeacherPass(teacher), config, settings
        self._rows, self._device = Causal(document_mask=config.data.document_mask), device
        token = settings.form.schema.field(TOKENS).type.value_type.value_type
        self._kind = token.to_pandas_dtype()

    @torch.no_grad()
    def __call__(self, batch: Columns) -> Sequence[Any]:
        """Tokens, logarithms of probabilities, and that of the rest."""
        rows, settings = self._rows.inputs(batch, self._device), self._settings
        with _as_in_training(self._config, self._device):
            logits = self._says(rows.tokens, rows.position_ids)
            top = logits.top(settings.top_k, settings.temperature)
        shape = rows.tokens.shape
        return (
            top.tokens.view(*shape, -1).cpu().numpy().astype(self._kind),
            top.log_probs.view(*shape, -1).float().cpu().numpy(),
            top.tail.view(shape).float().cpu().numpy(),
        )


class ReferenceColumn:
    """A reference's log-probabilities of answers, as `manta.sample.answer_log_probs` has them."""

    def __init__(self, reference: FrozenModel, config: RunConfig, device: torch.device):
        self._says, self._config = ReferencePass(reference, device), config
        self._device = device

    def __call__(self, batch: Columns) -> Sequence[Any]:
        """The log-probabilities of the answers of each row."""
        with _as_in_training(self._config, self._device):
            return (self._says(batch),)


def _as_in_training(config: RunConfig, device: torch.device) -> AbstractContextManager[Any]:
    """In it, products are computed in the number format of a run's training."""
    dtype = ROUNDED.get(config.train.precision)
    return torch.autocast(device.type, dtype, enabled=dtype is not None)
