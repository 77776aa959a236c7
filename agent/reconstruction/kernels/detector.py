"""The detector's end of the fused kernels: intensities, point spread, the residual of the counts; and how counts are laid out."""

from __future__ import annotations

from typing import Any

import numpy as np

from agent.reconstruction.kernels.fft import forward, inverse
from agent.reconstruction.kernels.jit import jitted
from agent.reconstruction.kernels.simd import (
    larger,
    load,
    load_counts,
    load_runs,
    log,
    pairs,
    splat,
    sqrt,
    store,
    store_counts,
    total,
    transpose,
)
from agent.reconstruction.kernels.transform import LANES

POISSON, AMPLITUDE = 0, 1
"""Codes of the likelihoods (`forward.LOSSES`); the third is Gaussian."""


@jitted
def zero(plane: Any, start: int, stop: int) -> None:
    nothing = splat(np.float32(0))
    for i in range(start, stop, LANES):
        store(plane, i, nothing)


@jitted
def _residual(
    model: Any, counts: Any, place: int, base: int, n: int, mask: Any, count_offset: float, variance: float, loss: int,
    want_ratio: int, ratio_sum: Any, want_deviance: int,
) -> tuple[float, float]:  # fmt: skip
    """model (n floats from 0) becomes the residual factor; (deviance/2, sum of the masked model) are returned.

    Poisson ½((c + g)/(I + g) − 1), amplitude √((c + g)/(I + g)) − 1, Gaussian ½(c − I)/σ².
    """
    g, half, one = splat(np.float32(count_offset)), splat(np.float32(0.5)), splat(np.float32(1))
    inverse_variance = splat(np.float32(0.5 / variance))
    deviance, modelled = splat(np.float32(0)), splat(np.float32(0))
    for i in range(0, n, LANES):
        counted, expected, seen = load_counts(counts, place + i), load(model, i), load(mask, base + i)
        modelled = modelled + seen * expected
        ratio = (counted + g) / (expected + g)
        if want_ratio:
            store(ratio_sum, base + i, load(ratio_sum, base + i) + ratio)
        if want_deviance:
            deviance = deviance + seen * ((counted + g) * log(ratio) - (counted - expected))
        if loss == POISSON:
            store(model, i, half * (ratio - one) * seen)
        elif loss == AMPLITUDE:
            store(model, i, (sqrt(ratio) - one) * seen)
        else:
            store(model, i, (counted - expected) * inverse_variance * seen)
    return float(total(deviance)), float(total(modelled))


