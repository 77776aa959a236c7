# SPDX-License-Identifier: GPL-3.0-or-later
"""The simulated patterns against abTEM's own multislice, against theory and against dense quadratures."""

from __future__ import annotations

import dataclasses
import functools
import math

import examples
import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.ndimage import convolve1d

from instrument import AcquisitionPlan, optics
from sim_instrument import Column, SpecimenOptions, build_specimen, expected_intensities
from sim_instrument.column import FWHM
from sim_instrument.detector import PixelDetector, poisson
from sim_instrument.multislice import Multislice, build_scene
from sim_instrument.potential import import_abtem
from sim_instrument.simulation import Exposure

MOS2 = build_specimen(SpecimenOptions(vacancies=2))
VACUUM = build_specimen(SpecimenOptions(material="vacuum"))
ABERRATIONS = {"C12": 30.0, "phi12": 0.5, "C21": 500.0, "phi21": 1.0, "C30": 2e4}
PROBES = np.array([[200.0, 210.0], [203.3, 214.1]])


def plan(defocus: float = 200.0, positions: NDArray[np.float64] = PROBES, **changes: object) -> AcquisitionPlan:
    places = tuple(map(tuple, positions.tolist()))
    return examples.plan(
        "a1", 40, 190, 190, **({"step": 0.8, "dose": 3000.0, "positions": places} | changes), defocus=defocus
    )


def patterns(column: Column, defocus: float = 200.0, positions: NDArray[np.float64] = PROBES) -> NDArray[np.float32]:
    """(n, ky, kx) intensity per electron on MoS2."""
    return expected_intensities(plan(defocus, positions), MOS2, column)[0]


def difference(a: NDArray, b: NDArray) -> float:
    """Relative L1."""
    return float(np.abs(a - b).sum() / b.sum())


def centre_of_mass(pattern: NDArray) -> NDArray[np.float64]:
    """(row, column) in pixels from the zero beam at N//2."""
    index = np.arange(len(pattern)) - len(pattern) // 2
    return np.array([(pattern.sum(1) * index).sum(), (pattern.sum(0) * index).sum()]) / pattern.sum()


@functools.cache
def abtem_patterns(defocus: float) -> NDArray[np.float64]:
    """(n, 128, 128) by abTEM, at PROBES."""
    abtem = import_abtem()
    # Measuring the fastest transform takes longer than these few patterns.
    with abtem.config.set({"fftw.planning_effort": "FFTW_ESTIMATE"}):
        return np.array([abtem_pattern(position, defocus) for position in PROBES])


def abtem_pattern(position: NDArray[np.float64], defocus: float, windows: int = 3) -> NDArray[np.float64]:
    """(128, 128): fine slices, a window of `windows`/Δk, intensity integrated over the detector's pixels."""
    import abtem
    from ase import Atoms

    extent = windows / optics.spatial_frequency(1.096, 80e3)
    local = MOS2.positions[:, :2] - (position - extent / 2)
    inside = np.all((local >= 0) & (local < extent), axis=1)
    atoms = Atoms(
        numbers=MOS2.numbers[inside],
        positions=np.column_stack([local[inside], MOS2.positions[inside, 2]]),
        cell=[extent, extent, 9.6],
        pbc=True,
    )
    gpts = 192 * windows
    potential = abtem.Potential(
        atoms, gpts=gpts, slice_thickness=0.8, parametrization="lobato", projection="infinite"
    ).build(lazy=False)
    # abTEM counts azimuths from its first axis, which is our y.
    turned = {n: math.pi / 2 - v if n.startswith("phi") else v for n, v in ABERRATIONS.items()}
    probe = abtem.Probe(energy=80e3, semiangle_cutoff=21.4, C10=-defocus, **turned, gpts=gpts, extent=extent, soft=True)
    wave = probe.multislice(potential, scan=abtem.CustomScan([[extent / 2, extent / 2]]), lazy=False)
    pattern = np.asarray(wave.diffraction_patterns(max_angle=None, fftshift=True).array, dtype=float).squeeze()
    pattern = convolve1d(convolve1d(pattern, np.ones(windows), axis=0), np.ones(windows), axis=1)
    middle = len(pattern) // 2
    return pattern[middle - 64 * windows : middle + 64 * windows : windows][
        :, middle - 64 * windows : middle + 64 * windows : windows
    ]


