"""Phase and Fourier transform as bare, small PNGs, for whatever draws its own scales beside them."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.report.pictures import Picture, spectrum
from agent.storage.reconstruction_file import StoredReconstruction

EDGE = 384
"""Largest edge, pixels."""
SMALLEST_EDGE = 96


@dataclass(frozen=True)
class Thumbnails:
    """Two pictures of one trial.

    Attributes:
        phase, spectrum: PNG.
        extent: (height, width) of the phase, Å.
        levels: phases at the ends of its colours, rad.
        k_edge: spatial frequency at the edge of the spectrum, 1/Å.
        resolution: half-bit resolution, Å; None: no signal anywhere.
    """

    phase: bytes
    spectrum: bytes
    extent: tuple[float, float]
    levels: tuple[float, float]
    k_edge: float
    resolution: float | None


def thumbnails(stored: StoredReconstruction, k_max: float, largest: int = 150_000) -> Thumbnails:
    """Draw what a reconstruction file holds.

    Args:
        stored: the file.
        k_max: highest scored frequency, 1/Å.
        largest: bytes that each PNG may have.
    """
    picture = Picture.of(stored)
    low, high = levels = picture.levels()
    centred = picture.weighted - np.median(picture.weighted)
    amplitude, edge = spectrum(picture, k_max)
    dark, bright = (float(v) for v in np.percentile(amplitude, [5, 99.9]))
    return Thumbnails(
        phase=_png((centred - low) / (high - low), "cividis", largest),
        spectrum=_png((amplitude - dark) / max(bright - dark, 1e-9), "inferno", largest),
        extent=picture.extent,
        levels=levels,
        k_edge=edge,
        resolution=stored.score.resolution,
    )


def colour_map(values: NDArray[Any], name: str) -> NDArray[np.uint8]:
    """Colours of a map that people with any colour vision can read.

    Args:
        values: (y, x), 0 … 1; NaN is transparent.
        name: of matplotlib's colour map.

    Returns:
        (y, x, 4), red, green, blue, opacity.
    """
    import matplotlib as mpl

    colours = mpl.colormaps[name](np.clip(np.nan_to_num(values), 0, 1), bytes=True)
    colours[..., 3] = np.where(np.isfinite(values), 255, 0)
    return np.asarray(colours, dtype=np.uint8)


def png_of(colours: NDArray[np.uint8]) -> bytes:
    """A PNG.

    Args:
        colours: (y, x, 4), red, green, blue, opacity.
    """
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(colours).save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def _png(values: NDArray[Any], name: str, largest: int) -> bytes:
    """(y, x) of 0 … 1 as a PNG, made smaller until it has no more than `largest` bytes."""
    from PIL import Image

    edge = EDGE
    while True:
        scale = edge / max(values.shape)
        size = (max(1, round(values.shape[1] * scale)), max(1, round(values.shape[0] * scale)))
        resized = Image.fromarray(values.astype(np.float32)).resize(size, Image.Resampling.BICUBIC)
        png = png_of(colour_map(np.asarray(resized), name)[..., :3])
        if len(png) <= largest or edge <= SMALLEST_EDGE:
            return png
        edge = round(edge * 0.8)
