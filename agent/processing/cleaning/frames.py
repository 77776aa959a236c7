"""Patterns that are no patterns: empty, saturated and partial ones; and how bright each of the others is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

EMPTY, SATURATED = 0.1, 4.0
"""Counts of a pattern over the median of all, below and above which it is left out."""
BLOCKS = 4
"""Blocks along an edge of the detector, of which a partial pattern lacks some."""
SCARCE, MISSING = 0.1, 0.1
"""Quantile of a block's counts in all patterns, and part of it below which the block is missing in one: where the beam wanders,
blocks at the edge of the disc have few counts in many patterns."""
EXPECTED = 40.0
"""Counts that a pattern or a block must be expected to have, so that none there is no chance."""
FULL = 0.02
"""Part of the pixels at the detector's largest count from which on a pattern is saturated, where others are not."""
_CHUNK = 256
"""Patterns at a time."""


@dataclass(frozen=True)
class Frames:
    """What became of each pattern.

    Attributes:
        empty, saturated, partial: (n,) True for those left out, each for one reason.
        totals: (n,) counts in the pixels that count.
    """

    empty: NDArray[np.bool_]
    saturated: NDArray[np.bool_]
    partial: NDArray[np.bool_]
    totals: NDArray[np.float64]

    @property
    def kept(self) -> NDArray[np.bool_]:
        """(n,)."""
        return np.asarray(~(self.empty | self.saturated | self.partial))


def judge_frames(
    patterns: Any, received: NDArray[np.bool_], good: NDArray[np.bool_], largest: int, per_electron: float = 1.0
) -> Frames:
    """Find the patterns that have to be left out.

    Args:
        patterns: (n, ky, kx) counts.
        received: (n,) False for those that never arrived; they are none of these.
        good: (ky, kx) pixels that count.
        largest: count at which a pixel of this detector is full.
        per_electron: counts of an electron.
    """
    blocks, full = _sums(patterns, good, largest)
    totals = blocks.sum(axis=1)
    counted = totals[received]
    lit = counted[counted > EMPTY * np.median(counted)]
    typical = float(np.median(lit)) if len(lit) else 0.0
    if typical < EXPECTED * per_electron:  # so few that none, or some more, may be chance
        nothing = np.zeros(len(totals), bool)
        return Frames(nothing, nothing, nothing, totals)
    empty = received & (totals < EMPTY * typical)
    rest = received & ~empty
    saturated = rest & (totals > SATURATED * typical)
    if np.median(full[received]) < 1:
        saturated |= rest & (full >= max(4.0, FULL * good.sum()))
    rest &= ~saturated
    expected = np.quantile(blocks[rest], SCARCE, axis=0) if rest.any() else np.zeros(blocks.shape[1])
    gone = (blocks < MISSING * expected) & (expected > EXPECTED * per_electron)
    return Frames(empty, saturated, rest & gone.any(axis=1), totals)


def _sums(patterns: Any, good: NDArray[np.bool_], largest: int) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Counts of each pattern in every block, (n, BLOCKS²), and in how many pixels (n,) it has the largest count."""
    n, rows, columns = patterns.shape
    edges = [np.linspace(0, size, BLOCKS + 1).astype(int)[:-1] for size in (rows, columns)]
    blocks, full = np.zeros((n, BLOCKS, BLOCKS)), np.zeros(n, np.int64)
    for first in range(0, n, _CHUNK):
        chunk = np.asarray(patterns[first : first + _CHUNK])
        if not good.all():
            chunk = np.where(good, chunk, chunk.dtype.type(0))
        here = slice(first, first + len(chunk))
        if chunk.max() >= largest:
            full[here] = (chunk >= largest).sum(axis=(1, 2))
        lines = np.add.reduceat(chunk, edges[0], axis=1, dtype=np.int64 if chunk.dtype.kind in "ui" else np.float64)
        blocks[here] = np.add.reduceat(lines, edges[1], axis=2)
    return blocks.reshape(n, -1), full