@pytest.mark.parametrize("defocus", [500.0, -150.0])
def test_patterns_agree_with_abtem(defocus: float) -> None:
    """Within 3.5 % (window, aperture edge, one slice per layer); far off with the other sign of defocus or swapped axes."""
    reference = abtem_patterns(defocus)
    column = Column.ideal(aberrations=ABERRATIONS)
    simulated = patterns(column, defocus)
    assert difference(simulated, reference) < 0.035
    assert difference(simulated.swapaxes(1, 2), reference) > 0.1
    assert difference(patterns(column, -defocus), reference) > 0.1


def test_pixels_integrate_over_their_area() -> None:
    """Fringes of a wide probe are about as fine as a pixel: samples at the pixels' centres are not their content."""
    reference = abtem_patterns(500.0)
    sampled = patterns(Column.ideal(aberrations=ABERRATIONS, pixel_area=False), 500.0)
    assert difference(sampled, reference) > 1.4 * difference(
        patterns(Column.ideal(aberrations=ABERRATIONS), 500.0), reference
    )


def test_vacuum_shows_the_aperture() -> None:
    column = Column.ideal()
    pattern = expected_intensities(plan(), VACUUM, column)[0, 0]
    disc = math.pi * (column.semiangle / column.angular_pixel) ** 2
    assert pattern.sum() == pytest.approx(1, abs=1e-3)
    assert (pattern.sum() / np.median(pattern[pattern > 0.5 / disc])) == pytest.approx(disc, rel=0.01)
    np.testing.assert_allclose(centre_of_mass(pattern), 0, atol=0.01)
    radius = np.hypot(*np.mgrid[-64:64, -64:64])
    assert pattern[radius > column.semiangle / column.angular_pixel + 2].sum() < 3e-3


def test_detector_rotation_and_hand() -> None:
    """I(detector direction d) = I₀(scan direction M d), with M = optics.detector_to_scan."""
    upright = patterns(Column.ideal(aberrations=ABERRATIONS))
    centred = upright[:, 1:, 1:]
    turned = patterns(Column.ideal(aberrations=ABERRATIONS, rotation=math.pi / 2))[:, 1:, 1:]
    # M takes (row, column) to (−column, row).
    assert difference(turned, np.flip(centred, 1).swapaxes(1, 2)) < 0.01
    mirrored = patterns(Column.ideal(aberrations=ABERRATIONS, mirrored=True))[:, 1:, 1:]
    assert difference(mirrored, np.flip(centred, 1)) < 0.01
    assert difference(mirrored, centred) > 0.1

    oblique = patterns(Column.ideal(aberrations=ABERRATIONS, rotation=0.4, mirrored=True))
    to_scan = optics.detector_to_scan(0.4, True)
    for detected, original in zip(oblique, upright, strict=True):
        np.testing.assert_allclose(to_scan @ centre_of_mass(detected), centre_of_mass(original), atol=0.03)


@pytest.mark.parametrize("defocus", [30.0, 500.0])
def test_source_and_energy_spread_against_a_dense_quadrature(defocus: float) -> None:
    """The few coherent modes give the average over source points and defocus values to 2 %."""
    column = Column.ideal(source_size=0.5, energy_spread=0.3)
    few = patterns(column, defocus, PROBES[:1])[0]

    x, weight = np.polynomial.hermite_e.hermegauss(7)
    weight = weight / weight.sum()
    points = PROBES[0] + np.stack(np.meshgrid(x, x, indexing="ij"), -1).reshape(-1, 2) * 0.5 / FWHM
    dense = np.zeros_like(few)
    for focus, share in zip(defocus + x[1:-1] * column.focal_spread, weight[1:-1], strict=True):
        scene = build_scene(MOS2, Column.ideal(), focus, points)
        engine = Multislice(scene)
        dense += share * np.tensordot(np.outer(weight, weight).ravel(), [engine.pattern(p) for p in points], 1)
    dense /= weight[1:-1].sum()
    assert difference(few, dense) < 0.02
    assert difference(patterns(Column.ideal(), defocus, PROBES[:1])[0], dense) > 0.04


