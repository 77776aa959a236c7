"""A raster of patterns before it is calibrated: what is checked, its mean pattern and disc, and how much of it memory holds."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.reconstruction.calibration.bright_field import BrightFieldDisc, fit_disc
from agent.reconstruction.model.checks import as_mask, check_semiangle, check_voltage, is_number
from agent.reconstruction.model.count_checks import MOST_COUNTS
from instrument import memory, optics
from instrument.errors import BadInputError

_STEPS = (1e-3, 1e5)  # Å
_MISMATCH = 1.5  # factor between the disc's radius and the semi-angle; both are hardly ever wrong by more, units are
_IMAGE_BYTES = 24  # that a pixel of the disc takes for each pattern: its image, its transform, and this shifted back


def check_numbers(
    scan_step: float, voltage: float, semiangle: float, angular_pixel: float | None, nominal_defocus: float | None
) -> None:
    """Raise BadInputError where a number cannot be what its name says; units as in `calibrate`."""
    positive = {"scan_step": scan_step, "voltage": voltage, "semiangle": semiangle}
    if angular_pixel is not None:
        positive["angular_pixel"] = angular_pixel
    for name, value in positive.items():
        if not (is_number(value) and value > 0):
            msg = f"{name} of {value} is not possible; a positive number is expected"
            raise BadInputError(msg)
    check_voltage(voltage)
    check_semiangle(semiangle)
    if not isinstance(voltage, optics.EquivalentVoltage) and not _STEPS[0] <= scan_step <= _STEPS[1]:
        msg = f"scan_step of {scan_step:g} Å is not possible; legal: {_STEPS[0]:g} … {_STEPS[1]:g} Å (1 nm is 10, 1 m is 1e10)"
        raise BadInputError(msg)
    if nominal_defocus is not None and not is_number(nominal_defocus):
        msg = f"nominal_defocus of {nominal_defocus} is not a number; Å are expected, positive for underfocus"
        raise BadInputError(msg)


def check_scale(disc: BrightFieldDisc, semiangle: float, angular_pixel: float) -> None:
    """Raise BadInputError unless disc, semi-angle and angular pixel (mrad) fit together."""
    seen = disc.radius * angular_pixel
    if not 1 / _MISMATCH < seen / semiangle < _MISMATCH:
        msg = (
            f"the bright-field disc has a radius of {disc.radius:.4g} pixels of {angular_pixel:g} mrad, {seen:.4g} mrad, and "
            f"semiangle is {semiangle:g} mrad; one of them is wrong (without angular_pixel it is found from the semiangle)"
        )
        raise BadInputError(msg)


def check_nominal(nominal: float | None, scan_step: float, edge: float, scan: tuple[int, ...]) -> None:
    """Raise BadInputError unless images shifted by the nominal defocus (Å) still overlap; `edge` of the disc in mrad."""
    largest = max(scan) * scan_step / (edge * 1e-3)
    if nominal is not None and abs(nominal) > largest:
        msg = (
            f"nominal_defocus of {nominal:g} Å would shift the bright-field images by more than the scan is wide; legal with "
            f"steps of {scan_step:g} Å: up to ±{largest:.4g} Å; are both in Å?"
        )
        raise BadInputError(msg)


def mean_pattern(patterns: Any, mask: Any) -> tuple[NDArray[np.float64], NDArray[np.bool_] | None]:
    """(ky, kx) mean of (scan_y, scan_x, ky, kx) counts in one sweep, and the mask as bool.

    Raises BadInputError where they are no counts.
    """
    if not all(hasattr(patterns, attribute) for attribute in ("shape", "dtype", "ndim")):
        msg = f"patterns are a {type(patterns).__name__}; a NumPy array is expected"
        raise BadInputError(msg)
    if patterns.ndim != 4 or min(patterns.shape[:2]) < 8:
        msg = f"calibration needs a raster of at least 8 × 8 patterns, not {' × '.join(map(str, patterns.shape))}"
        raise BadInputError(msg)
    if patterns.dtype.kind not in "uif":
        msg = f"patterns are of type {patterns.dtype}; unsigned integers or floats are expected"
        raise BadInputError(msg)
    seen = as_mask(mask, patterns.shape[2:])
    total = np.zeros(patterns.shape[2:])
    for i in range(len(patterns)):
        row = np.asarray(patterns[i])
        total += row.sum(axis=0, dtype=np.float64)
        if not np.isfinite(total).all():
            msg = f"the patterns of scan row {i} hold values that are not numbers; mask such pixels and set them to 0"
            raise BadInputError(msg)
        if row.max() > MOST_COUNTS:
            msg = (
                f"the patterns of scan row {i} hold {row.max():.4g} counts in a pixel; legal: up to {MOST_COUNTS:g}; mask such "
                f"pixels and set them to 0, or divide by the signal of one electron"
            )
            raise BadInputError(msg)
        if row.dtype.kind != "u" and row.min() < 0:
            msg = f"the patterns of scan row {i} hold negative counts (smallest {row.min():g}); subtract no background before"
            raise BadInputError(msg)
    if not total.any():
        msg = f"all {patterns.shape[0] * patterns.shape[1]} patterns are empty; there is nothing to calibrate from"
        raise BadInputError(msg)
    return total / (patterns.shape[0] * patterns.shape[1]), seen


def evened(patterns: Any, intensity: NDArray[np.float64]) -> NDArray[np.float32]:
    """Patterns as a steady beam would have made them, and their mean where there is none, which tells nothing.

    Args:
        patterns: (scan_y, scan_x, ky, kx) counts.
        intensity: (scan_y, scan_x) of the beam, relative; 0 where there is no pattern.

    Returns:
        (scan_y, scan_x, ky, kx).
    """
    there = np.asarray(intensity) > 0
    even = memory.allocate(patterns.shape, np.float32)
    total = np.zeros(patterns.shape[2:])
    for i in range(len(even)):
        gain = np.where(there[i], 1 / np.where(there[i], intensity[i], 1), 0).astype(np.float32)
        even[i] = np.asarray(patterns[i], np.float32) * gain[:, None, None]
        total += even[i].sum(axis=0, dtype=np.float64)
    even[~there] = total / max(int(there.sum()), 1)
    return even


def middle_part(patterns: Any, disc: BrightFieldDisc) -> Any:
    """(scan_y, scan_x, ky, kx), or as much of its middle as half of the free memory holds bright-field images of."""
    n_y, n_x = patterns.shape[:2]
    most = memory.free_memory() / 2 / (_IMAGE_BYTES * math.pi * disc.radius**2)
    if n_y * n_x <= most:
        return patterns
    rows, columns = (max(8, int(n * math.sqrt(most / (n_y * n_x)))) for n in (n_y, n_x))
    top, left = (n_y - rows) // 2, (n_x - columns) // 2
    if isinstance(patterns, np.ndarray):
        return patterns[top : top + rows, left : left + columns]
    part = memory.allocate((rows, columns, *patterns.shape[2:]), patterns.dtype)
    for i in range(rows):
        part[i] = patterns[top + i, left : left + columns]
    return part


def note_of_part(whole: tuple[int, int], part: tuple[int, int]) -> tuple[str, ...]:
    """A note where only a part of the (scan_y, scan_x) patterns was looked at."""
    if part == whole:
        return ()
    return (
        f"memory holds the bright-field images of {part[0]} × {part[1]} of the {whole[0]} × {whole[1]} positions, so only those "
        f"in the middle were looked at",
    )


def find_disc(mean: NDArray[np.float64], mask: NDArray[np.bool_] | None) -> BrightFieldDisc:
    """The bright-field disc of a mean pattern.

    Args:
        mean: (ky, kx) counts.
        mask: (ky, kx), True where the detector counts.

    Raises:
        BadInputError: no disc stands out, or it is too small to see its images shift.
    """
    disc = fit_disc(mean, mask)
    if disc.radius < 3:
        msg = f"the bright-field disc has a radius of {disc.radius:.2g} pixels; at least 3 are needed to see its images shift"
        raise BadInputError(msg)
    return disc
