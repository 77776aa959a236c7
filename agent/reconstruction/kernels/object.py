"""Arithmetic on the object between batches, in one sweep each: NumPy's ten take as long as the patterns of a small batch."""

from __future__ import annotations

from typing import Any

import numpy as np

from agent.reconstruction.kernels.jit import jitted


@jitted
def split(z: Any, re: Any, im: Any) -> None:
    """Complex numbers, as floats (2 n), to real and imaginary parts (n)."""
    for i in range(len(re)):
        re[i], im[i] = z[2 * i], z[2 * i + 1]


@jitted
def gather(
    re: Any, im: Any, illumination: Any, illumination_scale: float, more: int, numerator: Any, total_illumination: Any
) -> None:
    """One thread's sums (m) become numerator (2 m floats) and scaled illumination (m), or are added to them: `more`."""
    factor = np.float32(illumination_scale)
    for i in range(len(re)):
        x, y, lit = re[i], im[i], illumination[i] * factor
        if more:
            x, y, lit = x + numerator[2 * i], y + numerator[2 * i + 1], lit + total_illumination[i]
        numerator[2 * i], numerator[2 * i + 1], total_illumination[i] = x, y, lit


@jitted
def step_phases(z: Any, numerator: Any, illumination: Any, size: float, floor: float, positive: int) -> None:
    """`forward.step_phases` on floats z (2 n)."""
    half, least = np.float32(0.5 * size), np.float32(floor)
    for i in range(len(illumination)):
        re, im = z[2 * i], z[2 * i + 1]
        x, y = numerator[2 * i], numerator[2 * i + 1]
        a = half * (re * y - im * x) / (illumination[i] + least)
        if positive:
            a = max(a, -im / max(np.sqrt(re * re + im * im) + re, np.float32(1e-6)))
        d = np.float32(1) / (np.float32(1) + a * a)
        cosine, sine = (np.float32(1) - a * a) * d, np.float32(2) * a * d
        z[2 * i], z[2 * i + 1] = re * cosine - im * sine, re * sine + im * cosine
