"""Two halves of one acquisition whose noise is independent, and whether its counts allow that.

Single counted electrons are halved at random. Where an electron gives several counts, both halves would get counts of the
same electron; there every other position is one half. The README of this package says what either costs.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.config import Split
from agent.reconstruction import DiffractionData, halves, selected

SEVERAL_COUNTS = 1.5
"""Excess variance from which an electron must be taken to give more than one count."""
QUIET_PERCENTILE = 20
"""Part of the detector, in per cent, that is quiet enough to tell of the detector only."""
_TRIPLES, _CHUNK = 512, 64
"""Triples of neighbouring positions that are looked at, and how many at once."""


def split(data: DiffractionData, rule: Split, seed: int, number: int = 0) -> tuple[DiffractionData, DiffractionData]:
    """Two halves of an acquisition.

    Args:
        data: counts as unsigned integers; a half of a count cannot be drawn from floats.
        rule: `counts`: each count is assigned at random; `positions`: every other position is one half.
        seed: of the random assignment.
        number: 0, 1, …: of the split where there are several; positions are halved as a checkerboard, by columns, by rows.
    """
    if rule == "positions":
        first = alternate(data.positions, number)
        return _at(data, first), _at(data, ~first)
    one, other = halves(data.patterns, seed)
    return replace(data, patterns=one), replace(data, patterns=other)


def alternate(positions: NDArray[np.float64], number: int = 0) -> NDArray[np.bool_]:
    """Every other position of a raster: a checkerboard, for odd numbers columns and rows in turn.

    Positions that are no raster are halved by the parity of their ranks, much as at random.

    Args:
        positions: (n, 2), Å.
        number: of the split, 0, 1, ….

    Returns:
        (n,) True for the first half.
    """
    spacing = np.ptp(positions, axis=0).max() / max(len(positions), 1)
    ranks = [np.unique(np.round(axis / spacing), return_inverse=True)[1] for axis in positions.T]
    parity = (ranks[0] + ranks[1], ranks[1], ranks[0])[number % 3]
    return np.asarray(parity % 2 == 0)


def excess_variance(patterns: NDArray[np.unsignedinteger[Any]], positions: NDArray[np.float64]) -> float:
    """Variance of the counts in 2 × 2 detector pixels over their mean: 1 where every electron gives one count.

    What varies evenly from position to position drops out of X(r − d) − 2 X(r) + X(r + d). The quietest part of the
    detector decides, since the specimen makes others scatter more.

    Args:
        patterns: (n, ky, kx) counts.
        positions: (n, 2), Å, in the order of the scan.

    Returns:
        The ratio; NaN without positions in a row.
    """
    p = positions
    bend = np.abs(p[2:] - 2 * p[1:-1] + p[:-2]).max(axis=1)
    middle = np.flatnonzero(bend < 0.01 * np.abs(p[1:-1] - p[:-2]).max(axis=1)) + 1
    if len(middle) == 0:
        return float("nan")
    middle = middle[np.linspace(0, len(middle) - 1, min(_TRIPLES, len(middle))).astype(np.int64)]
    rows, columns = (n // 2 for n in patterns.shape[1:])
    square, total = np.zeros((rows, columns)), np.zeros((rows, columns))
    for first in range(0, len(middle), _CHUNK):
        before, here, after = (
            _sum_bins(patterns[middle[first : first + _CHUNK] + shift], rows, columns) for shift in (-1, 0, 1)
        )
        square += ((before - 2 * here + after) ** 2).sum(axis=0, dtype=np.float64) / 6
        total += (before + here + after).sum(axis=0, dtype=np.float64) / 3
    enough = total > 30  # counts, so that the ratio has settled
    return float(np.percentile(square[enough] / total[enough], QUIET_PERCENTILE)) if enough.any() else float("nan")


def _at(data: DiffractionData, chosen: NDArray[np.bool_]) -> DiffractionData:
    return replace(data, patterns=selected(data.patterns, chosen), positions=data.positions[chosen], pass_index=None)


def _sum_bins(patterns: NDArray[np.unsignedinteger[Any]], rows: int, columns: int) -> NDArray[np.float32]:
    even = np.asarray(patterns[:, : 2 * rows, : 2 * columns], np.float32)
    return np.asarray(even.reshape(-1, rows, 2, columns, 2).sum(axis=(2, 4)))
