"""Whether data can be reconstructed, said before anything is computed: one sentence with the value and what is legal."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.reconstruction.model.count_checks import are_counts, check_counts
from agent.reconstruction.model.data import DiffractionData
from instrument import memory, optics
from instrument.errors import BadInputError

LARGEST_OBJECT = 16384
"""Object pixels along an edge; a wider field is a mistake of units, or too much for one reconstruction."""
SMALLEST_DETECTOR = 8
"""Pixels along an edge of a pattern."""
SEMIANGLES = (0.1, 200.0)
"""mrad; smaller ones are rad, larger ones no electron lens has."""
_BYTES = (160, 163)
"""That a pixel of the object takes once, and in each slice: object, momentum, gradient, prior, threads' sums, best pass, result.

Peak of the process with 3600 patterns of 64² in 1, 2, 4 and 8 slices: 316, 430, 753 and 1369 a pixel,
without the best pass, which takes 8 in each slice."""
_SAMPLED = 64
"""Positions whose nearest neighbour is looked for."""


def check_data(data: DiffractionData, slices: int = 1, before: DiffractionData | None = None) -> None:
    """Raise BadInputError with one sentence unless `data` can be reconstructed in so many slices, appended to `before`.

    `data.patterns` may be an array, a memory map or an h5py data set; it is read in parts. A pattern without counts is legal
    (at low dose it happens, and it tells something), patterns that are all without counts are not.
    """
    _check_shapes(data)
    if before is not None and data.patterns.shape[1:] != before.patterns.shape[1:]:
        msg = f"patterns of {data.patterns.shape[1:]} pixels cannot be appended to some of {before.patterns.shape[1:]}"
        raise BadInputError(msg)
    _check_optics(data)
    _check_coherence(data)
    _check_positions(data)
    all_positions = data.positions if before is None else np.concatenate([before.positions, data.positions])
    _check_overlap(data)
    _check_extent(replace(data, positions=all_positions), slices)
    if not are_counts(data):
        check_counts(data.patterns, None if data.mask is None else np.asarray(data.mask, dtype=bool))


def _check_shapes(data: DiffractionData) -> None:
    patterns, positions = data.patterns, data.positions
    for name, array in (("patterns", patterns), ("positions", positions)):
        if not all(hasattr(array, attribute) for attribute in ("shape", "dtype", "ndim")):
            msg = f"{name} are a {type(array).__name__}; a NumPy array is expected"
            raise BadInputError(msg)
    if patterns.ndim != 3:
        hint = "; reshape a raster to (scan_y · scan_x, ky, kx)" if patterns.ndim == 4 else ""
        msg = f"patterns have shape {patterns.shape}; (n, ky, kx) is expected{hint}"
        raise BadInputError(msg)
    if patterns.dtype.kind not in "uif":
        msg = f"patterns are of type {patterns.dtype}; unsigned integers or floats are expected"
        raise BadInputError(msg)
    if positions.shape != (len(patterns), 2):
        msg = f"positions have shape {positions.shape}; ({len(patterns)}, 2) is expected for {len(patterns)} patterns"
        raise BadInputError(msg)
    if isinstance(patterns, np.ma.MaskedArray):
        msg = "patterns are a masked array; give a plain one, and which detector pixels count as mask"
        raise BadInputError(msg)
    if 0 in patterns.shape:
        msg = f"there are no patterns (shape {patterns.shape})"
        raise BadInputError(msg)
    detector = patterns.shape[1:]
    if min(detector) < SMALLEST_DETECTOR:
        least = f"{SMALLEST_DETECTOR} × {SMALLEST_DETECTOR}"
        msg = f"patterns have {detector[0]} × {detector[1]} pixels; at least {least} are expected"
        raise BadInputError(msg)
    as_mask(data.mask, detector)
    if data.intensity is not None:
        _check_intensity(np.asarray(data.intensity), len(patterns))
    if data.aperture is not None:
        _check_aperture(np.asarray(data.aperture), detector)
    if data.probe is not None:
        _check_probe(np.asarray(data.probe))


def as_mask(mask: Any, detector: tuple[int, ...]) -> NDArray[np.bool_] | None:
    """`mask` as (ky, kx) bool; None stays None. Raises BadInputError where it is no mask of such a detector."""
    if mask is None:
        return None
    given = np.asarray(mask)
    if given.shape != detector:
        msg = f"the mask has shape {given.shape}, the patterns {detector}"
        raise BadInputError(msg)
    if given.dtype.kind not in "buif" or not ((given == 0) | (given == 1)).all():
        msg = f"the mask ({given.dtype}) holds more than True and False (1 and 0); it is True where a pixel counts"
        raise BadInputError(msg)
    if not given.any():
        msg = "the mask hides every detector pixel; it is True where a pixel counts"
        raise BadInputError(msg)
    return given.astype(bool)


def _check_intensity(intensity: NDArray[Any], n: int) -> None:
    if intensity.shape != (n,):
        msg = f"intensity has shape {intensity.shape}; ({n},) is expected for {n} patterns"
        raise BadInputError(msg)
    if intensity.dtype.kind not in "buif" or not (intensity.min() >= 0 and 0 < intensity.max() < np.inf):
        msg = (
            "intensity holds negative values, values that are not numbers, or only zeros; it is relative to its mean, 1"
        )
        raise BadInputError(msg)


def _check_aperture(aperture: NDArray[Any], detector: tuple[int, ...]) -> None:
    if aperture.shape != detector:
        msg = f"the aperture has shape {aperture.shape}, the patterns {detector}"
        raise BadInputError(msg)
    if aperture.dtype.kind not in "buif" or not (np.min(aperture) >= 0 and 0 < np.max(aperture) < np.inf):
        msg = "the aperture is no amplitude; it holds negative or complex values, values that are not numbers, or only zeros"
        raise BadInputError(msg)


def _check_probe(waves: NDArray[Any]) -> None:
    if waves.ndim != 3 or 0 in waves.shape or waves.dtype.kind not in "fc":
        msg = f"the probe is of shape {waves.shape} and type {waves.dtype}; complex waves (modes, y, x) are expected"
        raise BadInputError(msg)
    if not (np.isfinite(waves).all() and waves[0].any()):
        msg = "the probe is 0 everywhere or holds values that are not numbers; leave it out"
        raise BadInputError(msg)


def _check_optics(data: DiffractionData) -> None:
    for name in ("voltage", "semiangle", "angular_pixel", "counts_per_electron"):
        value = getattr(data, name)
        if not (is_number(value) and value > 0):
            msg = f"{name} of {value} is not possible; a positive number is expected"
            raise BadInputError(msg)
    check_voltage(data.voltage)
    if not is_number(data.defocus):
        msg = f"defocus of {data.defocus} is not a number; Å are expected, positive for underfocus"
        raise BadInputError(msg)
    given: Any = data.aberrations
    if not isinstance(given, Mapping):
        msg = f"aberrations are a {type(given).__name__}; a mapping is expected, such as {{'C12': 20.0, 'phi12': 0.3}}"
        raise BadInputError(msg)
    for name, value in data.aberrations.items():
        if name not in optics.ABERRATIONS or name == "C10":
            known = ", ".join(known for known in optics.ABERRATIONS if known != "C10")
            msg = f"unknown aberration {name!r}; legal: {known}" + ("; C10 is −defocus" if name == "C10" else "")
            raise BadInputError(msg)
        if not is_number(value):
            msg = (
                f"aberration {name} of {value} is not a number; {'rad' if name.startswith('phi') else 'Å'} is expected"
            )
            raise BadInputError(msg)
    n_y, n_x = data.patterns.shape[1:]
    if not (is_number(data.point_spread) and 0 <= data.point_spread <= min(n_y, n_x) / 2):
        msg = f"point_spread of {data.point_spread} is not possible; legal: 0 … {min(n_y, n_x) / 2:g} detector pixels"
        raise BadInputError(msg)
    if data.detector_to_scan is not None:
        check_matrix(data.detector_to_scan)
    if data.centre is not None:
        if np.shape(data.centre) != (2,):
            msg = f"the centre is {data.centre!r}; (row, column) in detector pixels is expected"
            raise BadInputError(msg)
        row, column = data.centre
        if not (is_number(row) and is_number(column) and 0 <= row <= n_y - 1 and 0 <= column <= n_x - 1):
            msg = (
                f"the centre ({row}, {column}) lies outside the detector; legal: (0 … {n_y - 1}, 0 … {n_x - 1}) pixels"
            )
            raise BadInputError(msg)
    _check_window(data)


def _check_window(data: DiffractionData) -> None:
    """Whether the disc lies on the detector, and the probe in the window 1/Δk of a pattern."""
    n_y, n_x = data.patterns.shape[1:]
    radius, largest = data.semiangle / data.angular_pixel, min(n_y, n_x) / 2
    if not 1 <= radius <= largest:
        msg = (
            f"a semi-angle of {data.semiangle:g} mrad is {radius:.3g} pixels of {data.angular_pixel:g} mrad; "
            f"legal on {n_y} × {n_x} pixels: {data.angular_pixel:.4g} … {largest * data.angular_pixel:.4g} mrad; are the "
            f"detector's axes the last ones?"
        )
        raise BadInputError(msg)
    check_semiangle(data.semiangle)
    limit = data.largest_defocus
    if abs(data.defocus) > limit:
        msg = (
            f"at a defocus of {data.defocus:g} Å the probe (2α|Δf|) is wider than the window 1/Δk; "
            f"the largest legal defocus is ±{limit:.4g} Å with pixels of {data.angular_pixel:g} mrad"
        )
        raise BadInputError(msg)
    _check_spread(data)
    _check_lit(data)


def _check_coherence(data: DiffractionData) -> None:
    window = 1 / optics.spatial_frequency(data.angular_pixel, data.voltage)
    source: Any = data.source_size
    sizes = source[:2] if isinstance(source, tuple | list) and len(source) == 3 else (source,)
    angle = source[2] if len(sizes) == 2 else 0.0
    if not (is_number(angle) and all(is_number(size) and 0 <= size <= window / 2 for size in sizes)):
        msg = (
            f"source_size of {source} is not possible; legal: FWHM from 0 to {window / 2:.4g} Å, half the window 1/Δk, or (major "
            "FWHM, minor FWHM, angle of the major axis in rad)"
        )
        raise BadInputError(msg)
    if not (is_number(data.focal_spread) and 0 <= data.focal_spread <= data.largest_defocus):
        msg = f"focal_spread of {data.focal_spread} is not possible; legal: 0 … {data.largest_defocus:.4g} Å (standard deviation)"
        raise BadInputError(msg)
    if not (is_number(data.position_jitter) and 0 <= data.position_jitter <= window):
        msg = (
            f"position_jitter of {data.position_jitter} is not possible; legal: 0 … {window:.4g} Å (standard deviation)"
        )
        raise BadInputError(msg)


def _check_spread(data: DiffractionData) -> None:
    """Where the geometric rays of the aberrations go; a probe that is a little wider than its window still works."""
    k = optics.spatial_frequency(data.semiangle, data.voltage)
    angle = np.arange(64) * (2 * np.pi / 64)
    ky, kx = (np.outer((0.5 * k, k), f(angle)) for f in (np.sin, np.cos))
    aberrations, small = {**data.aberrations, "C10": -data.defocus}, 1e-4 * k
    slopes = [
        optics.aberration_phase(ky + dy, kx + dx, data.voltage, aberrations)
        - optics.aberration_phase(ky - dy, kx - dx, data.voltage, aberrations)
        for dy, dx in ((small, 0.0), (0.0, small))
    ]
    spread = 2 * float(np.hypot(*slopes).max()) / (2 * small) / (2 * np.pi)
    window = 1 / optics.spatial_frequency(data.angular_pixel, data.voltage)
    if spread > 2 * window:
        msg = (
            f"with these aberrations the probe is {spread:.4g} Å wide, more than twice the window 1/Δk = {window:.4g} Å of "
            f"pixels of {data.angular_pixel:g} mrad; are they in Å (1 mm is 1e7) and defined as Krivanek's?"
        )
        raise BadInputError(msg)


def _check_lit(data: DiffractionData) -> None:
    """Whether the measured aperture lets anything through inside the semi-angle."""
    n_y, n_x = data.patterns.shape[1:]
    row, column = (n_y // 2, n_x // 2) if data.centre is None else data.centre
    rows, columns = np.arange(n_y)[:, None] - row, np.arange(n_x)[None, :] - column
    inside = np.hypot(rows, columns) <= data.semiangle / data.angular_pixel
    if data.aperture is not None and not np.asarray(data.aperture)[inside].any():
        msg = f"the aperture is 0 within {data.semiangle:g} mrad of the centre ({row:g}, {column:g}), so no electron passes"
        raise BadInputError(msg)


def check_voltage(voltage: float) -> None:
    """Raise BadInputError where `voltage` cannot be eV of electrons, unless it is said to be equivalent to X-rays or light."""
    if not isinstance(voltage, optics.EquivalentVoltage) and not 1e3 <= voltage <= 1e7:
        msg = (
            f"voltage of {voltage:g} eV is not possible; legal: 1e3 … 1e7 eV, so 80 kV is 80e3; X-rays and light are "
            f"instrument.optics.EquivalentVoltage(wavelength in Å)"
        )
        raise BadInputError(msg)


def check_semiangle(semiangle: float) -> None:
    """Raise BadInputError where `semiangle` cannot be mrad."""
    low, high = SEMIANGLES
    if not low <= semiangle <= high:
        msg = f"semiangle of {semiangle:g} mrad is not possible; legal: {low:g} … {high:g} mrad, so 0.02 rad is 20"
        raise BadInputError(msg)


def check_matrix(matrix: Any) -> None:
    """Raise BadInputError unless `matrix` is orthogonal and 2 × 2."""
    given = np.asarray(matrix)
    if given.shape == (2, 2) and given.dtype.kind in "uif" and np.allclose(given @ given.T, np.eye(2), atol=1e-6):
        return
    msg = (
        f"detector_to_scan is no orthogonal 2 × 2 matrix ({' '.join(str(given.tolist()).split())}); "
        f"instrument.optics.detector_to_scan(rotation, mirrored) makes one"
    )
    raise BadInputError(msg)


def _check_positions(data: DiffractionData) -> None:
    positions = data.positions
    if positions.dtype.kind not in "uif":
        msg = f"positions are of type {positions.dtype}; floats are expected, (y, x) in Å"
        raise BadInputError(msg)
    if not np.isfinite(positions).all():
        msg = f"position {int(np.flatnonzero(~np.isfinite(positions).all(axis=1))[0])} is not a number"
        raise BadInputError(msg)
    if len(positions) == 1:
        return
    span = np.ptp(np.asarray(positions, dtype=np.float64), axis=0)
    if span.max() < 1e-3:
        msg = f"the positions span only {span.max():.3g} Å; they are expected in Å (1 nm is 10, 1 m is 1e10)"
        raise BadInputError(msg)


def _check_overlap(data: DiffractionData) -> None:
    window = np.asarray(data.pixel_size) * data.patterns.shape[1:]
    gap = (
        float(np.median(_nearest(np.asarray(data.positions, dtype=np.float64) / window)))
        if len(data.positions) > 1
        else 0
    )
    if gap > 1:
        msg = (
            f"neighbouring positions lie {gap * window.max():.4g} Å apart, farther than the window of a pattern, 1/Δk = "
            f"{window.max():.4g} Å, so nothing is seen twice; a step within the probe's width is needed; are they in Å?"
        )
        raise BadInputError(msg)


def _check_extent(data: DiffractionData, slices: int) -> None:
    """Whether the object that the positions span is one that memory holds."""
    span = np.ptp(np.asarray(data.positions, dtype=np.float64), axis=0)
    pixel = np.asarray(data.pixel_size)
    window = pixel * data.patterns.shape[1:]
    # However the detector is turned, the object's edges are at most the diagonal.
    across = (span + window) / pixel
    if across.max() > LARGEST_OBJECT:
        msg = (
            f"the positions span {span[0]:.4g} × {span[1]:.4g} Å, an object of {across[0]:.6g} × {across[1]:.6g} pixels; legal: "
            f"{LARGEST_OBJECT} pixels, here {(LARGEST_OBJECT * pixel - window).min():.4g} Å; are they in Å?"
        )
        raise BadInputError(msg)
    check_memory((float(across[0]), float(across[1])), slices)


def check_memory(shape: tuple[float, float], slices: int) -> None:
    """Raise BadInputError unless memory holds the reconstruction of an object of (y, x) pixels in so many slices."""
    needed, free = shape[0] * shape[1] * (_BYTES[0] + slices * _BYTES[1]), memory.free_memory()
    if needed > free:
        msg = (
            f"an object of {shape[0]:.5g} × {shape[1]:.5g} pixels in {slices} slice{'' if slices == 1 else 's'} takes "
            f"{needed / 1e9:.3g} GB of memory, {free / 1e9:.3g} GB are free; take fewer slices or a part of the positions"
        )
        raise BadInputError(msg)


def _nearest(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Largest of the two coordinate distances to the nearest other point, of at most _SAMPLED of (n, 2) points."""
    chosen = np.unique(np.linspace(0, len(points) - 1, _SAMPLED).astype(np.intp))
    nearest = np.empty(len(chosen))
    at_once = max(1, 2**16 // len(points))
    for first in range(0, len(chosen), at_once):
        part = chosen[first : first + at_once]
        distance = np.abs(points[None, :, 0] - points[part, 0, None])
        np.maximum(distance, np.abs(points[None, :, 1] - points[part, 1, None]), out=distance)
        distance[np.arange(len(part)), part] = np.inf
        nearest[first : first + at_once] = distance.min(axis=1)
    return nearest


def is_number(value: Any) -> bool:
    """Whether `value` is one finite real number."""
    try:
        return math.isfinite(value)
    except TypeError:
        return False
