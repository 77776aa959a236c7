"""What a reconstruction starts from: the probe of the nominal optics, propagators, the detector's transfer function."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from agent.reconstruction.counts.layout import framed
from agent.reconstruction.model import coherence, probe, transmission
from agent.reconstruction.model.data import DiffractionData
from agent.reconstruction.model.geometry import Geometry
from agent.reconstruction.model.settings import ReconstructionSettings
from instrument import optics

PADDING = 1.5
"""By what factor the detector is extended for several slices with enough counts. Waves that leave a grid at one side enter it at
the other: with 1.125 those of bilayer MoS₂, from known slices, differ from the truth by three times as much, and a common factor
of its phases is found in 400 passes instead of 60."""
FARTHEST = 2.0
"""Largest factor by which the detector is extended for one slice."""
THIN = 0.95
"""Part of the signal at the detector's edge that a slab must keep, in spite of its thickness, to count as thin."""
TELLING = 300.0
"""Counts per object pixel from which the amplitude of a slice, or what is scattered beyond the detector's edge, can be found
beside the phase; with fewer it is mostly noise, which takes counts from the phase."""
FREE_SOURCE = 0.7
"""FWHM, Å, of a source beside that of the data, from which free probe modes start."""
VARIATION = 1e-3
"""Size of the random variations of the probe that orthogonal probe relaxation starts from, relative to the probe."""


def electrons_per_pixel(data: DiffractionData, total: float) -> float:
    """Mean electrons per object pixel, of pixels as large as the detector resolves.

    Args:
        data: positions and optics.
        total: counts of all patterns.
    """
    pixel = np.asarray(data.pixel_size)
    return float(total / data.counts_per_electron * pixel.prod() / (np.ptp(data.positions, axis=0) + pixel).prod())


def choose_padding(data: DiffractionData, settings: ReconstructionSettings, *, roomy: bool = False) -> float:
    """By what factor the detector is extended.

    Args:
        data: patterns and optics.
        settings: `padding` None: chosen here; the counts are read for it where there are several slices, or room for all.
        roomy: whether one slice, too, gets room for all frequencies that reach the detector, in about twice the time.

    Returns:
        1 … 4.
    """
    if settings.padding is not None:
        return float(settings.padding)
    if settings.slices == 1 and not roomy:
        return 1.0
    if electrons_per_pixel(data, data.counted()) < TELLING:
        return 1.0
    return PADDING if settings.slices > 1 else _reach(data)


def _reach(data: DiffractionData) -> float:
    """Largest frequency of the specimen that reaches the detector, over that of its edge.

    A wave that comes in under the angle α is scattered to the edge from α/λ beyond it. On a grid that ends at the edge such
    frequencies enter at the other side.
    """
    edge = data.angular_pixel * min(data.patterns.shape[1:]) / 2
    return float(min(1 + data.semiangle / edge, FARTHEST))


def slices_are_thin(data: DiffractionData, settings: ReconstructionSettings) -> bool:
    """Whether every slice is so thin that its thickness is invisible to the detector.

    Only then is what atoms scatter beyond the detector the largest error of the model (`transmission`). The thickness of thick
    slices makes another error, of the opposite sign.

    Args:
        data: optics and detector.
        settings: slices and their spacing.
    """
    edge = min(optics.spatial_frequency(data.angular_pixel * n / 2, data.voltage) for n in data.patterns.shape[1:])
    return bool(transmission.of_slab(edge**2, settings.thicknesses.max(), data.voltage) > THIN)


