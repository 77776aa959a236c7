"""The zero beam that wanders over the detector with the scan: measured at the disc's rim, and led back count by count.

The deflection of the scan that the descan coils leave is linear in the probe's position. Inside the disc counts move with the
specimen's structure; where its rim lies hardly does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from instrument.memory import allocate

MEASURED = 1024
"""Patterns that are looked at, spread over the scan."""
FEWEST = 64
"""Patterns that are needed to tell."""
RIM = 0.3
"""Half the width of the rim that tells where the disc is, over its radius; three pixels at least."""
BLUR = 0.5
"""Standard deviation, pixels along either axis, of where `led_back` puts counts: the least that is the same for every shift, so
that one point spread describes it."""
STEPS = 4
"""Gauss–Newton steps."""
SIGNIFICANT = 6.0
"""Standard deviations from which on a wandering beam is led back …"""
LEAST = 0.2
"""… and pixels over the scan; a specimen may feign less."""
SHARED = 4.0
"""Neighbouring patterns that see the same of the specimen."""
SMALLEST_DISC = 3.0
"""Radius in pixels below which a disc has no rim to speak of."""


@dataclass(frozen=True)
class Descan:
    """How the zero beam moves.

    Attributes:
        matrix: (2, 2) detector pixels (row, column) per Å of the probe's position (y, x): shift = matrix @ position.
        range: (row, column) pixels from one corner of the scan to the other, the largest of the four.
        sd: pixels, of the range.
    """

    matrix: NDArray[np.float64]
    range: tuple[float, float]
    sd: float

    @property
    def found(self) -> bool:
        """Whether it is more than chance, and enough to matter."""
        return max(self.range) > max(LEAST, SIGNIFICANT * self.sd)

    def shifts(self, positions: NDArray[np.float64]) -> NDArray[np.float64]:
        """(n, 2) pixels (row, column) by which the zero beam is off in patterns at positions (n, 2), Å; their mean is none."""
        return np.asarray((positions - positions.mean(axis=0)) @ self.matrix.T)


def measure_descan(
    patterns: Any,
    positions: NDArray[np.float64],
    chosen: NDArray[np.int64],
    good: NDArray[np.bool_],
    centre: tuple[float, float],
    radius: float,
) -> Descan | None:
    """Fit a linear motion of the disc to the counts at its rim.

    Args:
        patterns: (n, ky, kx) counts.
        positions: (n, 2), Å.
        chosen: (m,) numbers of the patterns that are good enough to be looked at.
        good: (ky, kx) pixels that count.
        centre: (row, column) of the zero beam, roughly.
        radius: of the bright-field disc, pixels, roughly.

    Returns:
        The motion; None where there is no disc or no scan that would tell.
    """
    span = np.ptp(positions[chosen], axis=0)
    if radius < SMALLEST_DISC or len(chosen) < FEWEST or span.min() <= 0:
        return None
    number = np.sort(np.random.default_rng(0).permutation(chosen)[:MEASURED])
    where = (positions[number] - positions.mean(axis=0)) / span
    terms = np.concatenate([np.ones((len(number), 1)), where], axis=1)
    coefficients = np.zeros((3, 2))
    scatter = np.zeros(2)
    for _ in range(STEPS):
        off = _off(patterns, number, good, np.asarray(centre) + terms @ coefficients, radius)
        if off is None:
            return None
        change = np.linalg.lstsq(terms, off, rcond=None)[0]
        scatter = (off - terms @ change).std(axis=0)
        coefficients += change
    slopes = coefficients[1:]
    corners = np.array([[1, 1], [1, -1]]) @ slopes
    noise = float(scatter.max()) * np.sqrt(2 * SHARED / len(number) / float(where.var(axis=0).min()))
    largest = np.abs(corners).max(axis=0)
    return Descan((slopes / span[:, None]).T, (float(largest[0]), float(largest[1])), noise)


def _off(
    patterns: Any, number: NDArray[np.int64], good: NDArray[np.bool_], centres: NDArray[np.float64], radius: float
) -> NDArray[np.float64] | None:
    """(m, 2) pixels by which the discs of some patterns are off their `centres` (m, 2), by one step of Newton's."""
    rows, columns = (np.arange(size, dtype=np.float32) for size in good.shape)
    width = max(3.0, RIM * radius)
    fine = 2.0  # bins of the radius in a pixel
    bins = int(fine * (radius + width + 3))
    sums, pixels = np.zeros(bins), np.zeros(bins)
    for j, centre in zip(number, centres, strict=True):
        distance = np.hypot((rows - centre[0])[:, None], (columns - centre[1])[None])
        ring = np.minimum((distance * fine + 0.5).astype(np.int64), bins - 1)[good]
        sums += np.bincount(ring, np.asarray(patterns[j])[good], bins)
        pixels += np.bincount(ring, minlength=bins)
    profile = sums / np.maximum(pixels, 1)
    profile[-1] = profile[-2]
    slope = fine * np.gradient(profile)
    if not profile.max() > 0:
        return None
    floor, at = 0.02 * profile.max(), np.arange(bins) / fine
    off = np.zeros((len(number), 2))
    for i, (j, centre) in enumerate(zip(number, centres, strict=True)):
        y, x = np.broadcast_arrays((rows - centre[0])[:, None], (columns - centre[1])[None])
        distance = np.hypot(y, x)
        rim = good & (np.abs(distance - radius) < width)
        y, x, distance = y[rim], x[rim], distance[rim]
        expected = np.interp(distance, at, profile)
        steepness = -np.interp(distance, at, slope) / np.maximum(distance, 1e-6)
        gradient = np.stack([steepness * y, steepness * x])
        counts = np.asarray(patterns[j])[rim].astype(np.float64)
        brightness = counts.sum() / max(float(expected.sum()), 1e-30)
        weighted = gradient / (expected + floor)
        information = weighted @ gradient.T
        slope_of = weighted @ (counts / max(brightness, 1e-30) - expected)
        off[i] = np.linalg.lstsq(information, slope_of, rcond=None)[0]
    return off


