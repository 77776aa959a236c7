"""Whether data can be reconstructed, said before anything is computed: one sentence with the value and what is legal."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.errors import BadInputError
from agent.reconstruction.types import DiffractionData
from instrument import optics

LARGEST_OBJECT = 16384
"""Object pixels along an edge; a wider field is a mistake of units, or too much for one reconstruction."""
_CHUNK = 8 * 2**20
"""Bytes of patterns that are looked at in one go: they may lie on disk."""
_SAMPLED = 64
"""Positions whose nearest neighbour is looked for."""


def check_data(data: DiffractionData) -> None:
    """Raise BadInputError with one sentence unless `data` can be reconstructed.

    `data.patterns` may be an array, a memory map or an h5py data set; it is read in parts. A pattern without counts is legal
    (at low dose it happens, and it tells something), patterns that are all without counts are not.
    """
    _check_shapes(data)
    _check_optics(data)
    _check_positions(data)
    _check_counts(data.patterns, None if data.mask is None else np.asarray(data.mask, dtype=bool))


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
    if 0 in patterns.shape:
        msg = f"there are no patterns (shape {patterns.shape})"
        raise BadInputError(msg)
    detector = patterns.shape[1:]
    for name, part in (("mask", data.mask), ("aperture", data.aperture)):
        if part is not None and np.shape(part) != detector:
            msg = f"the {name} has shape {np.shape(part)}, the patterns {detector}"
            raise BadInputError(msg)
    if data.mask is not None and not np.any(data.mask):
        msg = "the mask hides every detector pixel; it is True where a pixel counts"
        raise BadInputError(msg)
    if data.aperture is not None and not (np.min(data.aperture) >= 0 and 0 < np.max(data.aperture) < np.inf):
        msg = "the aperture is no amplitude; it holds negative values, values that are not numbers, or only zeros"
        raise BadInputError(msg)


def _check_optics(data: DiffractionData) -> None:
    for name in ("voltage", "semiangle", "angular_pixel"):
        value = getattr(data, name)
        if not (_is_number(value) and value > 0):
            msg = f"{name} of {value} is not possible; a positive number is expected"
            raise BadInputError(msg)
    if not 1e3 <= data.voltage <= 1e7:
        msg = f"voltage of {data.voltage:g} eV is not possible; legal: 1e3 … 1e7 eV, so 80 kV is 80e3"
        raise BadInputError(msg)
    if not _is_number(data.defocus):
        msg = f"defocus of {data.defocus} is not a number; Å are expected, positive for underfocus"
        raise BadInputError(msg)
    for name, value in data.aberrations.items():
        if name not in optics.ABERRATIONS or name == "C10":
            known = ", ".join(known for known in optics.ABERRATIONS if known != "C10")
            msg = f"unknown aberration {name!r}; legal: {known}" + ("; C10 is −defocus" if name == "C10" else "")
            raise BadInputError(msg)
        if not _is_number(value):
            msg = (
                f"aberration {name} of {value} is not a number; {'rad' if name.startswith('phi') else 'Å'} is expected"
            )
            raise BadInputError(msg)
    n_y, n_x = data.patterns.shape[1:]
    if data.centre is not None:
        row, column = data.centre
        if not (_is_number(row) and _is_number(column) and 0 <= row <= n_y - 1 and 0 <= column <= n_x - 1):
            msg = (
                f"the centre ({row}, {column}) lies outside the detector; legal: (0 … {n_y - 1}, 0 … {n_x - 1}) pixels"
            )
            raise BadInputError(msg)
    radius, largest = data.semiangle / data.angular_pixel, min(n_y, n_x) / 2
    if not 1 <= radius <= largest:
        msg = (
            f"a semi-angle of {data.semiangle:g} mrad is {radius:.3g} pixels of {data.angular_pixel:g} mrad; "
            f"legal on {n_y} × {n_x} pixels: {data.angular_pixel:.4g} … {largest * data.angular_pixel:.4g} mrad"
        )
        raise BadInputError(msg)
    limit = optics.largest_defocus(data.semiangle, data.angular_pixel, data.voltage)
    if abs(data.defocus) > limit:
        msg = (
            f"at a defocus of {data.defocus:g} Å the probe (2α|Δf|) is wider than the window 1/Δk; "
            f"the largest legal defocus is ±{limit:.4g} Å with pixels of {data.angular_pixel:g} mrad"
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
    gap = float(np.median(_nearest(np.asarray(positions, dtype=np.float64) / window)))
    if gap > 1:
        msg = (
            f"neighbouring positions lie {gap * window.max():.4g} Å apart, farther than the window of a pattern, 1/Δk = "
            f"{window.max():.4g} Å, so nothing is seen twice; a step within the probe's width is needed; are they in Å?"
        )
        raise BadInputError(msg)


def _nearest(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Largest of the two coordinate distances to the nearest other point, of at most _SAMPLED of (n, 2) points."""
    chosen = np.unique(np.linspace(0, len(points) - 1, _SAMPLED).astype(np.intp))
    nearest = np.empty(len(chosen))
    for i, index in enumerate(chosen):
        distance = np.abs(points - points[index]).max(axis=1)
        distance[index] = np.inf
        nearest[i] = distance.min()
    return nearest


def _check_counts(patterns: Any, mask: NDArray[np.bool_] | None) -> None:
    """Sweep over (n, ky, kx) patterns; unsigned ones only as far as the first count."""
    unsigned = patterns.dtype.kind == "u"
    n = max(1, _CHUNK // (math.prod(patterns.shape[1:]) * patterns.dtype.itemsize))
    seen = False
    for first in range(0, len(patterns), n):
        part = np.asarray(patterns[first : first + n])
        if not unsigned:
            smallest = part.min()
            if not (smallest >= 0 and (patterns.dtype.kind == "i" or part.max() < np.inf)):
                _refuse_counts(part, first)
        seen = seen or bool(part.any() if mask is None else part[:, mask].any())
        if seen and unsigned:
            return
    if not seen:
        where = "" if mask is None else " on the pixels that the mask lets count"
        msg = f"all {len(patterns)} patterns are empty{where}; there is nothing to reconstruct"
        raise BadInputError(msg)


def _refuse_counts(part: NDArray[Any], first: int) -> None:
    finite = np.isfinite(part)
    if not finite.all():
        index = first + int(np.flatnonzero(~finite.all(axis=(1, 2)))[0])
        msg = f"pattern {index} holds values that are not numbers; mask such pixels and set them to 0"
        raise BadInputError(msg)
    index = first + int(np.flatnonzero((part < 0).any(axis=(1, 2)))[0])
    msg = f"pattern {index} holds negative counts (smallest {part.min():g}); subtract no background before"
    raise BadInputError(msg)


def _is_number(value: Any) -> bool:
    try:
        return math.isfinite(value)
    except TypeError:
        return False