def model_probe(
    data: DiffractionData,
    settings: ReconstructionSettings,
    geo: Geometry,
    shape: tuple[int, int],
    *,
    known: NDArray[np.complex64] | None = None,
    tied: int | None = None,
) -> tuple[NDArray[np.complex64], NDArray[np.float32] | None]:
    """The probe: aperture, aberrations, source size and focal spread.

    Args:
        data: optics, and the aperture where it was measured.
        settings: number of free modes, and what the tied ones carry.
        geo: centre of the disc.
        shape: (ky, kx) detector pixels, rim included.
        known: (free modes, ky, kx) in the aperture plane, corner-centred, in place of the nominal optics: the aperture function
            first.
        tied: number of modes of source size and focal spread; None: as many as `settings.coherence` asks for.

    Returns:
        (modes, ky, kx) in the aperture plane, corner-centred, Σ|·|² = 1: not yet scaled to the counts. And the factors
        (M, ky, kx) of the first M modes, which have one aperture function in common; None where it is a mode itself.
    """
    spread = coherence.Spread(data.source_size, data.focal_spread)

    def factors(wave: NDArray[np.complex64], of: coherence.Spread, count: int | None) -> NDArray[np.float32]:
        carried = settings.coherence
        return coherence.factors(
            wave, of, data.angular_pixel, data.voltage, geo.centre_offset, carried=carried, count=count
        )

    if known is None and data.probe is not None:
        waves = np.fft.fft2(np.fft.ifftshift(data.probe, axes=(-2, -1)), norm="ortho")
        known = probe.resized(waves, shape).astype(np.complex64)
    wave = _aperture(data, geo, shape) if known is None else known[0]
    coherent = tied in (None, 1) and spread.coherent
    shared = None if coherent else factors(wave, spread, tied)
    number = 1 if shared is None else len(shared)
    if known is not None and (len(known) > 1 or settings.probe_modes == 1):
        free = known[1:]
    elif settings.probe_modes > 1:
        wider = factors(wave, coherence.wider(spread, FREE_SOURCE), number + settings.probe_modes - 1)
        if shared is None:
            return wider * wave, None
        free = wider[number:] * wave
    else:
        free = wave[None][:0]
    modes = np.concatenate([wave[None] if shared is None else shared * wave, free]).astype(np.complex64)
    if shared is not None:
        coherence.TiedModes(shared).free_orthogonal(modes, np)
    return modes / np.float32(np.sqrt((np.abs(modes) ** 2).sum())), shared


def _aperture(data: DiffractionData, geo: Geometry, shape: tuple[int, int]) -> NDArray[np.complex64]:
    """(ky, kx) of the nominal optics."""
    measured = None
    if data.aperture is not None:
        measured = framed(np.asarray(data.aperture)[None], geo.roll, shape)[0]
    aberrations = {**data.aberrations, "C10": -data.defocus}
    return probe.aperture_wave(
        shape, data.angular_pixel, data.voltage, data.semiangle, aberrations, geo.centre_offset, measured
    )


def propagators(
    data: DiffractionData, settings: ReconstructionSettings, geo: Geometry, shape: tuple[int, int]
) -> NDArray[np.complex64]:
    """Fresnel propagators exp(−iπλΔz k²) from slice to slice. A specimen tilt would go here.

    Args:
        data: optics.
        settings: slices and their spacing.
        geo: centre of the disc, from which k counts.
        shape: (ky, kx) detector pixels, rim included.

    Returns:
        (S − 1, ky, kx), corner-centred.
    """
    ky, kx = probe.frequencies(shape, data.angular_pixel, data.voltage)
    dk = optics.spatial_frequency(data.angular_pixel, data.voltage)
    row, column = geo.centre_offset
    k2 = (ky - row * dk) ** 2 + (kx - column * dk) ** 2
    gaps = np.diff(settings.depths)[:, None, None]
    return np.asarray(np.exp(-1j * np.pi * optics.wavelength(data.voltage) * gaps * k2), np.complex64)


def transfer(data: DiffractionData, shape: tuple[int, int]) -> NDArray[np.float32] | None:
    """Transfer function of the detector: point spread and integration over the pixels' area (README of this room).

    Args:
        data: point spread in pixels, and whether pixels integrate.
        shape: (ky, kx) detector pixels.

    Returns:
        (ky, kx), real, corner-centred; None for a perfect detector.
    """
    if data.point_spread == 0 and not data.area_integration:
        return None
    along = []
    for n in shape:
        line = np.ones(n)
        if data.point_spread > 0:
            spread = _at_pixels(data.point_spread, n)
            line *= np.fft.fft(spread / spread.sum()).real
        if data.area_integration:
            line *= 1 - np.sin(np.pi * np.fft.fftfreq(n)) ** 2 / 6
        along.append(line)
    return np.outer(*along).astype(np.float32)


