"""The gradient noise scale: the batch size up to which more samples make a better gradient.

With the squared norms of the mean gradient of b samples and of B, the true gradient's squared norm
is G = (B |g_B|^2 - b |g_b|^2) / (B - b) and the trace of a sample's covariance is
S = (|g_b|^2 - |g_B|^2) / (1/b - 1/B), both without bias; the noise scale is S / G (McCandlish et
al., 2018, arXiv:1812.06162, appendix A.1). Both are noisy, so each is averaged over the rows
before, and their quotient is taken then.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# Name of the column of series that are drawn; no row of metrics has it.
NOISE_SCALE = "noise_scale"
# Of the means so far, kept at each row: they are of some 50 rows.
KEPT = 0.98
# Rows with fewer before them have no noise scale.
FEWEST = 10


class NoiseScale:
    """The noise scale along the rows of a run."""

    def __init__(self) -> None:
        self._gradient = self._noise = 0.0
        self._rows = 0

    def after(self, row: Mapping[str, Any]) -> float | None:
        """The noise scale after one more row, in samples; None if it isn't known.

        It is unknown where the row has no norm of a pass, and where the mean gradient can't be told
        from 0.
        """
        small, part = row.get("grad_norm_pass"), row.get("pass_samples")
        large, whole = row.get("grad_norm"), row.get("batch_size")
        if small is None or part is None or large is None or whole is None or whole <= part:
            return None
        gradient = (whole * large**2 - part * small**2) / (whole - part)
        noise = (small**2 - large**2) / (1 / part - 1 / whole)
        self._gradient = KEPT * self._gradient + (1 - KEPT) * gradient
        self._noise = KEPT * self._noise + (1 - KEPT) * noise
        self._rows += 1
        if self._rows < FEWEST or self._gradient <= 0 or self._noise <= 0:
            return None
        return self._noise / self._gradient
