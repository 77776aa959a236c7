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
from agent.reconstruction import DiffractionData, halves

SEVERAL_COUNTS = 1.5
"""Excess variance from which an electron must be taken to give more than one count."""
BLOCK, LARGE = (2, 4), 64
"""Edge in pixels of the blocks that are looked at, on a detector whose edge is below LARGE pixels and on others: the counts of an
electron are shared by neighbours."""
SINGLE = 1.25
"""Counts that an electron seen by itself gives, below which it gives one."""
_GROUPS = 4
FEWEST_IN_A_PASS = 0.8
"""Part of the other pass's patterns that a pass must have, to be compared with it."""
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
        return replace(data.at(first), pass_index=None), replace(data.at(~first), pass_index=None)
    one, other = halves(data.patterns, seed)
    return replace(data, patterns=one), replace(data, patterns=other)


def passes_of(data: DiffractionData) -> tuple[DiffractionData, DiffractionData] | None:
    """The two passes of an acquisition; None where there was one, or one of them lacks too many patterns."""
    if data.pass_index is None:
        return None
    first = data.pass_index == 0
    if min(first.sum(), (~first).sum()) < FEWEST_IN_A_PASS * max(first.sum(), (~first).sum()):
        return None
    return data.at(first), data.at(~first)


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


def excess_variance(
    patterns: NDArray[np.unsignedinteger[Any]],
    positions: NDArray[np.float64],
    intensity: NDArray[np.float64] | None = None,
) -> float:
    """Variance of the counts in blocks of detector pixels over their mean: 1 where every electron gives one count.

    What varies evenly from position to position drops out of X(r − d) − 2 X(r) + X(r + d). What the specimen adds to the rest
    grows with the square of the counts, so that the darkest blocks, and what they tend to, decide. Where single electrons are
    seen in the dark and give one count each, all scatter is the specimen's.

    Args:
        patterns: (n, ky, kx) counts.
        positions: (n, 2), Å, in the order of the scan.
        intensity: (n,) of the beam, relative; None: steady.

    Returns:
        The ratio; NaN without positions in a row, or with too few counts.
    """
    p = positions
    bend = np.abs(p[2:] - 2 * p[1:-1] + p[:-2]).max(axis=1)
    middle = np.flatnonzero(bend < 0.01 * np.abs(p[1:-1] - p[:-2]).max(axis=1)) + 1
    if len(middle) == 0:
        return float("nan")
    middle = middle[np.linspace(0, len(middle) - 1, min(_TRIPLES, len(middle))).astype(np.int64)]
    edge = BLOCK[min(patterns.shape[1:]) >= LARGE]
    square, total, lone = _scatter(patterns, middle, edge, np.ones(len(p)) if intensity is None else intensity)
    enough = total > 30  # counts, so that the ratio has settled
    if not enough.any():
        return float("nan")
    ratio = _towards_the_dark(square[enough], total[enough])
    return min(ratio, 1.0) if lone < SINGLE else ratio


def _scatter(
    patterns: NDArray[Any], middle: NDArray[np.int64], edge: int, intensity: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64], float]:
    """Of every block the squares of what is uneven from position to position and the counts; counts of a lone electron."""
    rows, columns = (n // edge for n in patterns.shape[1:])
    square, total, here_none = np.zeros((3, rows, columns))
    pixels, pixel_none = np.zeros(patterns.shape[1:]), np.zeros(patterns.shape[1:])
    for first in range(0, len(middle), _CHUNK):
        part = middle[first : first + _CHUNK]
        before, here, after = (
            _sum_blocks(patterns[part + shift], edge) / intensity[part + shift, None, None] for shift in (-1, 0, 1)
        )
        square += ((before - 2 * here + after) ** 2).sum(axis=0, dtype=np.float64) / 6
        total += (before + here + after).sum(axis=0, dtype=np.float64) / 3
        here_none += (here == 0).sum(axis=0)
        pixels += patterns[part].sum(axis=0, dtype=np.float64)
        pixel_none += (patterns[part] == 0).sum(axis=0)
    lone = _of_a_lone_electron(total, here_none, len(middle))
    lone = _of_a_lone_electron(pixels, pixel_none, len(middle)) if np.isnan(lone) else lone
    return square.ravel(), total.ravel(), lone


def _of_a_lone_electron(counts: NDArray[np.float64], none: NDArray[np.float64], n: int) -> float:
    """Counts that an electron gives where few come, P(0) = exp(−electrons); `none` says how many of n times there was none.

    NaN where nothing is dark enough.
    """
    dark = (none > 0.3 * n) & (none < n - 30)
    return float(counts[dark].sum() / n / -np.log(none[dark] / n).sum()) if dark.any() else float("nan")


def _towards_the_dark(square: NDArray[np.float64], total: NDArray[np.float64]) -> float:
    """Variance over mean that blocks tend to as their counts become few."""
    order = np.argsort(total)
    groups = np.array_split(order[: max(_GROUPS, 2 * len(order) // 5)], _GROUPS)
    groups = [group for group in groups if len(group)]
    ratios = np.array([square[group].sum() / total[group].sum() for group in groups])
    counts = np.array([total[group].mean() for group in groups])
    if len(groups) < _GROUPS or np.ptp(counts) < 0.2 * counts.mean():
        return float(ratios.mean())
    at_nothing = float(np.polyfit(counts, ratios, 1)[1])
    return float(np.clip(at_nothing, 0.5 * ratios.min(), ratios.min()))


def _sum_blocks(patterns: NDArray[np.unsignedinteger[Any]], edge: int) -> NDArray[np.float32]:
    rows, columns = (n // edge for n in patterns.shape[1:])
    whole = np.asarray(patterns[:, : edge * rows, : edge * columns], np.float32)
    return np.asarray(whole.reshape(-1, rows, edge, columns, edge).sum(axis=(2, 4)))
