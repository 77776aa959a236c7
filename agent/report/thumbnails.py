"""Phase and Fourier transform as bare, small PNGs, for whatever draws its own scales beside them."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.reconstruction import Reconstruction, paste
from agent.report.pictures import Picture, spectrum
from agent.storage.reconstruction_file import StoredReconstruction
from instrument.models import Rectangle

EDGE = 384
"""Largest edge, pixels."""
SMALLEST_EDGE = 96
LIT = 0.3
"""Illumination relative to its maximum from which on a place counts as scanned."""
FADE = 1.3
"""Frequency, in units of the highest that is scored, at which a picture without a score ends."""


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
    centred = picture.weighted - np.median(picture.weighted)
    return _drawn(picture, centred, picture.extent, k_max, stored.score.resolution, largest)


def unfinished(found: Reconstruction, field: Rectangle, k_max: float, largest: int = 150_000) -> Thumbnails:
    """Draw what there is of a scan that still runs. Nothing is weighted, since there is no score yet.

    Args:
        found: from the patterns so far.
        field: of the whole scan, Å, in the frame of the positions; what is not scanned yet stays dark.
        k_max: highest scored frequency, 1/Å.
        largest: bytes that each PNG may have.
    """
    pixel = found.pixel_size
    phase, lit = (
        np.zeros([round(length / p) for length, p in zip((field.height, field.width), pixel, strict=True)], np.float32)
        for _ in range(2)
    )
    origin = (field.y, field.x)
    paste(_without_noise(found.phase, pixel, FADE * k_max), found.origin, phase, origin, pixel)
    paste(found.illuminated, found.origin, lit, origin, pixel)
    seen = lit > LIT * lit.max()
    rows, columns = (np.flatnonzero(seen.any(axis=axis)) for axis in (1, 0))
    part = (slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))
    centred = phase - np.median(phase[seen])
    scanned = np.where(seen, centred, 0.0)[part]
    picture = Picture(scanned, scanned, pixel, np.zeros((1, 1), np.float32))
    return _drawn(picture, np.where(seen, centred, -np.inf), (field.height, field.width), k_max, None, largest)


def _drawn(
    picture: Picture,
    centred: NDArray[Any],
    extent: tuple[float, float],
    k_max: float,
    resolution: float | None,
    largest: int,
) -> Thumbnails:
    """A picture's transform beside `centred` (y, x), rad, the phase that is shown of it over `extent`, Å."""
    low, high = levels = picture.levels()
    amplitude, edge = spectrum(picture, k_max)
    dark, bright = (float(v) for v in np.percentile(amplitude, [5, 99.9]))
    return Thumbnails(
        phase=_png(np.clip((centred - low) / (high - low), 0, 1), "cividis", largest),
        spectrum=_png((amplitude - dark) / max(bright - dark, 1e-9), "inferno", largest),
        extent=extent,
        levels=levels,
        k_edge=edge,
        resolution=resolution,
    )


def _without_noise(phase: NDArray[Any], pixel_size: tuple[float, float], k_end: float) -> NDArray[np.float32]:
    """(y, x) rad without frequencies beyond `k_end`, 1/Å; they fade from half of it on."""
    ky, kx = (np.fft.fftfreq(n, p) for n, p in zip(phase.shape, pixel_size, strict=True))
    k = np.hypot(ky[:, None], kx[None, :]) / k_end
    weight = np.cos(np.pi / 2 * np.clip(2 * k - 1, 0, 1)) ** 2
    return np.fft.ifft2(np.fft.fft2(phase) * weight).real.astype(np.float32)


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
