"""What Poisson statistics expect of counts whose model is right."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def expected_deviance(mean: NDArray[np.float64]) -> NDArray[np.float64]:
    """E[2(n log(n/I) − (n − I))] for n ~ Poisson(I): summed and interpolated in log I; 1 + 1/(6 I) for large I.

    Args:
        mean: expected counts I above 0, of any shape.

    Returns:
        One value for each of them, of the same shape.
    """
    grid = np.geomspace(1e-9, 30, 200)
    n = np.arange(1, 120)
    log_factorial = np.cumsum(np.log(n))
    probability = np.exp(n[None] * np.log(grid[:, None]) - grid[:, None] - log_factorial[None])
    terms = 2 * (n[None] * np.log(n[None] / grid[:, None]) - (n[None] - grid[:, None]))
    table = (probability * terms).sum(axis=1) + np.exp(-grid) * 2 * grid
    small = np.exp(np.interp(np.log(mean), np.log(grid), np.log(table)))
    return np.where(mean > 30, 1 + 1 / (6 * mean), small)
