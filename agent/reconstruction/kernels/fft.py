"""FFTs of any length made of 2, 3 and 5, across sixteen columns at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from agent.reconstruction.kernels.butterfly import butterfly
from agent.reconstruction.kernels.jit import jitted
from agent.reconstruction.kernels.simd import REGISTER
from agent.reconstruction.kernels.transform import LANES, RADICES


def _stage(inverse: bool, twiddled: bool) -> Callable[..., None]:
    """One pass of a transform over the group of n × 16 from `start` on."""
    by_2, by_3, by_4, by_5, by_8 = (butterfly(radix, inverse, twiddled) for radix in RADICES)

    @jitted
    def stage(re: Any, im: Any, start: int, n: int, radix: int, stride: int, place: int, twiddles: Any) -> None:
        step, count = stride * LANES, 2 * (radix - 1)
        for block in range(start, start + n * LANES, radix * step):
            for p in range(stride):
                table = place + p * count
                for first in range(block + p * LANES, block + (p + 1) * LANES, REGISTER):
                    if radix == 8:
                        by_8(re, im, first, step, twiddles, table)
                    elif radix == 4:
                        by_4(re, im, first, step, twiddles, table)
                    elif radix == 2:
                        by_2(re, im, first, step, twiddles, table)
                    elif radix == 3:
                        by_3(re, im, first, step, twiddles, table)
                    else:
                        by_5(re, im, first, step, twiddles, table)

    return stage


_forward, _inverse = (_stage(inverse=inverse, twiddled=True) for inverse in (False, True))
_plain = _stage(inverse=False, twiddled=False)


@jitted
def forward(re: Any, im: Any, start: int, n: int, passes: Any, twiddles: Any) -> None:
    """In place, unnormalised: the group of n × 16 from `start` on, natural to permuted order."""
    for i in range(len(passes)):
        radix, stride, place = passes[i, 0], passes[i, 1], passes[i, 2]
        if stride > 1:
            _forward(re, im, start, n, radix, stride, place, twiddles)
        else:
            _plain(re, im, start, n, radix, stride, place, twiddles)


@jitted
def inverse(re: Any, im: Any, start: int, n: int, passes: Any, twiddles: Any) -> None:
    """In place, unnormalised: the group of n × 16 from `start` on, permuted to natural order."""
    for i in range(len(passes) - 1, -1, -1):
        radix, stride, place = passes[i, 0], passes[i, 1], passes[i, 2]
        if stride > 1:
            _inverse(re, im, start, n, radix, stride, place, twiddles)
        else:
            _plain(im, re, start, n, radix, stride, place, twiddles)  # real and imaginary parts exchanged: backwards
