"""From `DiffractionData` to the arrays the engine works on: pixels instead of Å, corner-centred, detector frame.

The object is reconstructed on a grid whose axes are the detector's, so that no pattern is ever interpolated: positions
are turned into the detector's frame, p = Mᵀ R with M = `detector_to_scan`, and the finished picture is turned back
(`to_scan_frame`). A fractional disc centre needs no shift of the data either: a pattern displaced by δ pixels is the
pattern of a probe whose aperture is displaced by δ, up to a constant phase per position.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.errors import BadInputError
from agent.reconstruction.types import DiffractionData
from instrument import optics


@dataclass(frozen=True)
class Geometry:
    """Where every pattern sits on the object grid.

    Attributes:
        corners: (n, 2) int32, first object pixel (row, column) of each pattern's window.
        fractions: (n, 2) float32 in [0, 1), sub-pixel shift of the probe.
        object_shape: (y, x) pixels.
        pixel_size: (y, x) Å.
        origin: (y, x) Å, detector frame, of object pixel (0, 0).
        matrix: (2, 2) detector_to_scan.
        centre_offset: (row, column) pixels, displacement of the disc centre from the FFT's zero after the integer roll.
        roll: (row, column) integer roll of the patterns that brings the zero beam to pixel (0, 0).
    """

    corners: NDArray[np.int32]
    fractions: NDArray[np.float32]
    object_shape: tuple[int, int]
    pixel_size: tuple[float, float]
    origin: tuple[float, float]
    matrix: NDArray[np.float64]
    centre_offset: tuple[float, float]
    roll: tuple[int, int]


def check_data(data: DiffractionData) -> None:
    """Raise BadInputError with one sentence unless `data` can be reconstructed."""
    patterns, positions = data.patterns, data.positions
    if patterns.ndim != 3:
        msg = f"patterns have shape {patterns.shape}; (n, ky, kx) is expected"
        raise BadInputError(msg)
    if positions.shape != (len(patterns), 2):
        msg = f"positions have shape {positions.shape}; ({len(patterns)}, 2) is expected for {len(patterns)} patterns"
        raise BadInputError(msg)
    if len(patterns) == 0:
        msg = "there are no patterns"
        raise BadInputError(msg)
    if not np.isfinite(positions).all():
        msg = f"position {int(np.flatnonzero(~np.isfinite(positions).all(axis=1))[0])} is not a number"
        raise BadInputError(msg)
    if patterns.dtype.kind not in "ui":
        if not np.isfinite(patterns).all():
            msg = "patterns hold values that are not numbers; mask such pixels and set them to 0"
            raise BadInputError(msg)
        if patterns.min() < 0:
            msg = f"patterns hold negative counts (smallest {patterns.min():g}); subtract no background before"
            raise BadInputError(msg)
    elif patterns.dtype.kind == "i" and patterns.min() < 0:
        msg = f"patterns hold negative counts (smallest {int(patterns.min())})"
        raise BadInputError(msg)
    if data.mask is not None:
        if data.mask.shape != patterns.shape[1:]:
            msg = f"the mask has shape {data.mask.shape}, the patterns {patterns.shape[1:]}"
            raise BadInputError(msg)
        if not data.mask.any():
            msg = "the mask hides every detector pixel"
            raise BadInputError(msg)
    for name in ("voltage", "semiangle", "angular_pixel"):
        value = getattr(data, name)
        if not value > 0:
            msg = f"{name} of {value:g} is not positive"
            raise BadInputError(msg)
    limit = optics.largest_defocus(data.semiangle, data.angular_pixel, data.voltage)
    if abs(data.defocus) > limit:
        msg = (
            f"at a defocus of {data.defocus:g} Å the probe (2α|Δf|) is wider than the window 1/Δk; "
            f"the largest legal defocus is ±{limit:.4g} Å with pixels of {data.angular_pixel:g} mrad"
        )
        raise BadInputError(msg)


def locate(data: DiffractionData, padding: int = 4) -> Geometry:
    """Lay out the object grid with `padding` spare pixels on each side."""
    n_y, n_x = data.patterns.shape[1:]
    pixel = np.asarray(data.pixel_size)
    matrix = np.eye(2) if data.detector_to_scan is None else np.asarray(data.detector_to_scan, dtype=np.float64)
    if matrix.shape != (2, 2) or not np.allclose(matrix @ matrix.T, np.eye(2), atol=1e-6):
        msg = "detector_to_scan is not an orthogonal 2 × 2 matrix"
        raise BadInputError(msg)
    pixels = (data.positions @ matrix) / pixel  # rows are Mᵀ R
    half = np.array([n_y // 2, n_x // 2])
    first = np.floor(pixels.min(axis=0)).astype(int) - half - padding
    whole = np.floor(pixels).astype(int)
    corners = (whole - half - first).astype(np.int32)
    shape = corners.max(axis=0) + np.array([n_y, n_x]) + padding
    row, column = (n_y // 2, n_x // 2) if data.centre is None else data.centre
    roll = (-round(row), -round(column))
    return Geometry(
        corners=corners,
        fractions=(pixels - whole).astype(np.float32),
        object_shape=(int(shape[0]), int(shape[1])),
        pixel_size=(float(pixel[0]), float(pixel[1])),
        origin=(float(first[0] * pixel[0]), float(first[1] * pixel[1])),
        matrix=matrix,
        centre_offset=(row - round(row), column - round(column)),
        roll=roll,
    )


def to_scan_frame(
    image: NDArray[Any], geometry: Geometry, positions: NDArray[np.float64], margin: float
) -> tuple[NDArray[Any], tuple[float, float]]:
    """Turn a picture from the detector's frame into the frame of `positions`.

    Args:
        image: (y, x) on the object grid, real or complex.
        geometry: of the reconstruction.
        positions: (n, 2) Å; the result covers their bounding box grown by `margin` Å.

    Returns:
        The picture with pixels of `geometry.pixel_size`, and the (y, x) coordinate in Å of its first pixel. Where M is
        the identity the picture is returned as it is; otherwise quintic splines interpolate it (error below 1 % up to
        0.8 of the Nyquist frequency).
    """
    if np.allclose(geometry.matrix, np.eye(2)):
        return image, geometry.origin
    from scipy.ndimage import map_coordinates

    pixel = np.asarray(geometry.pixel_size)
    low = np.floor((positions.min(axis=0) - margin) / pixel).astype(int)
    high = np.ceil((positions.max(axis=0) + margin) / pixel).astype(int)
    axes = [np.arange(low[i], high[i] + 1) * pixel[i] for i in (0, 1)]
    points = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1) @ geometry.matrix
    index = np.moveaxis((points - np.asarray(geometry.origin)) / pixel, -1, 0)
    parts = (image.real, image.imag) if np.iscomplexobj(image) else (image,)
    turned = [map_coordinates(part, index, order=5, mode="nearest") for part in parts]
    result = turned[0] + 1j * turned[1] if len(turned) == 2 else turned[0]
    return result.astype(image.dtype), (float(axes[0][0]), float(axes[1][0]))
