"""The fused CPU form of `forward.accumulate`: a few patterns at a time stay in cache, counts stay integers.

Numba does the element-wise work between the transforms in one sweep each, ducc0 the FFTs. Threads take blocks of a batch
and add into accumulators of their own, so the result does not depend on timing. Compiled code is cached beside the
module (`make env` warms it).
"""

from __future__ import annotations

import math
import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import ducc0
import numpy as np
from numba import njit
from numpy.typing import NDArray

from agent.reconstruction.forward import Sums

_OPTIONS = {"nogil": True, "fastmath": True, "error_model": "numpy", "cache": True}
_CHUNK = 4
"""Patterns per call: fewer cost Python's overhead, more leave the second-level cache."""


@njit(**_OPTIONS)
def _phase_factors(f: float, n: int, sign: float) -> Any:
    """exp(sign · 2πi k f/n) for the FFT's frequencies, (n,) complex64."""
    out = np.empty(n, np.complex64)
    for x in range(n):
        k = x if x < (n + 1) // 2 else x - n
        angle = sign * 2 * math.pi * f * k / n
        out[x] = complex(math.cos(angle), math.sin(angle))
    return out


@njit(**_OPTIONS)
def _shift(probe_k: Any, fractions: Any, index: Any, out: Any) -> None:
    """out[j] = probe_k · exp(−2πi k·f_j), (c, modes, ky, kx)."""
    modes, n_y, n_x = probe_k.shape
    for c in range(len(index)):
        rows = _phase_factors(fractions[index[c], 0], n_y, -1.0)
        columns = _phase_factors(fractions[index[c], 1], n_x, -1.0)
        for m in range(modes):
            for y in range(n_y):
                row = rows[y]
                for x in range(n_x):
                    out[c, m, y, x] = probe_k[m, y, x] * (row * columns[x])


@njit(**_OPTIONS)
def _unshift_add(back: Any, fractions: Any, index: Any, total: Any) -> None:
    """total += Σ_j back[j] · exp(+2πi k·f_j)."""
    _, modes, n_y, n_x = back.shape
    for c in range(len(index)):
        rows = _phase_factors(fractions[index[c], 0], n_y, 1.0)
        columns = _phase_factors(fractions[index[c], 1], n_x, 1.0)
        for m in range(modes):
            for y in range(n_y):
                row = rows[y]
                for x in range(n_x):
                    total[m, y, x] += back[c, m, y, x] * (row * columns[x])


@njit(**_OPTIONS)
def _exit_wave(obj: Any, corners: Any, index: Any, probe: Any, out: Any) -> None:
    """out = probe · window of the object; window and probe corner-centred."""
    _, modes, n_y, n_x = probe.shape
    h_y, h_x = n_y // 2, n_x // 2
    for c in range(len(index)):
        row0, column0 = corners[index[c], 0], corners[index[c], 1]
        for m in range(modes):
            for y in range(n_y):
                line = obj[row0 + (y + h_y) % n_y, column0 : column0 + n_x]
                for x in range(n_x - h_x):
                    out[c, m, y, x] = probe[c, m, y, x] * line[h_x + x]
                for x in range(n_x - h_x, n_x):
                    out[c, m, y, x] = probe[c, m, y, x] * line[h_x + x - n_x]


@njit(**_OPTIONS)
def _log(x: Any) -> Any:
    """Natural logarithm of a positive float32 to 1e-6, in a form that LLVM vectorises (libm's is called value by value)."""
    bits = np.float32(x).view(np.int32)
    exponent = np.float32((bits >> np.int32(23)) - np.int32(127))
    mantissa = np.int32((bits & np.int32(0x7FFFFF)) | np.int32(0x3F800000)).view(np.float32)
    large = mantissa > np.float32(1.4142135)
    mantissa = mantissa * np.float32(0.5) if large else mantissa
    exponent = exponent + np.float32(1) if large else exponent
    s = (mantissa - np.float32(1)) / (mantissa + np.float32(1))
    q = s * s
    series = q * (np.float32(1 / 3) + q * (np.float32(0.2) + q * (np.float32(1 / 7) + q * np.float32(1 / 9))))
    return np.float32(2) * s * (np.float32(1) + series) + exponent * np.float32(0.6931472)


