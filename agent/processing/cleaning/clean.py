"""One look at an acquisition before anything is measured: which patterns and pixels count, and how bright the beam was."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.cleaning_record import Cleaning
from agent.errors import BadInputError
from agent.processing.cleaning.descan import BLUR, Descan, led_back, measure_descan, still_good
from agent.processing.cleaning.frames import Frames, judge_frames
from agent.processing.cleaning.intensity import relative_intensity
from agent.processing.cleaning.pixels import BadPixels, find_bad_pixels, find_zero_beam
from agent.reconstruction import DiffractionData, survey
from agent.scoring.splitting import SEVERAL_COUNTS, excess_variance

FEWEST_PATTERNS = 16
"""An acquisition with fewer patterns left cannot be reconstructed."""
LOOKED_AT = 256
"""Patterns that tell roughly where the zero beam is."""
ENOUGH = 50.0
"""Counts of a pattern that tell how bright it is, well enough for the scatter of others not to be taken for the detector's."""
_TYPICAL = (0.05, 0.95)
"""Quantiles of their counts between which patterns are looked at for bad pixels, while bad patterns are not known."""


@dataclass(frozen=True)
class Raster:
    """A scan as lines of positions, complete but for patterns that were left out.

    Attributes:
        patterns: (scan_y, scan_x, ky, kx) counts.
        intensity: (scan_y, scan_x) of the beam, relative; 0 where there is no pattern.
        step: from position to position, Å.
    """

    patterns: NDArray[Any]
    intensity: NDArray[np.float64]
    step: float


@dataclass(frozen=True)
class Cleaned:
    """An acquisition made ready.

    Attributes:
        data: the patterns that count, with the mask and the intensities found.
        raster: the same as a raster, in whole lines from the first to the last with a pattern; None: the positions are none.
        record: what was found and done.
        bad: the pixels that do not count.
    """

    data: DiffractionData
    raster: Raster | None
    record: Cleaning
    bad: BadPixels


def clean(
    data: DiffractionData,
    received: NDArray[np.bool_],
    rasters: Sequence[NDArray[np.int64]],
    *,
    dead_pixels: Sequence[tuple[int, int]] = (),
    saturation: int = 2**16 - 1,
    counts_per_electron: float | None = None,
) -> Cleaned:
    """Find out which patterns and pixels count.

    Args:
        data: (n, ky, kx) counts of all positions, with nominal optics; its mask is not looked at.
        received: (n,) False where no pattern arrived.
        rasters: (scan_y, scan_x) numbers of the patterns of each raster that the positions are; none: they are no raster.
        dead_pixels: (row, column) that the instrument advertises.
        saturation: count at which a pixel is full.
        counts_per_electron: as the instrument says; None: it is found from how much counts scatter.

    Raises:
        BadInputError: fewer than FEWEST_PATTERNS are left, or no pixel.
    """
    _check_enough(received, received)
    looked = data.look()
    frames, bad = _judged(replace(data, survey=looked), received, dead_pixels, saturation)
    kept = received & frames.kept
    _check_enough(kept, received)
    good = ~bad.any
    descan = _descan(data, kept, good)
    if descan is not None:
        shifts = descan.shifts(data.positions)
        data = replace(data, patterns=led_back(data.patterns, shifts), point_spread=BLUR)
        good = still_good(good, shifts)
    _check_pixels(good)
    ready = data.at(kept)
    patterns = ready.patterns
    ready = replace(ready, mask=good, survey=looked if patterns is looked.patterns else survey(patterns))
    totals, lines = frames.totals[kept], _lines(data, rasters)
    rough = totals / totals.mean() if totals.min() > ENOUGH else None
    scatter = excess_variance(patterns, ready.positions, rough)
    per_electron = counts_per_electron or (scatter if scatter > SEVERAL_COUNTS else 1.0)
    intensity = relative_intensity(totals, ready.positions, None if lines is None else lines[kept], per_electron)
    ready = replace(ready, intensity=intensity, counts_per_electron=max(per_electron, 1.0))
    record = Cleaning(
        patterns=int(received.sum()),
        missing=int((~received).sum()),
        empty=int(frames.empty.sum()),
        saturated=int(frames.saturated.sum()),
        partial=int(frames.partial.sum()),
        dead_pixels=int(bad.dead.sum()),
        hot_pixels=int(bad.hot.sum()),
        intensity_sd=None if intensity is None else float(intensity.std()),
        descan=None if descan is None else descan.range,
        descan_sd=None if descan is None else descan.sd,
        counts_per_electron=None if not np.isfinite(scatter) else float(scatter),
    )
    raster = _raster(data, kept, intensity, rasters[0]) if rasters else None
    return Cleaned(ready, raster, record, bad)


