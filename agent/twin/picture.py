"""What a picture at given settings would be worth: patterns of a thin specimen, reconstructed and held against the truth.

Incoherence is drawn, not modelled: each pattern is the mean over a few places of the source and foci. So the simulation shares
no code with the engine that has to undo it.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy import fft
from scipy.special import ndtri

from agent.config import ScoreChoice
from agent.reconstruction import DiffractionData, ReconstructionSettings, reconstruct
from agent.scoring.regions import crop
from agent.scoring.truth import true_information
from agent.twin.column import TwinColumn
from agent.twin.specimens import Specimen
from instrument import optics
from instrument.errors import BadInputError
from instrument.models import Rectangle

SCORED, RIM = 8.0, 1.0
"""Edge of the scored square, and of the scan beside it, Å."""
MARGIN = 1.5
"""Å of truth beside the scored square."""
SAMPLES = 6
"""Places of the source and foci per pattern."""
PASSES, COHERENCE = 5, 0.8
"""Of the reconstructions. 10 passes and 0.99 cost three times as much and rank settings alike (README.md)."""
TRUTH_PIXEL = 0.1
CHOICE = ScoreChoice(ring_width=0.1)
CHUNK = 32
FWHM = 2 * math.sqrt(2 * math.log(2))


def information(
    column: TwinColumn, specimen: Specimen, step: float, defocus: float, doses: list[float], rng: np.random.Generator
) -> list[float]:
    """The information that pictures really carry, one for each dose.

    Args:
        column: that takes them.
        specimen: below it.
        step: Å.
        defocus: Å, positive for underfocus.
        doses: e/Å².
        rng: of the noise.

    Returns:
        bit/Å²; 0 where there is no picture.
    """
    side = math.ceil((SCORED + 2 * RIM) / step)
    axis = (np.arange(side) - (side - 1) / 2) * step
    positions = np.stack(np.meshgrid(axis, axis, indexing="ij"), axis=-1).reshape(-1, 2)
    expected = _expected(column, specimen, positions, defocus, rng)
    count = round((SCORED + 2 * MARGIN) / TRUTH_PIXEL)
    fine = np.asarray((np.arange(count) + 0.5) * TRUTH_PIXEL - SCORED / 2 - MARGIN, dtype=np.float64)
    truth = specimen.phase(fine, fine, column.voltage)
    worth = []
    for dose in doses:
        data = DiffractionData(
            rng.poisson(expected * dose * step**2).astype(np.uint16),
            positions,
            column.voltage,
            column.semiangle,
            column.angular_pixel,
            defocus * (1 + column.defocus_error),
            aberrations=column.told,
            source_size=column.source_size if column.told_source_size is None else column.told_source_size,
            focal_spread=column.focal_spread if column.told_focal_spread is None else column.told_focal_spread,
        )
        settings = ReconstructionSettings(max_passes=PASSES, coherence=COHERENCE, stop_early=False, device="cpu")
        try:
            found = reconstruct(data, settings)
        except BadInputError:
            worth.append(0.0)
            continue
        square = Rectangle(y=-SCORED / 2, x=-SCORED / 2, height=SCORED, width=SCORED)
        image = crop(found.phase, found.origin, found.pixel_size, square)
        value = true_information(image, found.pixel_size, truth, TRUTH_PIXEL, CHOICE)
        worth.append(value if math.isfinite(value) else 0.0)
    return worth


def _expected(
    column: TwinColumn, specimen: Specimen, positions: NDArray[np.float64], defocus: float, rng: np.random.Generator
) -> NDArray[np.float32]:
    """(n, ky, kx) patterns of one electron, zero beam in the middle."""
    n = column.pixels
    pixel = optics.pixel_size(column.angular_pixel, n, column.voltage)
    k = np.fft.fftfreq(n, pixel)
    ky, kx = np.meshgrid(k, k, indexing="ij")
    inside = np.hypot(ky, kx) < optics.spatial_frequency(column.semiangle, column.voltage)
    fixed = optics.aberration_phase(ky, kx, column.voltage, column.aberrations)
    curvature = optics.aberration_phase(ky, kx, column.voltage, {"C10": 1.0})
    aperture = np.where(inside, np.exp(-1j * fixed), 0) * n / math.sqrt(inside.sum())
    # One grid of pixels for the whole specimen; a probe between two of them is moved by a phase in its aperture.
    reach = float(np.abs(positions).max()) + n * pixel / 2 + 2
    half = math.ceil(reach / pixel)
    grid = np.asarray(np.arange(-half, half) * pixel, dtype=np.float64)
    transmission = np.exp(1j * specimen.phase(grid, grid, column.voltage)).astype(np.complex64)
    windows = np.lib.stride_tricks.sliding_window_view(transmission, (n, n))
    seen = positions + rng.normal(0, column.jitter, positions.shape)
    patterns = np.zeros((len(positions), n, n), np.float32)
    for sample in range(SAMPLES):
        # Foci at the quantiles of the focal spread, places of the source at random.
        focus = column.focal_spread * float(ndtri((sample + 0.5) / SAMPLES))
        wave = (aperture * np.exp(1j * curvature * (defocus + focus))).astype(np.complex64)
        at = (seen + rng.normal(0, column.source_size / FWHM, positions.shape)) / pixel + half
        whole = np.floor(at).astype(int)
        along = np.exp(-2j * np.pi * k * ((at - whole) * pixel)[:, :, None]).astype(np.complex64)
        for first in range(0, len(positions), CHUNK):
            part = slice(first, first + CHUNK)
            probes = fft.ifft2(wave * along[part, 0, :, None] * along[part, 1, None, :])
            corners = whole[part] - n // 2
            exit_waves = fft.fftshift(probes, axes=(1, 2)) * windows[corners[:, 0], corners[:, 1]]
            patterns[part] += np.abs(fft.fft2(exit_waves)) ** 2 / SAMPLES
    return np.asarray(fft.fftshift(patterns, axes=(1, 2)) / np.float32(n**2))
