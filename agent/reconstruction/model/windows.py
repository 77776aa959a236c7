"""Windows that let pictures and rasters fall off towards their edges."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def tukey(n: int, tapered: float) -> NDArray[np.float64]:
    """Tukey window.

    Args:
        n: samples.
        tapered: part of the window, 0 to 1, that falls off as a cosine; half of it lies on each side.

    Returns:
        (n,) weights.
    """
    return window_of((np.arange(n) + 0.5) / n, tapered)


def window_of(x: NDArray[np.float64], tapered: float) -> NDArray[np.float64]:
    """The Tukey window as a function.

    Args:
        x: (…) places, 0 to 1 from edge to edge.
        tapered: see `tukey`.

    Returns:
        (…) weights.
    """
    edge = np.minimum(x, 1 - x)
    if tapered <= 0:
        return np.ones(x.shape)
    return np.where(edge < tapered / 2, 0.5 * (1 - np.cos(2 * np.pi * edge / tapered)), 1.0)
