"""Random splitting of counted electrons: two statistically independent data sets from one.

A Poisson count thinned binomially gives two independent Poisson counts; no electron is used twice.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit, prange
from numpy.typing import NDArray

from agent.reconstruction.patterns import chunks, room


@njit(cache=True, parallel=True, error_model="numpy")
def _halve(counts: Any, first: int, seed: np.uint64, out: Any) -> None:
    """Binomial(n, ½) = number of set bits among n random bits; one SplitMix64 stream per pattern, from number `first` on."""
    for i in prange(counts.shape[0]):
        state = seed + np.uint64(first + i + 1) * np.uint64(0xD1342543DE82EF95)
        flat_in, flat_out = counts[i].ravel(), out[i].ravel()
        for j in range(flat_in.size):
            left = np.int64(flat_in[j])
            ones = 0
            while left > 0:
                state += np.uint64(0x9E3779B97F4A7C15)
                z = state
                z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
                z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
                z = z ^ (z >> np.uint64(31))
                if left < 64:
                    z &= (np.uint64(1) << np.uint64(left)) - np.uint64(1)
                while z:
                    z &= z - np.uint64(1)
                    ones += 1
                left -= 64
            flat_out[j] = ones


@njit(cache=True, nogil=True, error_model="numpy")
def _thin(counts: Any, limits: Any, seed: np.uint64, out: Any) -> None:
    """Each count is kept with the probability limits/2⁶⁴; one SplitMix64 stream per pattern."""
    for i in range(counts.shape[0]):
        state = seed + np.uint64(i + 1) * np.uint64(0xD1342543DE82EF95)
        flat_in, flat_out = counts[i].ravel(), out[i].ravel()
        for j in range(flat_in.size):
            kept = 0
            for _ in range(np.int64(flat_in[j])):
                state += np.uint64(0x9E3779B97F4A7C15)
                z = state
                z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
                z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
                if z ^ (z >> np.uint64(31)) < limits:
                    kept += 1
            flat_out[j] = kept


def thin(counts: NDArray[Any], fraction: float, seed: int, out: NDArray[Any] | None = None) -> NDArray[Any]:
    """Draw each count with the probability `fraction`.

    Args:
        counts: (n, …) unsigned integers.
        fraction: 0 … 1.
        seed: the same seed draws the same counts.
        out: where to put them, of the same shape and type; None: a new array.

    Returns:
        `out`; what is drawn and what is left are independent Poisson counts if `counts` are.
    """
    out = np.empty_like(counts) if out is None else out
    _thin(counts, np.uint64(min(int(fraction * 2**64), 2**64 - 1)), np.uint64(seed * 0x2545F4914F6CDD1D % 2**64), out)
    return out


def halves(counts: NDArray[Any], seed: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """Assign each count at random to one of two halves.

    Args:
        counts: (n, ky, kx) unsigned integers of either byte order, in memory or on disk.
        seed: the same seed gives the same split.

    Returns:
        Two arrays of the same shape and type that add up to `counts`, where `patterns.room` is.
    """
    kind = counts.dtype.newbyteorder("=")
    one, other = room(counts.shape, kind), room(counts.shape, kind)
    first = 0
    for chunk in chunks(counts):
        part = slice(first, first + len(chunk))
        _halve(np.ascontiguousarray(chunk), first, np.uint64(seed * 0x2545F4914F6CDD1D % 2**64), one[part])
        np.subtract(chunk, one[part], out=other[part])
        first = part.stop
    return one, other
