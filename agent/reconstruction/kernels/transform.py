"""How to transform numbers of any length made of 2, 3 and 5, across sixteen columns at a time (`fft`)."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

LANES = 16
"""Columns that are transformed together."""
RADICES = (2, 3, 4, 5, 8)
"""Butterflies there are. Sixteen would need more registers than any machine has, eight needs more than sixteen."""


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


@lru_cache(maxsize=1)
def registers() -> tuple[int, int]:
    """(floats that a vector register of this processor holds, how many of these there are)."""
    import llvmlite.binding as llvm

    features = llvm.get_host_cpu_features()
    if features.get("avx512f"):
        return 16, 32
    if features.get("avx"):
        return 8, 16
    return 4, 32 if platform.machine().lower() in ("arm64", "aarch64") else 16


def factors(n: int, eights: bool) -> list[int] | None:
    """The butterflies that make up a transform.

    Args:
        n: length.
        eights: whether there may be butterflies of eight.

    Returns:
        Radices, small ones first (the last needs no twiddle factors); None where n has other factors than 2, 3 and 5.
    """
    found, rest = [], n
    for radix in (5, 3):
        while rest % radix == 0:
            found.append(radix)
            rest //= radix
    twos = rest.bit_length() - 1
    if rest != 1 << twos:
        return None
    if eights:  # as many as leave fours, not twos
        small = {0: [], 1: [2] if twos == 1 else [4, 4], 2: [4]}[twos % 3]
        found += small + [8] * ((twos - sum(radix // 2 for radix in small)) // 3)
    else:
        found += [2] * (twos % 2) + [4] * (twos // 2)
    return sorted(found)


def plan(n: int, eights: bool) -> Plan:
    """Plan a transform.

    Args:
        n: length.
        eights: whether there may be butterflies of eight; they need more than sixteen registers.

    Raises:
        ValueError: n has factors other than 2, 3 and 5.
    """
    radices = factors(n, eights)
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
