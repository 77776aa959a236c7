"""Where patterns lie on the object grid: pixels instead of Å, corner-centred, in the detector's frame.

The object is reconstructed on a grid whose axes are the detector's, so that no pattern is ever interpolated: positions
are rotated into the detector's frame, p = Mᵀ R with M = `detector_to_scan`, and the finished picture is rotated back
(`to_scan_frame`). A fractional disc centre needs no shift of the data either: a pattern displaced by δ pixels is the
pattern of a probe whose aperture is displaced by δ, up to a constant phase per position.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.reconstruction.model.data import DiffractionData
from instrument import optics


@dataclass(frozen=True)
class Geometry:
    """Where every pattern sits on the object grid.

    Attributes:
        corners: (n, 2) int32, first object pixel (row, column) of each pattern's window.
        subpixel_shifts: (n, 2) float32 in [0, 1), sub-pixel shift of the probe.
        object_shape: (y, x) pixels.
        pixel_size: (y, x) Å.
        origin: (y, x) Å, detector frame, of object pixel (0, 0).
        matrix: (2, 2) detector_to_scan.
        centre_offset: (row, column) pixels, displacement of the disc centre from the FFT's zero after the roll.
        roll: (row, column) roll of the patterns that brings the zero beam to pixel (0, 0), or beside it: by an even number of
            pixels, so that two that share a bin stay together.
    """

    corners: NDArray[np.int32]
    subpixel_shifts: NDArray[np.float32]
    object_shape: tuple[int, int]
    pixel_size: tuple[float, float]
    origin: tuple[float, float]
    matrix: NDArray[np.float64]
    centre_offset: tuple[float, float]
    roll: tuple[int, int]


def legal_length(n: int) -> int:
    """The number of pixels along an axis with which a detector of n is computed: the next product of 16, 2, 3 and 5.

    Patterns of another size get a rim of pixels that do not count.
    """
    length = -(-n // 16) * 16
    while True:
        rest = length
        for factor in (2, 3, 5):
            while rest % factor == 0:
                rest //= factor
        if rest == 1:
            return length
        length += 16


def extended(shape: tuple[int, ...], padding: float) -> tuple[int, int]:
    """Pixels (ky, kx) with which patterns are computed.

    Args:
        shape: (…, ky, kx) of the patterns.
        padding: factor by which the detector is extended.
    """
    n_y, n_x = (legal_length(round(padding * n)) for n in shape[-2:])
    return n_y, n_x


def locate(data: DiffractionData, padding: int = 4, shape: tuple[int, int] | None = None) -> Geometry:
    """Lay out the object grid.

    Args:
        data: positions, optics and detector.
        padding: spare object pixels on each side.
        shape: (ky, kx) pixels with which the patterns are computed, where a rim has been added; None: as measured.
    """
    n_y, n_x = shape or (data.patterns.shape[1], data.patterns.shape[2])
    pixel = np.asarray([optics.pixel_size(data.angular_pixel, n, data.voltage) for n in (n_y, n_x)])
    matrix = np.eye(2) if data.detector_to_scan is None else np.asarray(data.detector_to_scan, dtype=np.float64)
    pixels = (data.positions @ matrix) / pixel  # rows are Mᵀ R
    half = np.array([n_y // 2, n_x // 2])
    first = np.floor(pixels.min(axis=0)).astype(int) - half - padding
    whole = np.floor(pixels).astype(int)
    corners = (whole - half - first).astype(np.int32)
    shape = corners.max(axis=0) + np.array([n_y, n_x]) + padding
    measured_y, measured_x = data.patterns.shape[1:]
    row, column = (measured_y // 2, measured_x // 2) if data.centre is None else data.centre
    roll = (-2 * round(row / 2), -2 * round(column / 2))
    return Geometry(
        corners=corners,
        subpixel_shifts=(pixels - whole).astype(np.float32),
        object_shape=(int(shape[0]), int(shape[1])),
        pixel_size=(float(pixel[0]), float(pixel[1])),
        origin=(float(first[0] * pixel[0]), float(first[1] * pixel[1])),
        matrix=matrix,
        centre_offset=(row + roll[0], column + roll[1]),
        roll=roll,
    )


def to_scan_frame(
    image: NDArray[Any], geometry: Geometry, positions: NDArray[np.float64], margin: float
) -> tuple[NDArray[Any], tuple[float, float]]:
    """Rotate a picture from the detector's frame into the frame of `positions`.

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
    rotated = [map_coordinates(part, index, order=5, mode="nearest") for part in parts]
    result = rotated[0] + 1j * rotated[1] if len(rotated) == 2 else rotated[0]
    return result.astype(image.dtype), (float(axes[0][0]), float(axes[1][0]))


def paste(
    source: Any, from_origin: tuple[float, float], target: Any, origin: tuple[float, float], pixel: tuple[float, float]
) -> None:
    """Copy what two images (…, y, x) on one lattice of pixels share.

    Args:
        source: image to copy from.
        from_origin: (y, x), Å, of its first pixel.
        target: image to copy to, in place.
        origin: (y, x), Å, of its first pixel.
        pixel: (y, x), Å.
    """
    here, there = [], []
    for axis in (0, 1):
        offset = round((from_origin[axis] - origin[axis]) / pixel[axis])
        low, high = max(0, offset), min(target.shape[axis - 2], offset + source.shape[axis - 2])
        here.append(slice(low, high))
        there.append(slice(low - offset, high - offset))
    target[..., here[0], here[1]] = source[..., there[0], there[1]]
