"""The steps of an FFT across sixteen columns at once, emitted as instructions.

An FFT across columns transforms sixteen columns together, lane by lane, so no data move between lanes; a group of
n × 16 numbers (16 KiB at n = 128) stays in the first-level cache. It works in place: decimation in frequency forwards,
from natural to permuted order, decimation in time backwards, from permuted to natural. Nothing is ever put in order,
because counts and apertures are stored permuted once (Gentleman & Sande, AFIPS 29 (1966) 563).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types

from agent.reconstruction.kernels.jit import instruction
from agent.reconstruction.kernels.simd import FAST, REGISTER, broadcast, constant, data_of, read, write


class _Complex:
    """A complex number whose arithmetic is emitted as instructions."""

    def __init__(self, builder: Any, re: Any, im: Any) -> None:
        self.builder, self.re, self.im = builder, re, im

    def __add__(self, other: _Complex) -> _Complex:
        b = self.builder
        return _Complex(b, b.fadd(self.re, other.re, flags=FAST), b.fadd(self.im, other.im, flags=FAST))

    def __sub__(self, other: _Complex) -> _Complex:
        b = self.builder
        return _Complex(b, b.fsub(self.re, other.re, flags=FAST), b.fsub(self.im, other.im, flags=FAST))

    def scaled(self, factor: float) -> _Complex:
        """Times a real constant."""
        b, c = self.builder, constant(factor, self.re.type.count)
        return _Complex(b, b.fmul(self.re, c, flags=FAST), b.fmul(self.im, c, flags=FAST))

    def times(self, re: Any, im: Any) -> _Complex:
        """Times a complex number given by its parts."""
        b = self.builder
        real = b.fsub(b.fmul(self.re, re, flags=FAST), b.fmul(self.im, im, flags=FAST), flags=FAST)
        imag = b.fadd(b.fmul(self.re, im, flags=FAST), b.fmul(self.im, re, flags=FAST), flags=FAST)
        return _Complex(b, real, imag)

    def turned(self) -> _Complex:
        """Times −i."""
        return _Complex(self.builder, self.im, self.builder.fneg(self.re))

    def rotated(self, eighths: int) -> _Complex:
        """Times exp(−2πi · eighths/8), for 0 to 3 eighths."""
        if eighths == 0:
            return self
        if eighths == 2:
            return self.turned()
        # (1 − i)/√2 and (−1 − i)/√2: two multiplications
        return (self + self.turned() if eighths == 1 else self.turned() - self).scaled(math.sqrt(0.5))


def _dft(x: list[_Complex]) -> list[_Complex]:
    """Forward transform of 2, 3, 4, 5 or 8 numbers; 8 = 2 · 4 by Cooley and Tukey."""
    n = len(x)
    if n == 2:
        return [x[0] + x[1], x[0] - x[1]]
    if n == 4:
        a, b, c, d = x[0] + x[2], x[0] - x[2], x[1] + x[3], (x[1] - x[3]).turned()
        return [a + c, b + d, a - c, b - d]
    if n in (3, 5):
        y = [sum(x[1:], x[0])] * n
        for k in range(1, n // 2 + 1):
            pairs = [(x[q] + x[n - q], x[q] - x[n - q], 2 * math.pi * k * q / n) for q in range(1, n // 2 + 1)]
            cosines = [total.scaled(math.cos(angle)) for total, _, angle in pairs]
            sines = [difference.scaled(math.sin(angle)).turned() for _, difference, angle in pairs]
            mean, wave = sum(cosines, x[0]), sum(sines[1:], sines[0])
            y[k], y[n - k] = mean + wave, mean - wave
        return y
    even, odd = _dft(x[0::2]), [value.rotated(k) for k, value in enumerate(_dft(x[1::2]))]
    return [a + b for a, b in zip(even, odd, strict=True)] + [a - b for a, b in zip(even, odd, strict=True)]


def _twiddle(builder: Any, table: Any, start: Any, q: int, inverse: bool) -> tuple[Any, Any]:
    """(re, im) of the q-th twiddle factor from `start` on, for an inverse transform its conjugate, in all lanes of a register."""
    places = (builder.add(start, ir.Constant(start.type, 2 * (q - 1) + part)) for part in (0, 1))
    re, im = (broadcast(builder, builder.load(builder.gep(table, [place])), REGISTER) for place in places)
    return re, builder.fneg(im) if inverse else im


def butterfly(radix: int, inverse: bool, twiddled: bool) -> Callable[..., None]:
    """The step of an in-place FFT: f(re, im, start, stride, twiddles, twiddle_start).

    Loads REGISTER numbers from each start + q·stride on, q < radix, transforms them across the q, and writes them back.
    Forwards the results are multiplied by the twiddle factors (re, im of q = 1, 2, … one after another), backwards the
    inputs by their conjugates; where not `twiddled`, all of these are 1 and left out.
    """

    @instruction
    def step(typingctx: Any, re: Any, im: Any, start: Any, stride: Any, twiddles: Any, twiddle_start: Any) -> Any:
        def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            planes = [data_of(context, builder, sig.args[i], args[i]) for i in (0, 1)]
            table = data_of(context, builder, sig.args[4], args[4])
            factors = [_twiddle(builder, table, args[5], q, inverse) for q in range(1, radix)] if twiddled else []

            def turned(values: list[_Complex]) -> list[_Complex]:
                rest = (v.times(*f) for v, f in zip(values[1:], factors, strict=True)) if twiddled else values[1:]
                return [values[0], *rest]

            def swapped(values: list[_Complex]) -> list[_Complex]:
                return [_Complex(builder, v.im, v.re) for v in values]

            places = [builder.add(args[2], builder.mul(args[3], ir.Constant(args[3].type, q))) for q in range(radix)]
            pairs = [[read(builder, plane, at, REGISTER) for plane in planes] for at in places]
            values = [_Complex(builder, *pair) for pair in pairs]
            # the inverse transform is the forward one with real and imaginary parts exchanged
            done = swapped(_dft(swapped(turned(values)))) if inverse else turned(_dft(values))
            for at, value in zip(places, done, strict=True):
                write(builder, planes[0], at, value.re)
                write(builder, planes[1], at, value.im)
            return context.get_dummy_value()

        index = types.intp
        return types.void(re, im, index, index, twiddles, index), codegen

    return step