def _at_pixels(s: float, n: int) -> NDArray[np.float64]:
    """exp(−j²/2w²) at n pixels j, corner-centred, whose standard deviation is s pixels; beyond a pixel s is w."""
    from scipy.optimize import brentq

    j2 = np.fft.fftfreq(n, 1 / n) ** 2

    def excess(w: float) -> float:
        spread = np.exp(-j2 / (2 * w**2))
        return float((j2 * spread).sum() / spread.sum()) - s**2

    # narrower than 1/50 pixel, nothing is left of a neighbour's share, 2 exp(−1/2w²)
    width = s if s > 1 else brentq(excess, 0.05, 1.01) if s > 0.02 else 0.05
    return np.exp(-j2 / (2 * width**2))


def patterns_per_place(probe_k: NDArray[np.complex64], geo: Geometry) -> float:
    """How many patterns illuminate a place of the scan: their number times (Σ|p|²)²/Σ|p|⁴ over the scan's area.

    Args:
        probe_k: (modes, ky, kx) in the aperture plane.
        geo: places of the patterns.
    """
    intensity = (np.abs(probe.to_real_space(probe_k)) ** 2).sum(axis=0, dtype=np.float64)
    scanned = (np.ptp(geo.corners, axis=0) + 1).prod()
    return float(len(geo.corners) * intensity.sum() ** 2 / (intensity**2).sum() / scanned)


def variations(modes: NDArray[np.complex64], n: int, seed: int) -> NDArray[np.complex64]:
    """Small random apertures orthogonal to the first mode, which orthogonal probe relaxation lets grow.

    They are the first mode times polynomials of up to fourth order: what makes a probe vary (defocus, tilt, drift) is smooth
    in the aperture, and noise is not. They begin with defocus and astigmatism, because phases are found slowly, amplitudes at
    once.

    Args:
        modes: (modes, ky, kx) probe in the aperture plane.
        n: how many.
        seed: of the random numbers.

    Returns:
        (n, ky, kx).
    """
    rng = np.random.default_rng(seed)
    first = modes[0]
    ky, kx = np.meshgrid(*(np.fft.fftfreq(size, 1 / size) for size in first.shape), indexing="ij")
    inside = np.abs(first) > 0.1 * np.abs(first).max()
    middle, radius = [k[inside].mean() for k in (ky, kx)], np.sqrt(inside.sum() / np.pi)
    y, x = (ky - middle[0]) / radius, (kx - middle[1]) / radius
    terms = np.stack([y**i * x**j for i in range(5) for j in range(5 - i) if i + j > 0])
    numbers = rng.normal(size=(2, n, len(terms)))
    shapes = np.tensordot(0.1 * (numbers[0] + 1j * numbers[1]), terms, axes=1)
    for shape, phase in zip(shapes, (y**2 + x**2, y**2 - x**2, 2 * y * x), strict=False):
        shape += 1j * phase
    wave = first * shapes
    overlap = (first.conj() * wave).sum(axis=(1, 2), keepdims=True) / (np.abs(first) ** 2).sum()
    wave = wave - overlap * first
    size = np.sqrt((np.abs(first) ** 2).sum() / np.maximum((np.abs(wave) ** 2).sum(axis=(1, 2), keepdims=True), 1e-30))
    return np.asarray(VARIATION * size * wave, np.complex64)


def probe_support(probe_k: NDArray[np.complex64]) -> NDArray[np.float32]:
    """Where the aperture may pass electrons: the disc of the start, one pixel wider.

    Args:
        probe_k: (modes, ky, kx) in the aperture plane.

    Returns:
        (ky, kx) 1 or 0.
    """
    disc = (np.abs(probe_k) ** 2).sum(axis=0)
    inside = disc > 1e-3 * disc.max()
    grown = inside.copy()
    for axis in (0, 1):
        for shift in (-1, 1):
            grown |= np.roll(inside, shift, axis=axis)
    return np.asarray(grown, np.float32)
