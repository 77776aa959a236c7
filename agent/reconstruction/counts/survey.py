"""One look at all patterns: what they add up to, and whether they are counts."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.reconstruction.kernels import table
from agent.reconstruction.kernels.machine_code import pack
from agent.reconstruction.kernels.threads import share
from agent.reconstruction.kernels.transform import LANES

CHUNK = 64 * 2**20
"""Bytes of patterns that are read at a time: they may lie on disk."""
_BLOCK = 2**20
"""Bytes that a thread looks at together: they stay in its cache."""
_EXACT = 256
"""Patterns of 16 bits whose sum float32 holds exactly."""


@dataclass(frozen=True)
class Survey:
    """What patterns (n, ky, kx) hold.

    Reading ends with the first part in which a value is not finite or negative (`broken`), because nothing that they add up
    to means anything then; `mean` and `totals` are those of the parts before.

    Attributes:
        mean: (ky, kx) mean of the patterns, in all pixels.
        totals: (n,) counts of each pattern in the pixels that the mask lets count.
        largest: value of a pixel, whether it counts or not; of finite ones.
        smallest: the same.
        brightest: number of the first pattern that holds `largest`.
        whole: whether all values are whole numbers.
        finite: whether all values are numbers.
        empty: patterns without counts in the pixels that count.
        broken: number of the first pattern that holds a value that is not finite, or else of the first that holds a negative
            one; None: all are counts.
        patterns: what was looked at.
    """

    mean: NDArray[np.float64]
    totals: NDArray[np.float64]
    largest: float
    smallest: float
    brightest: int
    whole: bool
    finite: bool
    empty: int
    broken: int | None
    patterns: Any = field(compare=False, repr=False)


def survey(patterns: Any, mask: NDArray[np.bool_] | None = None) -> Survey:
    """Read all patterns once, a bounded number at a time.

    Args:
        patterns: (n, ky, kx) integers or floats of either byte order; an array, a memory map or an h5py data set. n ≥ 1.
        mask: (ky, kx) True where a pixel counts; None: everywhere.

    Returns:
        What they hold.
    """
    n, shape = len(patterns), tuple(patterns.shape[1:])
    hidden = np.flatnonzero([] if mask is None else ~np.asarray(mask, bool))
    size = max(1, CHUNK // (math.prod(shape) * patterns.dtype.itemsize))
    totals, sums, done = np.zeros(n), np.zeros(math.prod(shape)), 0
    largest, smallest, brightest, whole, finite, broken = -math.inf, math.inf, 0, True, True, None
    for first in range(0, n, size):
        part = _native(np.asarray(patterns[first : first + size])).reshape(-1, math.prod(shape))
        found = _Part(part, hidden)
        if found.largest > largest:
            largest, brightest = found.largest, first + found.brightest
        smallest, whole, finite = min(smallest, found.smallest), whole and found.whole, found.finite
        if not finite or smallest < 0:
            broken = first + _first_broken(part)
            break
        totals[first : first + size] = found.totals
        sums += found.sums
        done = first + len(part)
    return Survey(
        mean=(sums / max(done, 1)).reshape(shape),
        totals=totals,
        largest=largest,
        smallest=smallest,
        brightest=brightest,
        whole=whole,
        finite=finite,
        empty=int(np.count_nonzero(totals[:done] == 0)),
        broken=broken,
        patterns=patterns,
    )


class _Part:
    """What patterns (b, pixels) hold that are in memory at once, found by all threads; see `Survey`."""

    def __init__(self, part: NDArray[Any], hidden: NDArray[np.int64]) -> None:
        b, pixels = part.shape
        self.hidden = hidden
        self.totals, self.sums = np.zeros(b), np.zeros(pixels)
        self.finite, self.whole = True, True
        each = max(1, min(_EXACT, _BLOCK // (pixels * part.dtype.itemsize)))
        blocks = [slice(first, first + each) for first in range(0, b, each)]
        highest, lowest = np.full(len(blocks), -math.inf), np.full(len(blocks), math.inf)
        sums: dict[int, NDArray[np.float64]] = {}

        def work(first: int, stop: int) -> None:
            mine = sums[first] = np.zeros(pixels)
            for number in range(first, stop):
                lowest[number], highest[number] = self._look(part[blocks[number]])
                if self.finite:
                    self._add(part[blocks[number]], self.totals[blocks[number]], mine)

        share(work, len(blocks))
        for _, one in sorted(sums.items()):
            self.sums += one
        self.smallest, self.largest = float(lowest.min()), float(highest.max())
        there = part[blocks[int(highest.argmax())]]
        self.brightest = int(highest.argmax()) * each + int((there == self.largest).any(axis=1).argmax())

    def _look(self, block: NDArray[Any]) -> tuple[float, float]:
        """The smallest and the largest finite value; whether there are others, or such that are not whole."""
        low, high = block.min(), block.max()
        if block.dtype.kind != "f":
            return float(low), float(high)
        if not (np.isfinite(low) and np.isfinite(high)):
            self.finite = self.whole = False
            block = block[np.isfinite(block)]
            return (float(block.min()), float(block.max())) if block.size else (math.inf, -math.inf)
        if self.whole and (np.rint(block) != block).any():
            self.whole = False
        return float(low), float(high)

    def _add(self, block: NDArray[Any], totals: NDArray[np.float64], sums: NDArray[np.float64]) -> None:
        """totals (b,) = counts of each pattern; sums (pixels) += all of them."""
        unsigned = block.dtype in (np.uint8, np.uint16)
        if unsigned and block.shape[1] % LANES == 0 and block.flags.c_contiguous:
            added = np.zeros(block.shape[1], np.float32)
            table.add_up(pack(table.AddUpArguments(planes=block.reshape(-1), totals=totals, sums=added)))
            sums += added
        else:
            sums += block.sum(axis=0, dtype=np.float64)
            totals += block.sum(axis=1, dtype=np.float64)
        if self.hidden.size:
            totals -= block[:, self.hidden].sum(axis=1, dtype=np.float64)


def _native(part: NDArray[Any]) -> NDArray[Any]:
    """In the byte order of this machine."""
    return part.astype(part.dtype.newbyteorder("="), copy=False)


def _first_broken(part: NDArray[Any]) -> int:
    """Number of the first of patterns (b, pixels) with a value that is not finite; or with a negative one, where all are."""
    finite = np.isfinite(part).all(axis=1)
    return int((~finite if not finite.all() else (part < 0).any(axis=1)).argmax())
