"""The caller's patterns, in memory or on disk, looked at a bounded number at a time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

_CHUNK = 512
"""Patterns at a time."""


def chunks(patterns: Any, seen: Any = None) -> Iterator[NDArray[Any]]:
    """Patterns (n, ky, kx), in memory or on disk, a bounded number at a time; 0 where `seen` (ky, kx) is given and false."""
    for first in range(0, len(patterns), _CHUNK):
        chunk = np.asarray(patterns[first : first + _CHUNK])
        chunk = chunk if chunk.dtype.isnative else chunk.astype(chunk.dtype.newbyteorder("="))
        yield chunk if seen is None else np.where(seen, chunk, chunk.dtype.type(0))


def totals_and_mean(patterns: Any, seen: NDArray[np.bool_]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(counts of each pattern in the counting pixels, mean pattern)."""
    from agent.reconstruction.kernels_detector import add_up

    totals, mean = [], np.zeros(seen.shape)
    for chunk in chunks(patterns):
        totals.append(np.zeros(len(chunk)))
        add_up(np.ascontiguousarray(chunk), seen, totals[-1], mean)
    return np.concatenate(totals), mean / len(patterns)
