"""Binomial thinning of counts, one stream of random numbers for each pattern (SplitMix64: Steele et al., OOPSLA 2014, 453)."""

from __future__ import annotations

from typing import Any

import numpy as np

from agent.reconstruction.kernels.jit import jitted


@jitted
def halve(counts: Any, first: int, seed: int, out: Any) -> None:
    """Binomial(n, ½) = number of set bits among n random bits. counts and out (b, m), of patterns `first` and on."""
    for i in range(counts.shape[0]):
        state = np.uint64(seed) + np.uint64(first + i + 1) * np.uint64(0xD1342543DE82EF95)
        for j in range(counts.shape[1]):
            left = np.int64(counts[i, j])
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
            out[i, j] = ones


@jitted
def thin(counts: Any, limit: int, first: int, seed: int, out: Any) -> None:
    """Each count is kept with the probability limit/2⁶⁴. counts and out (b, m), of patterns `first` and on."""
    for i in range(counts.shape[0]):
        state = np.uint64(seed) + np.uint64(first + i + 1) * np.uint64(0xD1342543DE82EF95)
        for j in range(counts.shape[1]):
            kept = 0
            for _ in range(np.int64(counts[i, j])):
                state += np.uint64(0x9E3779B97F4A7C15)
                z = state
                z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
                z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
                if z ^ (z >> np.uint64(31)) < np.uint64(limit):
                    kept += 1
            out[i, j] = kept