@njit(**_OPTIONS)
def _residual(
    waves: Any, counts: Any, index: Any, background: Any, mask: Any, guard: float, ratio_sum: Any, want: bool
) -> float:
    """waves *= ½((n + g)/(I + g) − 1); adds the ratio; returns the Poisson deviance where it is wanted."""
    _, modes, n_y, n_x = waves.shape
    deviance = 0.0
    model = np.empty(n_x, np.float32)
    for c in range(len(index)):
        for y in range(n_y):
            for x in range(n_x):
                model[x] = background[y, x]
            for m in range(modes):
                for x in range(n_x):
                    w = waves[c, m, y, x]
                    model[x] += w.real * w.real + w.imag * w.imag
            counted = counts[index[c], y]
            if want:
                line = np.float32(0)
                for x in range(n_x):
                    n = np.float32(counted[x])
                    ratio = (n + guard) / (model[x] + guard)
                    line += mask[y, x] * ((n + guard) * _log(ratio) - (n - model[x]))
                deviance += float(line)
            for x in range(n_x):
                ratio = (np.float32(counted[x]) + guard) / (model[x] + guard)
                ratio_sum[y, x] += ratio
                model[x] = np.float32(0.5) * (ratio - np.float32(1)) * mask[y, x]
            for m in range(modes):
                for x in range(n_x):
                    waves[c, m, y, x] *= model[x]
    return 2 * deviance


@njit(**_OPTIONS)
def _scatter(chi: Any, probe: Any, corners: Any, index: Any, numerator: Any, illumination: Any) -> None:
    """numerator += Σ_m conj(P) χ, illumination += Σ_m |P|² at the windows."""
    _, modes, n_y, n_x = probe.shape
    h_y, h_x = n_y // 2, n_x // 2
    for c in range(len(index)):
        row0, column0 = corners[index[c], 0], corners[index[c], 1]
        for m in range(modes):
            for y in range(n_y):
                row = row0 + (y + h_y) % n_y
                line, light = numerator[row, column0 : column0 + n_x], illumination[row, column0 : column0 + n_x]
                for x in range(n_x - h_x):
                    p = probe[c, m, y, x]
                    line[h_x + x] += chi[c, m, y, x] * p.conjugate()
                    light[h_x + x] += p.real * p.real + p.imag * p.imag
                for x in range(n_x - h_x, n_x):
                    p = probe[c, m, y, x]
                    line[h_x + x - n_x] += chi[c, m, y, x] * p.conjugate()
                    light[h_x + x - n_x] += p.real * p.real + p.imag * p.imag


@njit(**_OPTIONS)
def _times_object(chi: Any, obj: Any, corners: Any, index: Any) -> None:
    """chi *= conj(window of the object)."""
    _, modes, n_y, n_x = chi.shape
    h_y, h_x = n_y // 2, n_x // 2
    for c in range(len(index)):
        row0, column0 = corners[index[c], 0], corners[index[c], 1]
        for m in range(modes):
            for y in range(n_y):
                line = obj[row0 + (y + h_y) % n_y, column0 : column0 + n_x]
                for x in range(n_x - h_x):
                    chi[c, m, y, x] *= line[h_x + x].conjugate()
                for x in range(n_x - h_x, n_x):
                    chi[c, m, y, x] *= line[h_x + x - n_x].conjugate()


@njit(**_OPTIONS)
def _relayout(patterns: Any, index: Any, roll_y: int, roll_x: int, out: Any) -> None:
    """out[i] = patterns[index[i]] rolled, in one sweep."""
    _, n_y, n_x = patterns.shape
    for i in range(len(index)):
        for y in range(n_y):
            source = patterns[index[i], (y - roll_y) % n_y]
            for x in range(n_x):
                out[i, y, x] = source[(x - roll_x) % n_x]


def relayout(patterns: NDArray[Any], roll: tuple[int, int]) -> NDArray[Any]:
    """Patterns (n, ky, kx) with the zero beam rolled to pixel (0, 0), same type."""
    out = np.empty_like(patterns)
    _relayout(patterns, np.arange(len(patterns)), roll[0] % patterns.shape[1], roll[1] % patterns.shape[2], out)
    return out