def led_back(patterns: Any, shifts: NDArray[np.float64], seed: int = 0) -> NDArray[Any]:
    """Patterns whose zero beam is where it would be without the shifts.

    Each count moves by a whole number of pixels, drawn at random: the shift on average, with the same spread (BLUR) for all.
    What was Poisson stays Poisson, and nothing is interpolated. What leaves the detector is lost.

    Args:
        patterns: (n, ky, kx) counts, unsigned integers.
        shifts: (n, 2) pixels (row, column) by which each is off.
        seed: of what is drawn.
    """
    out = allocate(patterns.shape, patterns.dtype)
    random = np.random.default_rng(seed)
    for j, shift in enumerate(shifts):
        pattern = np.asarray(patterns[j])
        for axis in (0, 1):
            whole = int(np.rint(-shift[axis]))
            part = -shift[axis] - whole
            stray = BLUR**2 + part**2
            moved = random.binomial(pattern, stray).astype(pattern.dtype)
            ahead = random.binomial(moved, (stray + part) / (2 * stray)).astype(pattern.dtype)
            pattern = (
                _moved(pattern - moved, whole, axis)
                + _moved(ahead, whole + 1, axis)
                + _moved(moved - ahead, whole - 1, axis)
            )
        out[j] = pattern
    return out


def _moved(pattern: NDArray[Any], by: int, axis: int) -> NDArray[Any]:
    """(ky, kx) moved by whole pixels, with nothing where nothing comes from."""
    moved = np.zeros_like(pattern)
    to, source = [slice(None)] * 2, [slice(None)] * 2
    n = pattern.shape[axis]
    by = int(np.clip(by, -n, n))
    to[axis], source[axis] = slice(max(by, 0), n + min(by, 0)), slice(max(-by, 0), n - max(by, 0))
    moved[tuple(to)] = pattern[tuple(source)]
    return moved


def still_good(good: NDArray[np.bool_], shifts: NDArray[np.float64]) -> NDArray[np.bool_]:
    """(ky, kx) pixels into which, of all patterns, only counts of pixels that count were moved.

    Args:
        good: (ky, kx) pixels that count.
        shifts: (n, 2) pixels (row, column) by which patterns were led back.
    """
    steps = [(row, column) for row in (-1, 0, 1) for column in (-1, 0, 1)]
    whole = np.unique(np.concatenate([np.rint(-shifts) + step for step in steps]), axis=0)
    left = np.ones_like(good)
    for row, column in whole.astype(int):
        left &= _moved(_moved(good, row, 0), column, 1)
    return left
