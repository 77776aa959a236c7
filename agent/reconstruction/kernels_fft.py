"""FFTs of any length made of 2, 3 and 5, across sixteen columns at a time."""

from __future__ import annotations

from typing import Any

from numba import njit

from agent.reconstruction.simd import butterfly
from agent.reconstruction.transform import LANES, RADICES

OPTIONS = {"nogil": True, "fastmath": True, "error_model": "numpy"}
"""How the kernels are compiled."""

_f2, _f3, _f4, _f5, _f8 = (butterfly(radix, inverse=False) for radix in RADICES)
_i2, _i3, _i4, _i5, _i8 = (butterfly(radix, inverse=True) for radix in RADICES)


@njit(**OPTIONS)
def forward(re: Any, im: Any, start: int, n: int, passes: Any, twiddles: Any) -> None:
    """In place, unnormalised: the group of n × 16 from `start` on, natural to permuted order."""
    for i in range(len(passes)):
        radix, stride, place = passes[i, 0], passes[i, 1], passes[i, 2]
        step, count = stride * LANES, 2 * (radix - 1)
        for block in range(start, start + n * LANES, radix * step):
            for p in range(stride):
                first, table = block + p * LANES, place + p * count
                if radix == 8:
                    _f8(re, im, first, step, twiddles, table)
                elif radix == 4:
                    _f4(re, im, first, step, twiddles, table)
                elif radix == 2:
                    _f2(re, im, first, step, twiddles, table)
                elif radix == 3:
                    _f3(re, im, first, step, twiddles, table)
                else:
                    _f5(re, im, first, step, twiddles, table)


@njit(**OPTIONS)
def inverse(re: Any, im: Any, start: int, n: int, passes: Any, twiddles: Any) -> None:
    """In place, unnormalised: the group of n × 16 from `start` on, permuted to natural order."""
    for i in range(len(passes) - 1, -1, -1):
        radix, stride, place = passes[i, 0], passes[i, 1], passes[i, 2]
        step, count = stride * LANES, 2 * (radix - 1)
        for block in range(start, start + n * LANES, radix * step):
            for p in range(stride):
                first, table = block + p * LANES, place + p * count
                if radix == 8:
                    _i8(re, im, first, step, twiddles, table)
                elif radix == 4:
                    _i4(re, im, first, step, twiddles, table)
                elif radix == 2:
                    _i2(re, im, first, step, twiddles, table)
                elif radix == 3:
                    _i3(re, im, first, step, twiddles, table)
                else:
                    _i5(re, im, first, step, twiddles, table)
