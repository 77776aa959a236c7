"""A specimen that is known, and the patterns a microscope with known faults would have made of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.reconstruction import DiffractionData
from agent.reconstruction.model import forward, geometry, probe, start
from agent.reconstruction.model.settings import ReconstructionSettings
from agent.reconstruction.solver.result import Reconstruction
from instrument import optics

VOLTAGE, SEMIANGLE, N, ANGULAR_PIXEL = 80e3, 21.4, 64, 2.0


CRYSTAL = -1
"""In place of a seed: a honeycomb with the lattice of MoS2, alike in every cell."""


def places(seed: int = 5) -> NDArray[np.float64]:
    """(350, 2) atoms at random places of the plane, Å, from −20 to 45; or the honeycomb, from −35 to 65."""
    if seed == CRYSTAL:
        i, j = np.meshgrid(np.arange(-12, 24), np.arange(-11, 21), indexing="ij")
        first = 3.16 * np.stack([i.ravel() * np.sqrt(0.75), (j + 0.5 * (i % 2)).ravel()], axis=-1)
        return np.concatenate([first, first + np.array([3.16 / np.sqrt(3), 0.0])])
    return np.random.default_rng(seed).uniform(-20, 45, (350, 2))


def atoms(
    shape: tuple[int, int],
    origin: tuple[float, float],
    pixel: tuple[float, float],
    seed: int = 5,
    height: float = 0.5,
) -> NDArray[np.float64]:
    """Phase (y, x) in rad of atoms at `places(seed)`, peaks of `height`; the same atoms on any grid."""
    y = origin[0] + pixel[0] * np.arange(shape[0])
    x = origin[1] + pixel[1] * np.arange(shape[1])
    where = places(seed)
    rows = np.exp(-((y[None] - where[:, :1]) ** 2) / 0.7)
    columns = np.exp(-((x[None] - where[:, 1:]) ** 2) / 0.7)
    return np.asarray(height * rows.T @ columns)


def raster(step: float = 1.5, field: float = 24.0) -> NDArray[np.float64]:
    """(n, 2) positions in Å, line by line."""
    axis = (np.arange(int(field / step)) + 0.5) * step
    return np.stack(np.meshgrid(axis, axis, indexing="ij"), axis=-1).reshape(-1, 2)


def experiment(
    *,
    dose: float = 1e4,
    step: float = 1.5,
    positions: NDArray[np.float64] | None = None,
    true_positions: NDArray[np.float64] | None = None,
    shape: tuple[int, int] = (N, N),
    angular_pixel: float = ANGULAR_PIXEL,
    defocus: float = 200.0,
    modes: Callable[[NDArray[np.complex64]], NDArray[np.complex64]] | None = None,
    probes: Callable[[int, NDArray[np.complex64]], NDArray[np.complex64]] | None = None,
    intensity: NDArray[np.float64] | None = None,
    layers: Sequence[int] = (5,),
    spacing: float = 0.0,
    amplitude: float = 0.0,
    point_spread: float = 0.0,
    area_integration: bool = False,
    seed: int | None = 1,
) -> DiffractionData:
    """Patterns of `atoms` (one slice for each seed in `layers`, `spacing` Å apart) and what a microscopist believes of them.

    Args:
        dose: e/Å², on average.
        positions: (n, 2) Å, where the probe is believed to be; None: a raster of `step` over 24 Å.
        true_positions: where it was; None: there.
        modes: the coherent wave (ky, kx) to incoherent ones (P, ky, kx).
        probes: pattern number and coherent wave to the wave that made that pattern.
        intensity: (n,) relative to the mean.
        amplitude: absorption of an atom relative to its phase.
        point_spread, area_integration: of the detector; believed to be perfect.
        seed: of the Poisson noise; None: the expected counts, without noise.
    """
    believed = raster(step) if positions is None else positions
    moved = believed if true_positions is None else true_positions
    n = len(believed)
    data = DiffractionData(np.zeros((n, *shape), np.uint16), moved, VOLTAGE, SEMIANGLE, angular_pixel, defocus)
    geo = geometry.locate(data)
    wave = probe.aperture_wave(shape, angular_pixel, VOLTAGE, SEMIANGLE, {"C10": -defocus})
    wave = wave * np.float32(np.sqrt(dose * step**2))
    states = wave[None] if modes is None else modes(wave)
    settings = ReconstructionSettings(slices=len(layers), slice_spacing=spacing)
    fine = replace(data, point_spread=point_spread, area_integration=area_integration)
    propagators, transfer = start.propagators(data, settings, geo, shape), start.transfer(fine, shape)
    problem = forward.Problem(
        np.zeros((n, 1, 1)), np.ones(shape, np.float32), len(states), propagators, transfer=transfer
    )
    phases = np.stack([atoms(geo.object_shape, geo.origin, geo.pixel_size, layer) for layer in layers])
    weights = np.ones((n, len(states))) * (1.0 if intensity is None else np.sqrt(intensity)[:, None])
    unknowns = forward.Unknowns(
        np.exp((1j - amplitude) * phases),
        states.astype(np.complex128),
        geo.corners,
        geo.subpixel_shifts.astype(np.float64),
        weights,
        np.zeros(shape),
        0.0,
    )
    of_pattern = None if probes is None else lambda number: probes(number, wave)
    patterns = np.roll(_counts(problem, unknowns, of_pattern, seed), (shape[0] // 2, shape[1] // 2), axis=(1, 2))
    return replace(data, patterns=patterns, positions=believed)


def _counts(
    problem: forward.Problem,
    unknowns: forward.Unknowns,
    of_pattern: Callable[[int], NDArray[np.complex64]] | None,
    seed: int | None,
) -> NDArray[Any]:
    """(n, ky, kx), corner-centred: drawn, or expected where `seed` is None; `of_pattern`: each pattern's own wave."""
    rng = np.random.default_rng(seed)
    n = len(problem.counts)
    size = 1 if of_pattern else 64
    counts = []
    for first in range(0, n, size):
        if of_pattern is not None:
            unknowns.apertures = of_pattern(first)[None].astype(np.complex128)
        model, _ = forward.intensities(problem, unknowns, np.arange(n)[first : first + size], np)
        model = np.maximum(model, 0)
        counts.append(model.astype(np.float32) if seed is None else rng.poisson(model).astype(np.uint16))
    return np.concatenate(counts)