def _descan(data: DiffractionData, kept: NDArray[np.bool_], good: NDArray[np.bool_]) -> Descan | None:
    """How the zero beam wanders with the scan; None where it stays, or where that cannot be told."""
    radius = data.semiangle / data.angular_pixel
    chosen = np.flatnonzero(kept)
    some = chosen[np.unique(np.linspace(0, len(chosen) - 1, LOOKED_AT).astype(np.int64))]
    mean = np.mean([np.asarray(data.patterns[number], np.float64) for number in some], axis=0)
    centre = find_zero_beam(mean, ~good, radius)
    found = measure_descan(data.patterns, data.positions, chosen, good, centre, radius)
    return found if found is not None and found.found else None


def _check_pixels(good: NDArray[np.bool_]) -> None:
    if good.any():
        return
    msg = (
        f"none of the {good.shape[0]} × {good.shape[1]} pixels of the patterns counts all through the scan: all are bad, or the "
        "beam wanders farther than the detector reaches, as where the detector's axes are not the last two of the data"
    )
    raise BadInputError(msg)


def _check_enough(kept: NDArray[np.bool_], received: NDArray[np.bool_]) -> None:
    if kept.sum() >= FEWEST_PATTERNS:
        return
    lost = "" if kept.all() else f" ({len(kept)} were asked for)"
    left_out = int(received.sum() - kept.sum())
    why = f"; {left_out} are empty, saturated or partial" if left_out else ""
    there = {0: "there is no pattern", 1: "there is only one pattern"}.get(int(kept.sum()))
    there = there or f"there are only {int(kept.sum())} patterns"
    msg = f"{there}{lost}; {FEWEST_PATTERNS} are needed to reconstruct{why}"
    raise BadInputError(msg)


def _judged(
    data: DiffractionData, received: NDArray[np.bool_], dead_pixels: Sequence[tuple[int, int]], saturation: int
) -> tuple[Frames, BadPixels]:
    """Patterns and pixels, judged in turn: bad ones of either kind spoil what the other is judged by."""
    radius = data.semiangle / data.angular_pixel
    totals = data.look().totals
    counted = totals[received]
    low, high = np.quantile(counted[counted > 0], _TYPICAL) if counted.any() else (0.0, 0.0)
    typical = received & (totals >= low) & (totals <= high)
    bad = find_bad_pixels(data.patterns, np.flatnonzero(typical if typical.any() else received), radius, dead_pixels)
    frames = judge_frames(data.patterns, received, ~bad.any, saturation)
    kept = received & frames.kept
    if kept.any() and not np.array_equal(kept, received):
        bad = find_bad_pixels(data.patterns, np.flatnonzero(kept), radius, dead_pixels)
        frames = judge_frames(data.patterns, received, ~bad.any, saturation)
    return frames, bad


def _lines(data: DiffractionData, rasters: Sequence[NDArray[np.int64]]) -> NDArray[np.int64] | None:
    """(n,) number of the scan line of each pattern, another in each pass; None without a raster."""
    if not rasters:
        return None
    lines = np.zeros(len(data.positions), np.int64)
    for number, raster in enumerate(rasters):
        lines[raster] = np.arange(len(raster))[:, None] + number * len(raster)
    return lines if data.pass_index is None else lines + data.pass_index * sum(map(len, rasters))


def _raster(
    data: DiffractionData, kept: NDArray[np.bool_], intensity: NDArray[np.float64] | None, index: NDArray[np.int64]
) -> Raster:
    """Whole lines from the first to the last with a pattern, of patterns (scan_y, scan_x) numbered by `index`."""
    brightness = np.zeros(len(kept))
    brightness[kept] = 1.0 if intensity is None else intensity
    there = kept[index]
    lines = np.flatnonzero(there.any(axis=1))
    first, last = int(lines[0]), int(lines[-1]) + 1
    if last < len(index) and last - first > 1 and not there[last - 1].all():
        last -= 1  # the line in which a scan was aborted
    index = index[first:last]
    order = index.ravel()
    in_a_row = bool((np.diff(order) == 1).all())
    patterns = data.patterns[order[0] : order[-1] + 1] if in_a_row else data.patterns[order]
    step = float(np.abs(np.diff(data.positions[order[:2]], axis=0)).max(initial=0.0))
    return Raster(patterns.reshape(*index.shape, *patterns.shape[1:]), brightness[index], step)
