"""Pictures of a reconstruction: its phase and the Fourier transform of it, with scales that can be measured on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.reconstruction import tukey
from agent.report.drawing import add_scale_bar, length_label, new_figure, round_length, styled, to_png
from agent.scoring.information import figure_of_merit
from agent.scoring.ring_correlation import remove_plane
from agent.storage.reconstruction_file import StoredReconstruction


@dataclass(frozen=True)
class Picture:
    """A phase image of the part of the specimen that was scanned.

    Attributes:
        phase: (y, x), rad.
        weighted: (y, x), rad, the same weighted by what both halves see (`figure_of_merit`).
        pixel_size: (y, x), Å.
        probe: (y, x) intensity of the probe, all modes, relative to its maximum; same pixel size.
    """

    phase: NDArray[np.float32]
    weighted: NDArray[np.float32]
    pixel_size: tuple[float, float]
    probe: NDArray[np.float32]

    @classmethod
    def of(cls, stored: StoredReconstruction) -> Picture:
        """Cut the scanned field out of a reconstruction; what lies outside was illuminated but not sampled."""
        reconstruction, field = stored.reconstruction, stored.plan.field
        origin, pixel_size = np.asarray(reconstruction.origin), np.asarray(reconstruction.pixel_size)
        low = np.rint((np.array([field.y, field.x]) - origin) / pixel_size).astype(int).clip(min=0)
        high = low + np.rint(np.array([field.height, field.width]) / pixel_size).astype(int)
        part = (slice(low[0], high[0]), slice(low[1], high[1]))
        weighted = figure_of_merit(reconstruction.phase, reconstruction.pixel_size, stored.score)
        probe = np.sum(np.abs(reconstruction.probe) ** 2, axis=0)
        return cls(reconstruction.phase[part], weighted[part], reconstruction.pixel_size, probe / probe.max())

    @property
    def extent(self) -> tuple[float, float]:
        """(height, width), Å."""
        return self.phase.shape[0] * self.pixel_size[0], self.phase.shape[1] * self.pixel_size[1]

    def levels(self) -> tuple[float, float]:
        """Phases, rad, between which the picture is drawn, with the median as zero.

        All but 0.4 % of the pixels, but at most 6.5 robust standard deviations from the median: a few gold beads must not
        hide everything else.
        """
        values = self.weighted - np.median(self.weighted)
        spread = 6.5 * 1.4826 * float(np.median(np.abs(values)))
        low, high = (float(v) for v in np.percentile(values, [0.2, 99.8]))
        low, high = max(low, -spread), min(high, spread)
        return low, max(high, low + 1e-6)


@styled
def phase_image(picture: Picture, levels: tuple[float, float]) -> bytes:
    """The weighted phase with scale bar and colour bar, as a PNG.

    Args:
        picture: to draw.
        levels: (lowest, highest) phase of the colour scale, rad.
    """
    figure, axes = new_figure(5.0, 4.4)
    height, width = picture.extent
    image = axes.imshow(
        picture.weighted - np.median(picture.weighted),
        cmap="cividis",
        vmin=levels[0],
        vmax=levels[1],
        extent=(0, width, height, 0),
        interpolation="bicubic",
    )
    _strip(axes)
    bar = round_length(width / 3)
    add_scale_bar(axes, picture.extent, bar, length_label(bar))
    figure.colorbar(image, ax=axes, label="phase, rad", shrink=0.92, extend="both")
    return to_png(figure)


def spectrum(picture: Picture, k_max: float) -> tuple[NDArray[np.float64], float]:
    """log10 amplitude of the windowed phase's Fourier transform up to ±1.2 k_max.

    Args:
        picture: whose phase is transformed.
        k_max: highest scored frequency, 1/Å.

    Returns:
        (m, m) array, zero frequency in the middle, relative to its maximum, and the frequency at its edge, 1/Å.
    """
    n_y, n_x = picture.phase.shape
    window = tukey(n_y, 0.5)[:, None] * tukey(n_x, 0.5)[None, :]
    phase = remove_plane(picture.phase.astype(np.float64)) * window
    edge = min(1.2 * k_max, 0.5 / max(picture.pixel_size))
    # zero padding to one square extent, so that a pixel of the transform is the same frequency in both directions
    extent = 1.5 * max(picture.extent)
    shape = tuple(round(extent / p) for p in picture.pixel_size)
    amplitude = np.abs(np.fft.fftshift(np.fft.fft2(phase, shape)))
    rows, columns = (
        np.flatnonzero(np.abs(np.fft.fftshift(np.fft.fftfreq(n, p))) <= edge)
        for n, p in zip(shape, picture.pixel_size, strict=True)
    )
    amplitude = amplitude[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return np.log10(np.maximum(amplitude / amplitude.max(), 1e-6)), edge


@styled
def spectrum_image(picture: Picture, k_max: float, resolution: float | None) -> bytes:
    """Log amplitude of the Fourier transform, with the half-bit resolution as a ring, as a PNG.

    Args:
        picture: whose phase is transformed.
        k_max: highest scored frequency, 1/Å.
        resolution: Å; None: no ring.
    """
    amplitude, edge = spectrum(picture, k_max)
    figure, axes = new_figure(5.0, 4.4)
    image = axes.imshow(
        amplitude,
        cmap="inferno",
        vmin=float(np.percentile(amplitude, 5)),
        vmax=float(np.percentile(amplitude, 99.9)),
        extent=(-edge, edge, edge, -edge),
        interpolation="nearest",
    )
    _strip(axes)
    angle = np.linspace(0, 2 * np.pi, 361)
    if resolution is not None and 1 / resolution <= edge:
        k = 1 / resolution
        axes.plot(k * np.cos(angle), k * np.sin(angle), color="white", lw=1.3, ls=(0, (4, 3)))
        axes.text(0.0, -k - 0.02 * edge, f"{resolution:.3g} Å", color="white", fontsize=9, ha="center", va="bottom")
    bar = round_length(edge * 0.6)
    # the scale bar draws from the upper left corner, and the transform's coordinates begin at −edge
    axes.set_xlim(-edge, edge)
    axes.set_ylim(edge, -edge)
    inset = axes.inset_axes((0, 0, 1, 1))
    inset.set_xlim(0, 2 * edge)
    inset.set_ylim(2 * edge, 0)
    inset.axis("off")
    add_scale_bar(inset, (2 * edge, 2 * edge), bar, f"{bar:g} 1/Å")
    figure.colorbar(image, ax=axes, label="log₁₀ relative amplitude", shrink=0.92, extend="both")
    return to_png(figure)


@styled
def probe_images(named: Sequence[tuple[str, Picture]]) -> bytes:
    """Intensity of the reconstructed probes at the specimen, side by side, as a PNG."""
    figure, axes = new_figure(6.4, 3.6, columns=len(named))
    for one, (name, picture) in zip(np.atleast_1d(axes), named, strict=True):
        n_y, n_x = picture.probe.shape
        height, width = n_y * picture.pixel_size[0], n_x * picture.pixel_size[1]
        image = one.imshow(picture.probe, cmap="inferno", extent=(0, width, height, 0), interpolation="nearest")
        one.set_title(name)
        _strip(one)
        bar = round_length(width / 3)
        add_scale_bar(one, (height, width), bar, length_label(bar))
    figure.colorbar(image, ax=axes, label="relative intensity", shrink=0.8)
    return to_png(figure)


def _strip(axes: Any) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    axes.grid(False)
    for spine in axes.spines.values():
        spine.set_visible(False)
