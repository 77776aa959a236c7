"""Source size and focal spread measured by likelihood (README, "Incoherence by likelihood")."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from agent.reconstruction.calibration import parameters
from agent.reconstruction.calibration.expectation import LONG, Expectation, Made, central_part, short_settings
from agent.reconstruction.model.data import DiffractionData
from agent.reconstruction.model.settings import ReconstructionSettings
from instrument.errors import BadInputError

DIFFERENCE = 0.2
"""Step of the finite differences, natural units."""
LONGEST = 2.0
"""Largest step, natural units."""
STEPS = 5
SETTLED = 0.3
"""Steps shorter than this many standard deviations are the last."""
UNSEEN = 0.75
"""Weight of the counts that the object was not made from. Those it was made from ask for too much coherence, the others for too
little; the truth was found at 0.65 to 0.8."""
UNSURE = 0.125
"""Standard deviation of that weight."""


def measure_incoherence(
    data: DiffractionData,
    widths: Mapping[str, float],
    settings: ReconstructionSettings | None = None,
    n_positions: int = 324,
) -> tuple[DiffractionData, dict[str, float]]:
    """Find the parameters of the coherence named in `widths`, all together; the other optics have to be known.

    Args:
        data: whole counts; start of the search.
        widths: parameter (see `parameters`) -> standard deviation, in its unit, of what is known of it before.
        settings: the physics that reconstructions are made with.
        n_positions: positions used, the dense square in the middle of the scan.

    Returns:
        The data with what was found, and parameter -> standard deviation, what was known before included.

    Raises:
        BadInputError: counts are not of an unsigned type, so that no half of them can be drawn.
    """
    if data.patterns.dtype.kind != "u":
        msg = f"source size and focal spread are measured from halves of whole counts; patterns are of type {data.patterns.dtype}"
        raise BadInputError(msg)
    part = central_part(data, n_positions)
    small = data.at(part)
    names = tuple(widths)
    chosen = short_settings(settings or ReconstructionSettings(background=False))
    whole = Expectation.of(small, replace(chosen, regularise=True), names)
    half = whole.halved()
    seen, unseen = half.counts, whole.counts - half.counts
    units = np.array([parameters.unit(data, name) for name in names])
    start = np.array([parameters.value(data, name) for name in names])
    least = np.array([-np.inf if name in parameters.SOURCE[1:] else 0.0 for name in names])
    precision = np.diag((units / np.array([widths[name] for name in names])) ** 2)
    found, made = start, None
    for _ in range(STEPS):
        expected, made = half(found, LONG, made)
        jacobian, expected = _derivatives(half, found, units, made)
        weighted = jacobian * (2 / (expected + half.count_offset))  # the information of all counts
        curvature = (weighted @ jacobian.T).astype(np.float64) + precision
        residual = UNSEEN * unseen + (1 - UNSEEN) * seen - expected
        slope = (weighted @ residual).astype(np.float64) - precision @ ((found - start) / units)
        step = _within(curvature, slope, (least - found) / units)
        step *= min(1.0, LONGEST / max(float(np.abs(step).max()), 1e-30))
        found = found + step * units
        if float(np.sqrt(step @ curvature @ step)) < SETTLED:
            break
    inverse = np.linalg.inv(curvature)
    bracket = inverse @ (weighted @ (unseen - seen)).astype(np.float64)
    spread = np.hypot(np.sqrt(np.diag(inverse)), UNSURE * bracket) * units
    values = dict(zip(names, found.tolist(), strict=True))
    return parameters.with_values(data, values), dict(zip(names, spread.tolist(), strict=True))


def _derivatives(
    function: Expectation, at: NDArray[np.float64], units: NDArray[np.float64], made: Made
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Derivatives (p, m) in natural units, and the expectation (m,): each after as many further passes from `made`."""
    expected, _ = function(at, LONG, made)
    rows = []
    for i, unit in enumerate(units):
        there = at.copy()
        there[i] += DIFFERENCE * unit
        rows.append((function(there, LONG, made)[0] - expected) / np.float32(DIFFERENCE))
    return np.stack(rows), expected


def _within(
    curvature: NDArray[np.float64], slope: NDArray[np.float64], least: NDArray[np.float64]
) -> NDArray[np.float64]:
    """The Newton step (p,) that goes below `least` (p,) nowhere."""
    free = np.ones(len(slope), bool)
    step = np.asarray(np.linalg.solve(curvature, slope))
    for _ in range(len(slope)):
        low = free & (step < least)
        if not low.any():
            break
        free &= ~low
        step = np.where(free, 0.0, least)
        if free.any():
            right = (slope - curvature @ step)[free]
            step[free] = np.linalg.solve(curvature[np.ix_(free, free)], right)
    return step
