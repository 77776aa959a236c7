"""The fused CPU form of `forward.accumulate`: one pattern at a time stays in the second-level cache.

    aperture x ramp -> x | y, x object, y | x, residual, x | y, x conj(probe), x conj(object), y | x -> aperture

with `|` a transposition between *object planes* (groups of sixteen neighbouring x, all y) and *detector planes* (sixteen
ky, all kx). The README of this room has the layout, the order of the frequencies and why.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from agent.reconstruction.kernels.detector import detect, detect_blurred, zero
from agent.reconstruction.kernels.fft import forward, inverse
from agent.reconstruction.kernels.jit import jitted
from agent.reconstruction.kernels.simd import load, splat, store, total, transpose
from agent.reconstruction.kernels.transform import LANES


@jitted
def ramps(frequencies: Any, shift: float, n: int, re: Any, im: Any) -> None:
    """exp(−2πi k·shift/n) of the supported frequencies; the padding behind them stays as it is."""
    for i in range(len(frequencies)):
        angle = -2 * math.pi * frequencies[i] * shift / n
        re[i] = math.cos(angle)
        im[i] = math.sin(angle)


@jitted
def _aperture_to_columns(
    a_re: Any, a_im: Any, weights: Any, mode: int, n_modes: int, places_x: Any, ramp_y: Any, ramp_x: Any,
    n_x: int, plan_x: Any, twiddles_x: Any, t_re: Any, t_im: Any, c_re: Any, c_im: Any,
) -> None:  # fmt: skip
    """One mode's aperture, shifted, transformed along x: compact object planes c[gx][ky place][16 x]."""
    n_apertures, m_x, pad_y = len(weights), len(places_x), ramp_y.shape[1]
    for g in range(0, pad_y, LANES):
        zero(t_re, 0, n_x * LANES)
        zero(t_im, 0, n_x * LANES)
        y_re, y_im = load(ramp_y[0], g), load(ramp_y[1], g)
        for i in range(m_x):
            x_re, x_im = splat(ramp_x[0, i]), splat(ramp_x[1, i])
            re, im = y_re * x_re - y_im * x_im, y_re * x_im + y_im * x_re
            place = (mode * m_x + i) * pad_y + g
            weight = splat(weights[mode])
            p_re, p_im = load(a_re, place) * weight, load(a_im, place) * weight
            if mode == 0:
                for v in range(n_modes, n_apertures):
                    place = (v * m_x + i) * pad_y + g
                    weight = splat(weights[v])
                    p_re, p_im = p_re + load(a_re, place) * weight, p_im + load(a_im, place) * weight
            target = places_x[i] * LANES
            store(t_re, target, p_re * re - p_im * im)
            store(t_im, target, p_re * im + p_im * re)
        inverse(t_re, t_im, 0, n_x, plan_x, twiddles_x)
        for x in range(0, n_x, LANES):
            target = (x // LANES * pad_y + g) * LANES
            transpose(t_re, x * LANES, LANES, c_re, target, LANES)
            transpose(t_im, x * LANES, LANES, c_im, target, LANES)


@jitted
def _through_slice(
    o_re: Any, o_im: Any, window: int, width: int, column: int, n_y: int, n_x: int, plan_y: Any, twiddles_y: Any,
    t_re: Any, t_im: Any, s_re: Any, s_im: Any, stash: int, w_re: Any, w_im: Any,
) -> None:  # fmt: skip
    """The group t (permuted ky × 16 x): along y into real space, kept in s, times the object, along y again, into w.

    `window` is the flat index of the object's pixel at the group's first row and column; w are detector planes [gky][x][16 ky].
    """
    inverse(t_re, t_im, 0, n_y, plan_y, twiddles_y)
    for y in range(n_y):
        i, o = y * LANES, window + y * width
        re, im = load(t_re, i), load(t_im, i)
        store(s_re, stash + i, re)
        store(s_im, stash + i, im)
        x_re, x_im = load(o_re, o), load(o_im, o)
        store(t_re, i, re * x_re - im * x_im)
        store(t_im, i, re * x_im + im * x_re)
    forward(t_re, t_im, 0, n_y, plan_y, twiddles_y)
    for y in range(0, n_y, LANES):
        target = (y // LANES * n_x + column) * LANES
        transpose(t_re, y * LANES, LANES, w_re, target, LANES)
        transpose(t_im, y * LANES, LANES, w_im, target, LANES)


@jitted
def _propagate(
    w_re: Any, w_im: Any, v_re: Any, v_im: Any, h_re: Any, h_im: Any, kernel: int, sign: float,
    n_y: int, n_x: int, plan_x: Any, twiddles_x: Any,
) -> None:  # fmt: skip
    """From detector planes w (x natural) to object planes v (ky permuted), times the propagator (conjugate: sign −1)."""
    hand = splat(np.float32(sign))
    for y in range(0, n_y, LANES):
        base = y * n_x
        forward(w_re, w_im, base, n_x, plan_x, twiddles_x)
        for i in range(base, base + n_x * LANES, LANES):
            re, im = load(w_re, i), load(w_im, i)
            p_re, p_im = load(h_re, kernel + i), load(h_im, kernel + i) * hand
            store(w_re, i, re * p_re - im * p_im)
            store(w_im, i, re * p_im + im * p_re)
        inverse(w_re, w_im, base, n_x, plan_x, twiddles_x)
        for x in range(0, n_x, LANES):
            target = (x // LANES * n_y + y) * LANES
            transpose(w_re, base + x * LANES, LANES, v_re, target, LANES)
            transpose(w_im, base + x * LANES, LANES, v_im, target, LANES)


@jitted
def _back_through_slice(
    o_re: Any, o_im: Any, window: int, width: int, n_y: int, plan_y: Any, twiddles_y: Any, go_on: int,
    t_re: Any, t_im: Any, first: int, s_re: Any, s_im: Any, stash: int, a_re: Any, a_im: Any, illumination: Any,
) -> None:  # fmt: skip
    """The group at `first` of t along y into real space; adds conj(wave)·t and |wave|²; conj(object)·t along y again."""
    inverse(t_re, t_im, first, n_y, plan_y, twiddles_y)
    for y in range(n_y):
        i, o = first + y * LANES, window + y * width
        re, im = load(t_re, i), load(t_im, i)
        p_re, p_im = load(s_re, stash + y * LANES), load(s_im, stash + y * LANES)
        store(a_re, o, load(a_re, o) + (re * p_re + im * p_im))
        store(a_im, o, load(a_im, o) + (im * p_re - re * p_im))
        store(illumination, o, load(illumination, o) + (p_re * p_re + p_im * p_im))
        if go_on:
            x_re, x_im = load(o_re, o), load(o_im, o)
            store(t_re, i, re * x_re + im * x_im)
            store(t_im, i, im * x_re - re * x_im)
    if go_on:
        forward(t_re, t_im, first, n_y, plan_y, twiddles_y)


@jitted
def _columns_to_aperture(
    c_re: Any, c_im: Any, a_re: Any, a_im: Any, weights: Any, mode: int, n_modes: int, frequencies_y: Any,
    frequencies_x: Any, places_x: Any, ramp_y: Any, ramp_x: Any, n_y: int, n_x: int, plan_x: Any, twiddles_x: Any,
    t_re: Any, t_im: Any, sum_re: Any, sum_im: Any, slopes: Any,
) -> None:  # fmt: skip
    """Compact planes c[gx][ky place][16 x] along x to the aperture: its sums, and the slopes of shift and weights."""
    n_apertures, m_x, pad_y = len(weights), len(places_x), len(frequencies_y)
    slope_y, slope_x, slope_w = splat(np.float32(0)), splat(np.float32(0)), splat(np.float32(0))
    for g in range(0, pad_y, LANES):
        for x in range(0, n_x, LANES):
            source = (x // LANES * pad_y + g) * LANES
            transpose(c_re, source, LANES, t_re, x * LANES, LANES)
            transpose(c_im, source, LANES, t_im, x * LANES, LANES)
        forward(t_re, t_im, 0, n_x, plan_x, twiddles_x)
        y_re, y_im, k_y = load(ramp_y[0], g), load(ramp_y[1], g), load(frequencies_y, g)
        for i in range(m_x):
            x_re, x_im = splat(ramp_x[0, i]), splat(ramp_x[1, i])
            re, im = y_re * x_re - y_im * x_im, y_re * x_im + y_im * x_re
            source = places_x[i] * LANES
            b_re, b_im = load(t_re, source), load(t_im, source)
            g_re, g_im = b_re * re + b_im * im, b_im * re - b_re * im  # conj(ramp): the shift undone
            place = (mode * m_x + i) * pad_y + g
            weight = splat(weights[mode])
            p_re, p_im = load(a_re, place), load(a_im, place)
            slope_w = slope_w + (g_re * p_re + g_im * p_im)
            p_re, p_im = p_re * weight, p_im * weight
            store(sum_re, place, load(sum_re, place) + g_re * weight)
            store(sum_im, place, load(sum_im, place) + g_im * weight)
            if mode == 0:
                for v in range(n_modes, n_apertures):
                    place = (v * m_x + i) * pad_y + g
                    weight = splat(weights[v])
                    v_re, v_im = load(a_re, place), load(a_im, place)
                    slopes[2 + v] += total(g_re * v_re + g_im * v_im)
                    p_re, p_im = p_re + v_re * weight, p_im + v_im * weight
                    store(sum_re, place, load(sum_re, place) + g_re * weight)
                    store(sum_im, place, load(sum_im, place) + g_im * weight)
            # conj(g) · (−2πi k/n) · p has the real part 2πk/n · Im(conj(g) p)
            turned = g_re * p_im - g_im * p_re
            slope_y = slope_y + turned * k_y
            slope_x = slope_x + turned * splat(frequencies_x[i])
    slopes[2 + mode] += total(slope_w)
    slopes[0] += np.float32(2 * math.pi / n_y) * total(slope_y)
    slopes[1] += np.float32(2 * math.pi / n_x) * total(slope_x)


@jitted
def block(
    pattern_index: Any, counts: Any,
    corners: Any, subpixel_shifts: Any, weights: Any, propagators_re: Any, propagators_im: Any, mask: Any, transfer: Any,
    plan_y: Any, twiddles_y: Any, plan_x: Any, twiddles_x: Any, order_y: Any, order_x: Any,
    places_y: Any, places_x: Any, frequencies_y: Any, frequencies_x: Any,
    object_re: Any, object_im: Any, n_slices: int, width: int, apertures_re: Any, apertures_im: Any, n_modes: int,
    background: Any, count_offset: float, variance: float, loss: int, want_adjoint: int, want_probe: int, want_ratio: int,
    want_deviance: int, expected: Any, slopes: Any, modelled: Any,
    numerator_re: Any, numerator_im: Any, illumination: Any, aperture_sum_re: Any, aperture_sum_im: Any, ratio_sum: Any,
    t_re: Any, t_im: Any, c_re: Any, c_im: Any, s_re: Any, s_im: Any, w_re: Any, w_im: Any, v_re: Any, v_im: Any,
    model: Any, d_re: Any, d_im: Any, ramp_y: Any, ramp_x: Any,
) -> float:  # fmt: skip
    """The patterns `pattern_index` through the model and back, added to the accumulators; returns half their deviance.

    The arguments are described in `table`, group by group.
    """
    n_y, n_x = len(order_y), len(order_x)
    pad_y, m_y = len(frequencies_y), len(places_y)
    plane, area = n_y * n_x, len(object_re) // n_slices
    deviance = 0.0
    blurred = len(transfer) > 0
    for j in pattern_index:
        corner = corners[j, 0] * width + corners[j, 1]
        ramps(frequencies_y[:m_y], subpixel_shifts[j, 0], n_y, ramp_y[0], ramp_y[1])
        ramps(frequencies_x, subpixel_shifts[j, 1], n_x, ramp_x[0], ramp_x[1])
        for m in range(n_modes):
            _aperture_to_columns(
                apertures_re, apertures_im, weights[j], m, n_modes, places_x, ramp_y, ramp_x, n_x, plan_x, twiddles_x,
                t_re, t_im, c_re, c_im,
            )  # fmt: skip
            for s in range(n_slices):
                if s > 0:
                    _propagate(
                        w_re[m * plane :], w_im[m * plane :], v_re, v_im, propagators_re, propagators_im, (s - 1) * plane, 1.0,
                        n_y, n_x, plan_x, twiddles_x,
                    )  # fmt: skip
                for x in range(0, n_x, LANES):
                    if s == 0:
                        zero(t_re, 0, n_y * LANES)
                        zero(t_im, 0, n_y * LANES)
                        for i in range(m_y):
                            source, target = (x // LANES * pad_y + i) * LANES, places_y[i] * LANES
                            store(t_re, target, load(c_re, source))
                            store(t_im, target, load(c_im, source))
                    else:
                        for i in range(0, n_y * LANES, LANES):
                            store(t_re, i, load(v_re, x * n_y + i))
                            store(t_im, i, load(v_im, x * n_y + i))
                    _through_slice(
                        object_re, object_im, s * area + corner + x, width, x, n_y, n_x, plan_y, twiddles_y, t_re, t_im,
                        s_re, s_im, (m * n_slices + s) * plane + x * n_y, w_re[m * plane :], w_im[m * plane :],
                    )  # fmt: skip
        if blurred:
            part = detect_blurred(
                w_re, w_im, v_re, v_im, n_modes, n_y, n_x, plan_y, twiddles_y, plan_x, twiddles_x, transfer,
                c_re, c_im, d_re, d_im, order_x, order_y, counts, j * plane, mask, background, count_offset, variance,
                loss, want_ratio, ratio_sum, want_deviance, want_adjoint, expected,
            )  # fmt: skip
        else:
            part = detect(
                w_re, w_im, v_re, v_im, n_modes, n_y, n_x, plan_x, twiddles_x, counts, j * plane, mask,
                background, count_offset, variance, loss, want_ratio, ratio_sum, want_deviance, want_adjoint, model, expected,
            )  # fmt: skip
        deviance += part[0]
        modelled[j] = part[1]
        if not want_adjoint:
            continue
        for m in range(n_modes):
            for s in range(n_slices - 1, -1, -1):
                go_on = s > 0 or want_probe
                for x in range(0, n_x, LANES):
                    _back_through_slice(
                        object_re, object_im, s * area + corner + x, width, n_y, plan_y, twiddles_y, go_on,
                        v_re, v_im, m * plane + x * n_y, s_re, s_im, (m * n_slices + s) * plane + x * n_y,
                        numerator_re, numerator_im, illumination,
                    )  # fmt: skip
                    first = m * plane + x * n_y
                    if s > 0:
                        for y in range(0, n_y, LANES):
                            target = m * plane + (y // LANES * n_x + x) * LANES
                            transpose(v_re, first + y * LANES, LANES, w_re, target, LANES)
                            transpose(v_im, first + y * LANES, LANES, w_im, target, LANES)
                    elif want_probe:
                        for i in range(m_y):
                            source, target = first + places_y[i] * LANES, (x // LANES * pad_y + i) * LANES
                            store(c_re, target, load(v_re, source))
                            store(c_im, target, load(v_im, source))
                if s > 0:
                    _propagate(
                        w_re[m * plane :], w_im[m * plane :], v_re[m * plane :], v_im[m * plane :],
                        propagators_re, propagators_im, (s - 1) * plane, -1.0, n_y, n_x, plan_x, twiddles_x,
                    )  # fmt: skip
            if want_probe:
                _columns_to_aperture(
                    c_re, c_im, apertures_re, apertures_im, weights[j], m, n_modes, frequencies_y, frequencies_x, places_x,
                    ramp_y, ramp_x, n_y, n_x, plan_x, twiddles_x, t_re, t_im, aperture_sum_re, aperture_sum_im, slopes[j],
                )  # fmt: skip
    return deviance