@jitted
def _send_back(
    w_re: Any, w_im: Any, v_re: Any, v_im: Any, factors: Any, place: int, mode: int, y: int, n_y: int, n_x: int,
    plan_x: Any, twiddles_x: Any,
) -> None:  # fmt: skip
    """Waves that begin at `mode`, the group of ky at y: times `factors` from `place` on, along x into object planes v."""
    first = mode + y * n_x
    for i in range(0, n_x * LANES, LANES):
        factor = load(factors, place + i)
        store(w_re, first + i, load(w_re, first + i) * factor)
        store(w_im, first + i, load(w_im, first + i) * factor)
    inverse(w_re, w_im, first, n_x, plan_x, twiddles_x)
    for x in range(0, n_x, LANES):
        target = mode + (x // LANES * n_y + y) * LANES
        transpose(w_re, first + x * LANES, LANES, v_re, target, LANES)
        transpose(w_im, first + x * LANES, LANES, v_im, target, LANES)


@jitted
def detect(
    w_re: Any, w_im: Any, v_re: Any, v_im: Any, n_modes: int, n_y: int, n_x: int, plan_x: Any, twiddles_x: Any,
    counts: Any, place: int, mask: Any, background: Any, count_offset: float, variance: float, loss: int,
    want_ratio: int, ratio_sum: Any, want_deviance: int, want_adjoint: int, model: Any, expected: Any,
) -> tuple[float, float]:  # fmt: skip
    """Waves along x to the detector, the residual, and back along x into object planes v of each mode."""
    plane = n_y * n_x
    deviance, modelled = 0.0, 0.0
    for y in range(0, n_y, LANES):
        base = y * n_x
        for m in range(n_modes):
            forward(w_re, w_im, m * plane + base, n_x, plan_x, twiddles_x)
        for i in range(0, n_x * LANES, LANES):
            intensity = load(background, base + i)
            for m in range(n_modes):
                re, im = load(w_re, m * plane + base + i), load(w_im, m * plane + base + i)
                intensity = intensity + re * re + im * im
            store(model, i, intensity)
            if len(expected) > 0:
                store(expected, place + base + i, intensity)
        part = _residual(
            model, counts, place + base, base, n_x * LANES, mask, count_offset, variance, loss, want_ratio, ratio_sum,
            want_deviance,
        )  # fmt: skip
        deviance += part[0]
        modelled += part[1]
        if not want_adjoint:
            continue
        for m in range(n_modes):
            _send_back(w_re, w_im, v_re, v_im, model, 0, m * plane, y, n_y, n_x, plan_x, twiddles_x)
    return deviance, modelled


@jitted
def detect_blurred(
    w_re: Any, w_im: Any, v_re: Any, v_im: Any, n_modes: int, n_y: int, n_x: int, plan_y: Any, twiddles_y: Any,
    plan_x: Any, twiddles_x: Any, transfer: Any, b_re: Any, b_im: Any, d_re: Any, d_im: Any, order_x: Any, order_y: Any,
    counts: Any, place: int, mask: Any, background: Any, count_offset: float, variance: float, loss: int,
    want_ratio: int, ratio_sum: Any, want_deviance: int, want_adjoint: int, expected: Any,
) -> tuple[float, float]:  # fmt: skip
    """As `detect` with a detector whose point spread has the transfer function `transfer` (real, even)."""
    plane = n_y * n_x
    for y in range(0, n_y, LANES):
        base = y * n_x
        for m in range(n_modes):
            forward(w_re, w_im, m * plane + base, n_x, plan_x, twiddles_x)
        for i in range(base, base + n_x * LANES, LANES):
            intensity = splat(np.float32(0))
            for m in range(n_modes):
                re, im = load(w_re, m * plane + i), load(w_im, m * plane + i)
                intensity = intensity + re * re + im * im
            store(d_re, i, intensity)
    _blur(d_re, b_re, b_im, d_im, n_y, n_x, plan_y, twiddles_y, plan_x, twiddles_x, transfer, order_x, order_y)
    for i in range(0, plane, LANES):
        store(d_re, i, load(d_re, i) + load(background, i))
        if len(expected) > 0:
            store(expected, place + i, load(d_re, i))
    result = _residual(
        d_re, counts, place, 0, plane, mask, count_offset, variance, loss, want_ratio, ratio_sum, want_deviance
    )
    if not want_adjoint:
        return result
    _blur(d_re, b_re, b_im, d_im, n_y, n_x, plan_y, twiddles_y, plan_x, twiddles_x, transfer, order_x, order_y)
    for m in range(n_modes):
        for y in range(0, n_y, LANES):
            _send_back(w_re, w_im, v_re, v_im, d_re, y * n_x, m * plane, y, n_y, n_x, plan_x, twiddles_x)
    return result


@jitted
def _blur(
    image: Any, b_re: Any, b_im: Any, scratch: Any, n_y: int, n_x: int, plan_y: Any, twiddles_y: Any,
    plan_x: Any, twiddles_x: Any, transfer: Any, order_x: Any, order_y: Any,
) -> None:  # fmt: skip
    """Convolve a detector plane in place: image[gky][kx place][16 ky] -> along kx and ky, times `transfer`, and back.

    The plane's frequencies stand permuted and have to be put in order first, which no other step needs.
    """
    plane = n_y * n_x
    for y in range(n_y):
        for x in range(n_x):
            source = (y // LANES * n_x + x) * LANES + y % LANES
            ky, kx = order_y[y], order_x[x]
            b_re[(kx // LANES * n_y + ky) * LANES + kx % LANES] = image[source]
    zero(b_im, 0, plane)
    for x in range(0, n_x, LANES):
        base = x * n_y
        forward(b_re, b_im, base, n_y, plan_y, twiddles_y)
        for y in range(0, n_y, LANES):
            target = (y // LANES * n_x + x) * LANES
            transpose(b_re, base + y * LANES, LANES, image, target, LANES)
            transpose(b_im, base + y * LANES, LANES, scratch, target, LANES)
    for y in range(0, n_y, LANES):
        base = y * n_x
        forward(image, scratch, base, n_x, plan_x, twiddles_x)
        for i in range(base, base + n_x * LANES, LANES):
            factor = load(transfer, i)
            store(image, i, load(image, i) * factor)
            store(scratch, i, load(scratch, i) * factor)
        inverse(image, scratch, base, n_x, plan_x, twiddles_x)
        for x in range(0, n_x, LANES):
            target = (x // LANES * n_y + y) * LANES
            transpose(image, base + x * LANES, LANES, b_re, target, LANES)
            transpose(scratch, base + x * LANES, LANES, b_im, target, LANES)
    for x in range(0, n_x, LANES):
        inverse(b_re, b_im, x * n_y, n_y, plan_y, twiddles_y)
    for y in range(n_y):
        for x in range(n_x):
            target = (y // LANES * n_x + x) * LANES + y % LANES
            ky, kx = order_y[y], order_x[x]
            image[target] = b_re[(kx // LANES * n_y + ky) * LANES + kx % LANES]


@jitted
def relayout(patterns: Any, rows: Any, columns: Any, places: Any, out: Any, block: Any) -> None:
    """Patterns (b · pixels) to detector planes (b · n_y · n_x): [(g · n_x + x) · 16 + l] = pattern[rows[16 g + l] + columns[x]].

    rows are where lines begin in a pattern, columns where pixels stand in them; one less than 0 is a pixel that the detector
    does not have. places are the x of each pixel of a line. block (512) is scratch.
    """
    n_y, n_x, width = len(rows), len(columns), len(places)
    n = len(out) // (n_y * n_x)
    pixels, nothing = len(patterns) // n, splat(np.float32(0))
    for i in range(n):
        source = i * pixels
        for g in range(0, n_y, LANES):
            target = i * n_y * n_x + g * n_x
            for x in range(n_x):
                if columns[x] < 0:
                    store_counts(out, target + x * LANES, nothing)
            if width < LANES:
                for x in range(n_x):
                    for lane in range(LANES):
                        there = rows[g + lane] >= 0 and columns[x] >= 0
                        block[lane] = patterns[source + rows[g + lane] + columns[x]] if there else 0
                    store_counts(out, target + x * LANES, load(block, 0))
                continue
            first = 0
            while first < width:
                first = min(first, width - LANES)  # the last block may overlap the one before
                for lane in range(LANES):
                    row = rows[g + lane]
                    store(block, lane * LANES, nothing if row < 0 else load_counts(patterns, source + row + first))
                transpose(block, 0, LANES, block, LANES * LANES, LANES)
                for j in range(LANES):
                    store_counts(out, target + places[first + j] * LANES, load(block, (LANES + j) * LANES))
                first += LANES


@jitted
def add_up(planes: Any, totals: Any, sums: Any) -> None:
    """totals (b,) = counts of each of the planes (b · pixels), sums (pixels) += all planes."""
    pixels = len(sums)
    for i in range(len(totals)):
        part = splat(np.float32(0))
        for place in range(0, pixels, LANES):
            counts = load_counts(planes, i * pixels + place)
            store(sums, place, load(sums, place) + counts)
            part = part + counts
            if place % 4096 == 4096 - LANES or place == pixels - LANES:
                totals[i] += total(part)
                part = splat(np.float32(0))


@jitted
def bin_up(planes: Any, pixels: int, places: Any, out: Any, largest: Any) -> None:
    """out (b · m) = counts of the planes (b · pixels), four places added up; their largest values go into `largest` (16).

    places (4, m/8) are where runs of eight begin, or (4, m) where there are none.
    """
    n, m = len(planes) // pixels, places.shape[1]
    most = splat(np.float32(0))
    for i in range(n):
        source = i * pixels
        if 32 * m == pixels:
            target = i * 8 * m
            for j in range(0, m, 2):
                counts = load_runs(planes, source + places[0, j], source + places[0, j + 1])
                for q in range(1, 4):
                    counts = counts + load_runs(planes, source + places[q, j], source + places[q, j + 1])
                most = larger(most, counts)
                store_counts(out, target + 8 * j, counts)
        else:
            target = i * m
            for first in range(0, m, LANES):
                for j in range(LANES):
                    largest[j] = 0
                    for q in range(4):
                        largest[j] += planes[source + places[q, first + j]]
                counts = load(largest, 0)
                most = larger(most, counts)
                store_counts(out, target + first, counts)
    store(largest, 0, most)


@jitted
def pair_up(patterns: Any, width: int, out: Any, largest: Any) -> None:
    """out (b · pixels/4) = patterns (b · pixels, lines of `width`, a multiple of 32) with 2 × 2 pixels added up; see `bin_up`."""
    most = splat(np.float32(0))
    for line in range(len(patterns) // (2 * width)):
        for x in range(0, width, 2 * LANES):
            first = 2 * line * width + x
            one = load_counts(patterns, first) + load_counts(patterns, first + width)
            other = load_counts(patterns, first + LANES) + load_counts(patterns, first + width + LANES)
            counts = pairs(one, other)
            most = larger(most, counts)
            store_counts(out, (line * width + x) // 2, counts)
    store(largest, 0, most)