def test_frozen_phonons_converge_with_few_configurations() -> None:
    def with_phonons(n: int, seed: int) -> NDArray[np.float32]:
        options = MOS2.options.model_copy(update={"phonon_configurations": n, "seed": seed})
        specimen = dataclasses.replace(MOS2, options=options)
        return expected_intensities(plan(positions=PROBES[:1]), specimen, Column.ideal())[0]

    reference = with_phonons(16, seed=5)
    assert difference(with_phonons(4, seed=6), reference) < 0.008
    assert difference(with_phonons(1, seed=6), reference) > 0.015


def test_drift_and_jitter_displace_the_probe() -> None:
    column = Column.ideal(drift=100.0, drift_direction=0.3, max_frame_rate=1e5)
    scan = plan(positions=np.tile(PROBES[0], (50, 1)))
    exposure = Exposure(scan, MOS2, column)
    middle_of_last = 49.5 * scan.electrons_per_pattern / column.electrons_per_second
    moved = PROBES[0] + 100.0 * middle_of_last * np.array([math.sin(0.3), math.cos(0.3)])
    np.testing.assert_allclose(exposure.positions[-1], moved, atol=1e-9)
    assert np.linalg.norm(moved - PROBES[0]) > 0.5
    there = patterns(Column.ideal(), positions=moved[None])[0]
    assert difference(exposure.intensities(exposure.blocks[-1])[-1], there) < 0.01

    jittered = Exposure(plan(positions=np.tile(PROBES[0], (500, 1))), VACUUM, Column.ideal(jitter=0.1))
    np.testing.assert_allclose((jittered.positions - PROBES[0]).std(axis=0), 0.1, rtol=0.15)


@pytest.mark.parametrize("mean", [0.02, 3.0])
def test_counts_are_poisson(mean: float) -> None:
    """Mean and variance of every pixel, in both ways of drawing."""
    rng = np.random.default_rng(1)
    expected = (mean * rng.uniform(0.5, 1.5, (40, 40))).astype(np.float32)
    n = 3000
    counts = np.array([poisson(expected, rng) for _ in range(n)])
    assert (counts.sum() - n * expected.sum()) / math.sqrt(n * expected.sum()) == pytest.approx(0, abs=4)
    # Index of dispersion: (n − 1) s² / mean follows χ² with n − 1 degrees of freedom in each pixel.
    dispersion = counts.var(axis=0, ddof=1) / counts.mean(axis=0)
    assert dispersion.mean() == pytest.approx(1, abs=4 * math.sqrt(2 / n / expected.size * (1 + 0.5 / mean)))
    z = (counts.mean(axis=0) - expected) / np.sqrt(expected / n)
    assert (z**2).mean() == pytest.approx(1, abs=4 * math.sqrt(2 / z.size))


def test_dose_sets_the_counts() -> None:
    scan = plan(positions=np.tile(PROBES[0], (200, 1)))
    exposure = Exposure(scan, VACUUM, Column.ideal())
    counts = sum(int(exposure.counts(block).sum()) for block in exposure.blocks)
    assert (counts - scan.electrons) / math.sqrt(scan.electrons) == pytest.approx(0, abs=4)


def test_point_spread_bad_pixels_and_saturation() -> None:
    column = Column.ideal(point_spread=0.8, dead_pixels=3, hot_pixels=2, hot_rate=1e4, saturation=50)
    detector = PixelDetector(column, seed=0)
    spot = np.zeros((128, 128), np.float32)
    spot[70, 50] = 1
    blurred = PixelDetector(Column.ideal(point_spread=0.8), 0).expected(spot, 1.0, 0.0)
    rows, columns = np.mgrid[:128, :128]
    assert blurred.sum() == pytest.approx(1, abs=1e-5)
    assert (blurred * (rows - 70) ** 2).sum() == pytest.approx(0.64, rel=0.05)
    assert (blurred * (columns - 50) ** 2).sum() == pytest.approx(0.64, rel=0.05)

    expected = detector.expected(np.full((128, 128), 1.0, np.float32), 40.0, dwell=0.002)
    counts = detector.count(expected, np.random.default_rng(0))
    assert all(counts[pixel] == 0 for pixel in detector.dead_pixels)
    assert all(expected[pixel] == pytest.approx(60, rel=1e-3) for pixel in detector.hot_pixels)
    assert counts.max() == 50
    assert counts.dtype == np.uint16