def thin_object(
    shape: tuple[int, int], angular_pixel: float, *, step: float, field: float, defocus: float, rim: float, count: int
) -> tuple[DiffractionData, NDArray[np.float64], NDArray[np.float64]]:
    """(experiment without counts, true phase on its object grid, expected electrons per e/Å² of dose and position).

    Args:
        shape: of the detector, pixels.
        step, field: of the scan, Å.
        rim: Å beyond the field in which there are atoms, too.
        count: atoms, at random places, in one slice.
    """
    positions = raster(step, field)
    data = DiffractionData(
        np.zeros((len(positions), *shape), np.uint16), positions, VOLTAGE, SEMIANGLE, angular_pixel, defocus
    )
    geo = geometry.locate(data)
    rng = np.random.default_rng(0)
    where, heights = rng.uniform(-rim, field + rim, (count, 2)), 0.5 * rng.uniform(0.4, 1.2, count)
    y, x = (geo.origin[i] + geo.pixel_size[i] * np.arange(geo.object_shape[i]) for i in (0, 1))
    rows, columns = (np.exp(-((axis[:, None] - where[:, i]) ** 2) / 0.5) for i, axis in ((0, y), (1, x)))
    phase = (rows * heights) @ columns.T
    wave = probe.aperture_wave(shape, angular_pixel, VOLTAGE, SEMIANGLE, {"C10": -defocus})
    problem, unknowns = forward.known(np.exp(1j * phase)[None], wave[None], geo.corners, geo.subpixel_shifts)
    model = forward.expected_counts(problem, unknowns, np.arange(len(positions)), np)
    return data, phase, np.fft.fftshift(model, axes=(1, 2)) * step**2


def defocused(
    wave: NDArray[np.complex64], change: float, angular_pixel: float = ANGULAR_PIXEL
) -> NDArray[np.complex64]:
    """The aperture (ky, kx) with `change` Å more underfocus."""
    ky, kx = probe.frequencies((wave.shape[0], wave.shape[1]), angular_pixel, VOLTAGE)
    return np.asarray(wave * np.exp(-1j * optics.aberration_phase(ky, kx, VOLTAGE, {"C10": -change})), np.complex64)


def inner(
    result: Reconstruction, layers: Sequence[int] = (5,), field: float = 24.0, margin: float = 4.0
) -> tuple[NDArray[np.float64], NDArray[np.float64], tuple[float, float]]:
    """The middle of the reconstructed phase, the atoms on the same pixels, and the pixel size in Å."""
    pixel = result.pixel_size
    first = [int(np.ceil((margin - o) / p)) for o, p in zip(result.origin, pixel, strict=True)]
    size = [int((field - 2 * margin) / p) for p in pixel]
    cut = result.phase[first[0] : first[0] + size[0], first[1] : first[1] + size[1]]
    corner = (result.origin[0] + first[0] * pixel[0], result.origin[1] + first[1] * pixel[1])
    truth = sum(atoms((size[0], size[1]), corner, pixel, layer) for layer in layers)
    return cut.astype(np.float64), np.asarray(truth), pixel


def phase_scale(
    result: NDArray[np.float64],
    truth: NDArray[np.float64],
    pixel: tuple[float, float],
    between: tuple[float, float] = (0.25, 1.0),
) -> tuple[float, float]:
    """(Re Σ R T* / Σ|T|², correlation) over 0.25–1.0 1/Å, or `between` others, windowed."""
    window = np.hanning(truth.shape[0])[:, None] * np.hanning(truth.shape[1])
    r, t = (np.fft.fft2((image - image.mean()) * window) for image in (result, truth))
    k_y, k_x = (np.fft.fftfreq(n, p) for n, p in zip(truth.shape, pixel, strict=True))
    k = np.hypot(k_y[:, None], k_x[None])
    band = (k > between[0]) & (k < between[1])
    cross = (r * t.conj())[band].real.sum()
    power_t, power_r = (abs(t[band]) ** 2).sum(), (abs(r[band]) ** 2).sum()
    return float(cross / power_t), float(cross / np.sqrt(power_t * power_r))
