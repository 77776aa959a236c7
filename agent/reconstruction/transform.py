"""How to transform numbers of any length made of 2, 3 and 5, across sixteen columns at a time (`kernels_fft`)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

LANES = 16
"""Columns that are transformed together."""
RADICES = (2, 3, 4, 5, 8)
"""Butterflies there are. Sixteen would need more registers than most machines have."""


@dataclass(frozen=True)
class Plan:
    """How to transform n numbers.

    Attributes:
        length: n.
        passes: (p, 3) int64: radix, stride in numbers, first twiddle factor of each pass.
        twiddles: float32, (re, im) of exp(−2πi pk/(radix · stride)), k = 1 … radix − 1 for each p of each pass.
        order: (n,) FFT index of the frequency that stands at each place after a forward transform.
    """

    length: int
    passes: NDArray[np.int64]
    twiddles: NDArray[np.float32]
    order: NDArray[np.int64]


def factors(n: int) -> list[int] | None:
    """The butterflies that make up a transform of length n, small ones first; None where there are none."""
    found, rest = [], n
    for radix in (5, 3):
        while rest % radix == 0:
            found.append(radix)
            rest //= radix
    twos = rest.bit_length() - 1
    if rest != 1 << twos:
        return None
    # as many eights as leave fours, not twos
    found += {0: [], 1: [2] if twos == 1 else [4, 4], 2: [4]}[twos % 3]
    found += [8] * ((twos - {0: 0, 1: 1 if twos == 1 else 4, 2: 2}[twos % 3]) // 3)
    return sorted(found)


def plan(n: int) -> Plan:
    """The plan for length n. Raises ValueError where n has factors other than 2, 3 and 5."""
    radices = factors(n)
    if radices is None:
        msg = f"no transform of length {n}; legal: products of 2, 3 and 5"
        raise ValueError(msg)
    passes, tables, place, stride = [], [], 0, n
    for radix in radices:
        stride //= radix
        passes.append((radix, stride, place))
        angle = -2 * np.pi * np.outer(np.arange(stride), np.arange(1, radix)) / (radix * stride)
        tables.append(np.stack([np.cos(angle), np.sin(angle)], axis=-1).astype(np.float32).ravel())
        place += tables[-1].size
    order = np.zeros(1, np.int64)
    for radix in reversed(radices):
        order = (np.arange(radix)[:, None] + radix * order[None, :]).ravel()
    return Plan(n, np.array(passes, np.int64), np.concatenate(tables), order)
