# SPDX-License-Identifier: GPL-3.0-or-later
"""Diffraction patterns as the detector's pixels see them, one probe position at a time.

The frame is the detector's. Each probe position has a window of its own, cropped out of the transmission functions; the
wave passes one transmission function per layer, with Fresnel propagation between (Kirkland, 2nd ed., eq. 6.92). How patterns
become what the pixels collect, and which approximations cost what, stands in README.md.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyfftw
from numpy.typing import NDArray

from instrument import optics
from sim_instrument.column import Column
from sim_instrument.illumination import Modes, probe_modes
from sim_instrument.potential import projected_potentials
from sim_instrument.specimen import Specimen, thermal_displacements

PROBE_RIM = 12.3
"""By how much a window is wider than the geometric probe, in units of λ/α: 24 Å at 80 kV and 21.4 mrad. An aperture with a
sharp edge has tails: with this rim a pattern differs by 2.5 % at most (relative L1) from abTEM's in a window of 150 Å, with a
third of it by 3–6 %."""
_SMALLEST_WINDOW = 1.25
"""In units of 1/Δk: reciprocal space is always sampled finer than by the detector."""
MIN_ANGLE = 65.0
"""mrad up to which scattering is followed at least, whatever the detector collects, …"""
MIN_TRANSFER = 1.3
"""… or, at voltages where that is less, the convergence angle and this momentum transfer, 1/Å."""
_RATIOS = (1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0)
"""Sampling in units of the detector's."""
_RIM_FOR_ABERRATIONS = 4.0
"""Part of the rim, Å, that covers what small aberrations add to the geometric probe."""


@dataclass(frozen=True)
class Grid:
    """Sampling of one acquisition.

    Attributes:
        detector: detector pixels along an edge.
        frequency: Δk of the detector, 1/Å.
        pixel: Å; the band limit (2/3 of Nyquist) is the detector's edge or MIN_ANGLE, whichever is larger.
        window: pixels of the multislice window.
        exit: pixels of the same window when only what the detector sees is kept.
    """

    detector: int
    frequency: float
    pixel: float
    window: int
    exit: int

    @classmethod
    def of(cls, column: Column, defocus: float, thickness: float = 0.0) -> Grid:
        """The sampling for a probe.

        Args:
            column: detector, beam energy and aperture.
            defocus: true, at the entrance surface, Å.
            thickness: of the specimen, Å.
        """
        detector = column.detector_pixels
        frequency = optics.spatial_frequency(column.angular_pixel, column.voltage)
        transfer = 1e3 * MIN_TRANSFER * optics.wavelength(column.voltage)
        reach = min(MIN_ANGLE, column.semiangle + transfer)
        edge = detector * column.angular_pixel / 3
        ratio = next((r for r in _RATIOS if r * edge >= reach), _RATIOS[-1])
        pixel = 1 / (ratio * detector * frequency)
        widest = max(abs(defocus), abs(defocus - thickness))
        diameter = optics.probe_diameter(column.semiangle, widest, column.voltage)
        rim = PROBE_RIM / optics.spatial_frequency(column.semiangle, column.voltage)
        quantum = detector // 4
        spread = max(column.aberration_spread - _RIM_FOR_ABERRATIONS, 0)
        needed = max((diameter + spread + rim) * frequency, _SMALLEST_WINDOW) * detector
        exit_ = quantum * math.ceil(needed / quantum - 1e-9)
        return cls(detector, frequency, pixel, round(ratio * exit_), exit_)


@dataclass(frozen=True)
class Scene:
    """What all positions of an acquisition share, in the detector's frame.

    Attributes:
        grid: sampling.
        origin: (y, x), Å, of pixel (0, 0) of the transmission functions.
        transmission: per configuration and layer (y, x); layers that are alike are one array.
        waves: per configuration the (modes, ky, kx) amplitudes, scaled so that all patterns add up to one electron.
        propagators: (ky, kx) from each layer to the next.
        pixel_area: whether detector pixels integrate over their area.
    """

    grid: Grid
    origin: NDArray[np.float64]
    transmission: tuple[tuple[NDArray[np.complex64], ...], ...]
    waves: tuple[NDArray[np.complex64], ...]
    propagators: tuple[NDArray[np.complex64], ...]
    pixel_area: bool