class FusedCpu:
    """`forward.accumulate` on NumPy arrays with `threads` threads (default: the cores this process may use, at most 8)."""

    name = "cpu"

    def __init__(self, threads: int | None = None) -> None:
        self.threads = threads or min(8, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 2)
        self._pool = ThreadPoolExecutor(self.threads, thread_name_prefix="reconstruct")

    def close(self) -> None:
        """End the threads."""
        self._pool.shutdown()

    def accumulate(
        self,
        obj: NDArray[np.complex64],
        probe_k: NDArray[np.complex64],
        corners: NDArray[np.int32],
        fractions: NDArray[np.float32],
        counts: NDArray[Any],
        index: NDArray[np.int64],
        background: NDArray[np.float32],
        mask: NDArray[np.float32],
        guard: float,
        want_probe: bool,
        want_deviance: bool,
    ) -> Sums:
        """The sums of `forward.accumulate` over the patterns `index` of (n, ky, kx) `counts`."""
        blocks = [b for b in np.array_split(np.sort(index), self.threads) if len(b)]
        task = (
            obj,
            probe_k,
            corners,
            fractions,
            counts,
            background,
            mask,
            np.float32(guard),
            want_probe,
            want_deviance,
        )
        parts = list(self._pool.map(lambda block: _block(block, *task), blocks))
        first = parts[0]
        for part in parts[1:]:
            first.object_numerator += part.object_numerator
            first.illumination += part.illumination
            first.ratio += part.ratio
            first.deviance += part.deviance
            if want_probe:
                first.probe_numerator += part.probe_numerator
        return first


def _block(
    block: NDArray[np.int64],
    obj: NDArray[np.complex64],
    probe_k: NDArray[np.complex64],
    corners: NDArray[np.int32],
    fractions: NDArray[np.float32],
    counts: NDArray[Any],
    background: NDArray[np.float32],
    mask: NDArray[np.float32],
    guard: np.float32,
    want_probe: bool,
    want_deviance: bool,
) -> Sums:
    sums = Sums(
        np.zeros_like(obj),
        np.zeros(obj.shape, np.float32),
        np.zeros_like(probe_k) if want_probe else None,
        np.zeros(background.shape, np.float32),
        0.0,
    )
    shape = (_CHUNK, *probe_k.shape)
    probes, waves = np.empty(shape, np.complex64), np.empty(shape, np.complex64)
    axes = (2, 3)
    for start in range(0, len(block), _CHUNK):
        index = block[start : start + _CHUNK]
        probe, wave = probes[: len(index)], waves[: len(index)]
        _shift(probe_k, fractions, index, wave)
        ducc0.fft.c2c(wave, axes=axes, forward=False, inorm=1, out=probe)
        _exit_wave(obj, corners, index, probe, wave)
        ducc0.fft.c2c(wave, axes=axes, forward=True, inorm=1, out=wave)
        sums.deviance += _residual(wave, counts, index, background, mask, guard, sums.ratio, want_deviance)
        ducc0.fft.c2c(wave, axes=axes, forward=False, inorm=1, out=wave)
        _scatter(wave, probe, corners, index, sums.object_numerator, sums.illumination)
        if want_probe:
            _times_object(wave, obj, corners, index)
            ducc0.fft.c2c(wave, axes=axes, forward=True, inorm=1, out=wave)
            _unshift_add(wave, fractions, index, sums.probe_numerator)
    return sums


def warm_up() -> None:
    """Compile every kernel once, so that the cache beside the module is filled (integers and floats, 1 s each)."""
    from agent.reconstruction.thinning import halves

    shape = (16, 16)
    for kind in (np.uint8, np.uint16, np.float32):
        counts = relayout(np.ones((4, *shape), kind), (8, 8))
        if counts.dtype.kind == "u":
            halves(counts, seed=0)
        kernels = FusedCpu()
        for want in (False, True):
            kernels.accumulate(
                np.ones((24, 24), np.complex64),
                np.ones((1, *shape), np.complex64),
                np.zeros((4, 2), np.int32),
                np.zeros((4, 2), np.float32),
                counts,
                np.arange(4),
                np.ones(shape, np.float32),
                np.ones(shape, np.float32),
                0.1,
                want,
                want,
            )
        kernels.close()


if __name__ == "__main__":
    # `python -m` names this module __main__; the cache must be filed under its own name.
    from agent.reconstruction import kernels_cpu

    kernels_cpu.warm_up()
