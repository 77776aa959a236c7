"""The squares that are scored, and how they are cut out of a picture."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from instrument.models import Rectangle


def tiles(area: Rectangle, edge: float) -> list[Rectangle]:
    """Squares that tile the middle of an area without overlap; at least one.

    Args:
        area: to be tiled, Å.
        edge: of a square, Å.
    """
    n_y, n_x = max(1, int(area.height / edge + 1e-6)), max(1, int(area.width / edge + 1e-6))
    y0 = area.y + (area.height - n_y * edge) / 2
    x0 = area.x + (area.width - n_x * edge) / 2
    return [
        Rectangle(y=y0 + i * edge, x=x0 + j * edge, height=edge, width=edge) for i in range(n_y) for j in range(n_x)
    ]


def crop(
    image: NDArray[np.floating[Any]], origin: tuple[float, float], pixel_size: tuple[float, float], square: Rectangle
) -> NDArray[np.float64]:
    """The part of an image that covers a square, to the nearest pixel.

    Args:
        image: (y, x).
        origin: (y, x) of the first pixel, Å.
        pixel_size: (y, x), Å.
        square: in the frame of `origin`, Å.

    Raises:
        ValueError: the image does not reach that far.
    """
    first = [round((lo - o) / p) for lo, o, p in zip((square.y, square.x), origin, pixel_size, strict=True)]
    size = [round(length / p) for length, p in zip((square.height, square.width), pixel_size, strict=True)]
    if min(first) < 0 or first[0] + size[0] > image.shape[0] or first[1] + size[1] > image.shape[1]:
        msg = f"the scored field {square.height:g} × {square.width:g} Å reaches beyond the reconstruction"
        raise ValueError(msg)
    part = image[first[0] : first[0] + size[0], first[1] : first[1] + size[1]]
    return np.asarray(part, dtype=np.float64)


def scanned_area(positions: NDArray[np.float64]) -> float:
    """Area that a scan covers, Å²: to half a step beyond its outermost positions.

    Args:
        positions: (n, 2), Å.
    """
    extent = np.ptp(positions, axis=0)
    return float(np.prod(extent + np.sqrt(extent.prod() / len(positions))))