def build_scene(
    specimen: Specimen,
    column: Column,
    defocus: float,
    positions: NDArray[np.float64],
    present: NDArray[np.bool_] | None = None,
    tolerance: float | None = None,
) -> Scene:
    """Compute potentials and probe.

    Args:
        specimen: the atoms.
        column: with its faults.
        defocus: true, Å, positive for underfocus.
        positions: (n, 2) of the probe, (y, x), Å, specimen frame.
        present: (n_atoms,) which atoms are there; None: all.
        tolerance: part of the intensity that the probe's modes may leave out; None: the default.

    Returns:
        What all positions share.
    """
    grid = Grid.of(column, defocus, specimen.layer_depth[-1])
    to_scan = optics.detector_to_scan(column.rotation, column.mirrored)
    frame = to_scan.T
    local = positions @ frame.T
    margin = (grid.window // 2 + 1) * grid.pixel
    origin = local.min(axis=0) - margin
    extent = local.max(axis=0) - origin + margin
    shape = math.ceil(extent[0] / grid.pixel) + 1, math.ceil(extent[1] / grid.pixel) + 1

    interaction = optics.interaction_parameter(column.voltage)
    configurations = specimen.options.phonon_configurations
    transmission = []
    for index in range(max(configurations, 1)):
        atoms = specimen.positions
        if configurations:
            atoms = atoms + thermal_displacements(specimen, index)
        potentials = projected_potentials(specimen, frame, origin, shape, grid.pixel, atoms, present)
        transmission.append(_transmission(potentials, interaction, grid.pixel))

    depth = specimen.layer_depth
    window = (grid.window, grid.window)
    # Free space down to the first layer is the same as less underfocus.
    extra = {} if tolerance is None else {"tolerance": tolerance}
    modes = probe_modes(column, defocus - depth[0], window, grid.pixel, to_scan, **extra)
    k2 = _squared_frequency(window, grid.pixel)
    inside = k2 <= _band_limit(grid.pixel) ** 2
    wavelength = optics.wavelength(column.voltage)
    between = {
        dz: np.where(inside, np.exp(-1j * np.pi * wavelength * k2 * dz), 0).astype(np.complex64)
        for dz in set(_distances(depth))
    }
    return Scene(
        grid,
        origin,
        tuple(transmission),
        _share_configurations(modes, max(configurations, 1)),
        tuple(between[dz] for dz in _distances(depth)),
        column.pixel_area,
    )


def _transmission(
    potentials: NDArray[np.float32], interaction: float, pixel: float
) -> tuple[NDArray[np.complex64], ...]:
    """The transmission function of each layer, computed once where a layer is like the one before."""
    layers: list[NDArray[np.complex64]] = []
    for index, potential in enumerate(potentials):
        alike = index > 0 and np.array_equal(potential, potentials[index - 1])
        layers.append(layers[-1] if alike else _band_limited(np.exp(1j * interaction * potential), pixel))
    return tuple(layers)


def _distances(depth: Sequence[float]) -> list[float]:
    """Å from each layer to the next; equal ones are equal to the last digit."""
    return [round(float(dz), 6) for dz in np.diff(depth)]


def _share_configurations(modes: Modes, configurations: int) -> tuple[NDArray[np.complex64], ...]:
    """Which modes see which frozen-phonon configurations, with which amplitude.

    The strongest mode sees all; a mode of weight w sees a part √(w/w₀) of them (rounded up to pairs), which is the
    cheapest division for a given variance.
    """
    share = np.ceil(configurations / 2 * np.sqrt(modes.weights / modes.weights[0]) - 1e-9) * 2
    seen = np.minimum(share, configurations).astype(int)
    amplitude = np.sqrt(modes.weights / seen)
    waves = []
    for index in range(configurations):
        chosen = seen > index
        waves.append((amplitude[chosen, None, None] * modes.waves[chosen]).astype(np.complex64))
    return tuple(waves)


class Multislice:
    """Computes patterns of one scene. Holds work arrays: one instance per thread.

    Args:
        scene: what to look at.
    """

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        grid = scene.grid
        window, exit_, detector = grid.window, grid.exit, grid.detector
        self._wave, self._forward, self._backward = _transforms(window)
        self._correlation, _, self._correlate = _transforms(exit_)
        self._folded, self._detect, _ = _transforms(detector)
        self._cropped = np.empty((exit_, exit_), dtype=np.complex64)
        self._square = np.empty((exit_, 2 * exit_), dtype=np.float32)
        self._frequencies = np.fft.fftfreq(window, grid.pixel)
        self._distance = np.fft.fftfreq(exit_, 1 / exit_) / detector
        weight = np.sinc(self._distance) if scene.pixel_area else np.ones(exit_)
        # |Ψ|² is a density per 1/window²; a detector pixel is (exit/detector)² times as large.
        self._pixel_weight = (np.multiply.outer(weight, weight) * (exit_ / detector) ** 2).astype(np.float32)

    def pattern(
        self, position: NDArray[np.float64], shift: NDArray[np.float64] | tuple[float, float] = (0.0, 0.0)
    ) -> NDArray[np.float32]:
        """One diffraction pattern.

        Args:
            position: (2,) of the probe, (y, x), Å, detector frame.
            shift: (2,) of the pattern on the detector, pixels along rows and columns.

        Returns:
            (ky, kx) intensity per electron; zero beam at N//2.
        """
        scene, grid = self.scene, self.scene.grid
        pixels = (position - scene.origin) / grid.pixel
        corner = np.floor(pixels).astype(int) - grid.window // 2
        ramp_y, ramp_x = (np.exp(-2j * np.pi * self._frequencies * r * grid.pixel) for r in pixels - corner)
        ramp = np.multiply.outer(ramp_y, ramp_x).astype(np.complex64)
        window = (slice(corner[0], corner[0] + grid.window), slice(corner[1], corner[1] + grid.window))
        intensity = np.zeros((grid.exit, 2 * grid.exit), dtype=np.float32)
        for transmission, waves in zip(scene.transmission, scene.waves, strict=True):
            for amplitude in waves:
                np.multiply(amplitude, ramp, out=self._wave)
                self._scatter([layer[window] for layer in transmission])
                _crop_corners(self._wave, self._cropped)
                np.square(self._cropped.view(np.float32), out=self._square)
                intensity += self._square
        return self._detected(intensity[:, ::2] + intensity[:, 1::2], shift)

    def _scatter(self, transmission: Sequence[NDArray[np.complex64]]) -> None:
        """Take the wave from reciprocal space before the first layer to reciprocal space behind the last."""
        wave = self._wave
        for index, layer in enumerate(transmission):
            if index:
                np.multiply(wave, self.scene.propagators[index - 1], out=wave)
            self._backward()
            np.multiply(wave, layer, out=wave)
            self._forward()

    def _detected(
        self, intensity: NDArray[np.float32], shift: NDArray[np.float64] | tuple[float, float]
    ) -> NDArray[np.float32]:
        """What the pixels collect of an intensity sampled at 1/window, corner-centred; the result is centred."""
        self._correlation[...] = intensity
        self._correlate()
        np.multiply(self._correlation, self._pixel_weight, out=self._correlation)
        if np.any(shift):
            down, right = (np.exp(2j * np.pi * pixels * self._distance) for pixels in shift)
            self._correlation *= np.multiply.outer(down, right).astype(np.complex64)
        n = self.scene.grid.detector
        self._folded[...] = _fold(_fold(self._correlation, n).T, n).T
        self._detect()
        content = np.fft.fftshift(self._folded.real)
        # The correlation ends at the window's edge, which leaves small negative lobes beside the edge of the disc.
        positive: NDArray[np.float32] = np.maximum(content, 0)
        positive *= content.sum() / positive.sum()
        return positive


def _transforms(n: int) -> tuple[NDArray[np.complex64], pyfftw.FFTW, pyfftw.FFTW]:
    """An aligned n × n array with its in-place forward (1) and backward (1/n²) transforms."""
    array = pyfftw.empty_aligned((n, n), dtype="complex64")
    plan = {"axes": (0, 1), "threads": 1, "flags": ("FFTW_MEASURE",)}
    return (
        array,
        pyfftw.FFTW(array, array, direction="FFTW_FORWARD", **plan),
        pyfftw.FFTW(array, array, direction="FFTW_BACKWARD", **plan),
    )


def _crop_corners(source: NDArray[np.complex64], target: NDArray[np.complex64]) -> None:
    """Keep the lowest frequencies of a corner-centred array, scaled for the smaller inverse transform."""
    half = len(target) // 2
    for rows in (slice(0, half), slice(-half, None)):
        for columns in (slice(0, half), slice(-half, None)):
            target[rows, columns] = source[rows, columns]


def _fold(source: NDArray[np.complex64], n: int) -> NDArray[np.complex64]:
    """Wrap the first axis, corner-centred, round a period of n: the transform is then taken at the n frequencies."""
    half = len(source) // 2
    periods = -(-len(source) // n)
    padded = np.zeros((periods * n, *source.shape[1:]), dtype=source.dtype)
    padded[:half], padded[-half:] = source[:half], source[-half:]
    wrapped: NDArray[np.complex64] = padded.reshape(periods, n, -1).sum(axis=0)
    return wrapped


def _squared_frequency(shape: tuple[int, int], pixel: float) -> NDArray[np.float64]:
    ky, kx = (np.fft.fftfreq(n, pixel) for n in shape)
    return ky[:, None] ** 2 + kx**2


def _band_limit(pixel: float) -> float:
    """2/3 of the Nyquist frequency, 1/Å, so that products do not alias into what is kept."""
    return 1 / (3 * pixel)


def _band_limited(array: NDArray[np.complex128], pixel: float) -> NDArray[np.complex64]:
    from scipy import fft

    inside = _squared_frequency(array.shape, pixel) <= _band_limit(pixel) ** 2
    limited: NDArray[np.complex64] = fft.ifft2(fft.fft2(array.astype(np.complex64)) * inside).astype(np.complex64)
    return limited
