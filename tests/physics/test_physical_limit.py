"""How near the engine comes to what counting electrons allows, and whether its phase is quantitative."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import phantom
import pytest
from numpy.typing import NDArray

from agent.reconstruction import DiffractionData, ReconstructionSettings, reconstruct
from agent.reconstruction.model import forward, geometry, probe, start

VOLTAGE, SEMIANGLE, N, ANGULAR_PIXEL = phantom.VOLTAGE, phantom.SEMIANGLE, phantom.N, phantom.ANGULAR_PIXEL
STEP, FIELD, DEFOCUS = 1.5, 30.0, 200.0
WRONG = 1.03
"""The engine is told a defocus that is 3 % wrong, as on a microscope."""
BANDS = ((0.25, 0.5), (0.5, 0.75), (0.75, 1.0))


@cache
def thin() -> tuple[DiffractionData, NDArray[np.float64], NDArray[np.float64]]:
    """(experiment without counts, true phase on its grid, expected electrons per e/Å²) of random atoms in one slice."""
    return phantom.thin_object((N, N), ANGULAR_PIXEL, step=STEP, field=FIELD, defocus=DEFOCUS, rim=15, count=1400)


@cache
def picture(
    dose: float, seed: int, settings: ReconstructionSettings
) -> tuple[NDArray[np.complex128], NDArray[np.complex128], NDArray[np.float64], float]:
    """(spectrum of the phase, of the aligned truth, frequency, density of |spectrum|² in rad²Å²) of the middle 20 Å."""
    data, phase, expected = thin()
    counts = np.random.default_rng([seed, int(dose)]).poisson(expected * dose).astype(np.uint32)
    result = reconstruct(replace(data, patterns=counts, defocus=WRONG * DEFOCUS), replace(settings, seed=seed))
    geo = geometry.locate(data)
    n = int(20 / geo.pixel_size[0])
    first = [int((FIELD / 2 - 10 - geo.origin[i]) / geo.pixel_size[i]) for i in (0, 1)]
    square = np.s_[first[0] : first[0] + n, first[1] : first[1] + n]
    window = np.outer(np.hanning(n), np.hanning(n))
    k = np.fft.fftfreq(n, geo.pixel_size[0])
    got, truth = (
        np.fft.fft2((image[square] - (image[square] * window).sum() / window.sum()) * window)
        for image in (result.phase, phase)
    )
    for _ in range(3):  # probe and object may lie elsewhere together: nobody can tell
        slopes = [-2j * np.pi * axis * truth for axis in (k[:, None] + 0 * k, k[None, :] + 0 * k[:, None])]
        matrix = [[np.vdot(a, b).real for b in slopes] for a in slopes]
        shift = np.linalg.solve(matrix, [np.vdot(a, got - truth).real for a in slopes])
        truth = truth * np.exp(-2j * np.pi * (k[:, None] * shift[0] + k[None, :] * shift[1]))
    density = geo.pixel_size[0] ** 2 / (window**2).sum()
    return got, truth, np.hypot(k[:, None], k[None, :]), float(density)


@pytest.mark.parametrize(("dose", "seeds"), [(1e2, 8), (1e3, 3), (1e4, 3), (1e6, 1)])
def test_the_phase_is_quantitative_at_every_dose(dose: float, seeds: int) -> None:
    scales = []
    for seed in range(seeds):  # each with a standard deviation of 0.05, 0.012, 0.006 and 0.001
        got, truth, k, _ = picture(dose, seed, ReconstructionSettings(device="cpu"))
        band = (k >= 0.25) & (k <= 1.0)
        scales.append((got * truth.conj())[band].real.sum() / (np.abs(truth[band]) ** 2).sum())
    # 0.8 at 1e2 e/Å² and 0.95 at 1e3 without `quantitative`
    assert np.mean(scales) == pytest.approx(1.0, abs=0.03)


@pytest.mark.parametrize("dose", [1e3, 1e4])
def test_the_error_is_near_the_physical_limit(dose: float) -> None:
    found = []
    for seed in range(3):
        got, truth, k, density = picture(dose, seed, ReconstructionSettings(device="cpu"))
        power = np.abs(got - truth) ** 2 * density * 2 * dose
        found.append([power[(k >= low) & (k < high)].mean() for low, high in BANDS])
    assert np.max(np.mean(found, axis=0)) < 1.3


@pytest.mark.parametrize(("dose", "most"), [(3e2, 4e-3), (1e5, 4e-5)])
def test_a_probe_takes_up_no_noise_where_no_light_falls(dose: float, most: float) -> None:
    """Error power of a probe that was right at the start; with changes anywhere it is 6e-3 at 3e2 e/Å², and as here at 1e5."""
    data, _, expected = thin()
    wave = probe.aperture_wave((N, N), ANGULAR_PIXEL, VOLTAGE, SEMIANGLE, {"C10": -DEFOCUS})
    truth = probe.to_real_space(wave[None])[0]
    truth /= np.linalg.norm(truth)
    errors = []
    for seed in range(3):
        counts = np.random.default_rng([seed, int(dose)]).poisson(expected * dose).astype(np.uint32)
        settings = ReconstructionSettings(device="cpu", seed=seed, max_passes=20, stop_early=False, quantitative=False)
        found = reconstruct(replace(data, patterns=counts), settings).probe[0]
        overlap = np.vdot(found, truth) / np.linalg.norm(found)
        errors.append(2 - 2 * abs(overlap))
    assert np.mean(errors) < most


@pytest.mark.parametrize(
    ("dose", "tolerance"), [(1e2, 0.08), (1e3, 0.02), pytest.param(1e4, 0.02, marks=pytest.mark.long)]
)
def test_regularisation_never_makes_it_worse(dose: float, tolerance: float) -> None:
    errors, scales = [], []
    for regularise in (False, True):
        for seed in range(3):
            got, truth, k, _ = picture(dose, seed, ReconstructionSettings(device="cpu", regularise=regularise))
            errors.append(float((np.abs(got - truth) ** 2).sum()))
            band = (k >= 0.25) & (k <= 1.0)
            scales.append((got * truth.conj())[band].real.sum() / (np.abs(truth[band]) ** 2).sum())
    # 0.6 at 1e2 e/Å², 0.5 at 1e3, 0.65 at 1e4
    assert max(np.divide(errors[3:], errors[:3])) < 0.9
    assert np.mean(scales[3:]) == pytest.approx(1.0, abs=tolerance)  # at 1e2 e/Å², noise alone moves a seed's by 0.05


@pytest.mark.parametrize("dose", [3e2, pytest.param(3e3, marks=pytest.mark.long)])
def test_held_out_counts_stop_near_the_best(dose: float) -> None:
    def error(settings: ReconstructionSettings, seed: int) -> float:
        got, truth, k, _ = picture(dose, seed, replace(settings, device="cpu", quantitative=False))
        band = (k >= 0.25) & (k <= 1.0)
        return float(np.sqrt((np.abs(got - truth)[band] ** 2).sum()))

    # the best number of passes is chosen knowing the truth, and every seed has its own luck: the mean is what is promised
    ratios = [
        error(ReconstructionSettings(), seed)
        / min(error(ReconstructionSettings(max_passes=n, stop_early=False), seed) for n in (8, 12, 18, 28))
        for seed in range(3)
    ]
    assert np.mean(ratios) < 1.02


@pytest.mark.parametrize("amplitude", [0.05, 0.0])
def test_slices_that_absorb_are_found_without_more_noise(amplitude: float) -> None:
    scales, errors = [], []
    for seed in (1,):
        data = phantom.experiment(dose=1e5, layers=(5, 6), spacing=6.0, amplitude=amplitude, seed=seed)
        settings = ReconstructionSettings(slices=2, slice_spacing=6.0, padding=1.0, device="cpu", max_passes=30)
        results = [reconstruct(data, replace(settings, object_type=kind)) for kind in (None, "phase", "complex")]
        pictures = [phantom.inner(result, (5, 6)) for result in results]
        scales.append(phantom.phase_scale(*pictures[0])[0])
        errors.append([float(np.std(picture - truth)) for picture, truth, _ in pictures])
        first, lit = results[0].object[0], results[0].illuminated > 0.3
        absorption = -np.polyfit(np.angle(first[lit]), np.log(np.abs(first[lit])), 1)[0]
        assert absorption == pytest.approx(amplitude, abs=0.005)
    # with slices that only shift the phase 0.990
    assert np.mean(scales) == pytest.approx(1.0, abs=0.005)
    ours, phase_only, complex_slices = np.mean(errors, axis=0)
    assert (
        ours < 1.1 * complex_slices
    )  # 0.98 with absorption, 1.07 without (0.94, 1.09 in 80 passes): what slices differ by has a prior in either case
    assert ours < (0.9 if amplitude else 1.02) * phase_only


def test_a_slice_that_stands_for_a_slab_loses_no_high_frequencies() -> None:
    atoms = (5, 6, 7, 8, 9, 10)  # 2 Å apart: three in each slab of 6 Å
    data = phantom.experiment(dose=1e6, layers=atoms, spacing=2.0)
    settings = ReconstructionSettings(slices=2, slice_spacing=6.0, padding=1.0, device="cpu", max_passes=40)
    thin, thick = (reconstruct(data, replace(settings, quantitative=known)) for known in (False, True))
    scales = [phantom.phase_scale(*phantom.inner(result, atoms), between=(0.75, 1.0))[0] for result in (thin, thick)]
    assert scales[0] < 0.995
    assert abs(scales[1] - 1) < 0.5 * abs(scales[0] - 1)


def sharp_atoms(y: NDArray[np.float64], x: NDArray[np.float64], layer: int) -> NDArray[np.float64]:
    """Phase (y, x) in rad at coordinates in Å of atoms that scatter beyond the detector."""
    places = np.random.default_rng(layer).uniform(-12, 32, (260, 2))
    rows, columns = (np.exp(-((a[:, None] - places[:, i]) ** 2) / 0.06) for i, a in ((0, y), (1, x)))
    return np.asarray(1.2 * rows @ columns.T)


@pytest.mark.parametrize("gap", [pytest.param(6.0, marks=pytest.mark.long), 1.25], ids=["thick slices", "thin slices"])
def test_what_is_scattered_beyond_the_detector_does_not_weaken_the_phase(gap: float) -> None:
    axis, n = (np.arange(int(20 / STEP)) + 0.5) * STEP, 2 * N
    positions = np.stack(np.meshgrid(axis, axis, indexing="ij"), axis=-1).reshape(-1, 2)
    settings = ReconstructionSettings(slices=2, slice_spacing=(gap,), device="cpu", max_passes=80, quantitative=False)
    # a detector of twice as many pixels, of which those in the middle are kept
    wide = DiffractionData(
        np.zeros((len(positions), n, n), np.uint8), positions, VOLTAGE, SEMIANGLE, ANGULAR_PIXEL, 100.0
    )
    geo = geometry.locate(wide)
    y, x = (geo.origin[i] + geo.pixel_size[i] * np.arange(geo.object_shape[i]) for i in (0, 1))
    obj = np.exp(1j * np.stack([sharp_atoms(y, x, layer) for layer in (0, 1)]))
    wave = probe.aperture_wave((n, n), ANGULAR_PIXEL, VOLTAGE, SEMIANGLE, {"C10": -100.0})
    problem, unknowns = forward.known(obj, wave[None], geo.corners, geo.subpixel_shifts)
    problem.propagators = start.propagators(wide, settings, geo, (n, n))
    model = np.fft.fftshift(forward.expected_counts(problem, unknowns, np.arange(len(positions)), np), axes=(1, 2))
    middle = slice((n - N) // 2, (n + N) // 2)
    data = replace(wide, patterns=model[:, middle, middle] * 1e5 * STEP**2)
    errors, scales = [], []
    # so many counts extend the detector by themselves, and let thin slices absorb
    for padding, kind in ((1.0, None), (None, "phase"), (None, None)):
        result = reconstruct(data, replace(settings, padding=padding, object_type=kind))
        pixel, size = result.pixel_size[0], round(14 / result.pixel_size[0])
        first = [round((3 - o) / pixel) for o in result.origin]
        picture = result.phase[first[0] : first[0] + size, first[1] : first[1] + size]
        y, x = (o + pixel * (f + np.arange(4 * size) / 4) for o, f in zip(result.origin, first, strict=True))
        spectra = []
        for image in (picture, sharp_atoms(y, x, 0) + sharp_atoms(y, x, 1)):
            window = np.outer(*[np.hanning(len(image) + 1)[:-1]] * 2)
            spectrum = np.fft.fft2((image - (image * window).sum() / window.sum()) * window) / window.sum()
            low = np.r_[0:14, -13:0]  # up to 1 1/Å
            spectra.append(spectrum[np.ix_(low, low)])
        got, truth = spectra
        scales.append(float((got * truth.conj()).real.sum() / (abs(truth) ** 2).sum()))
        errors.append(float(np.linalg.norm(got - truth) / np.linalg.norm(truth)))
    assert errors[2] < 0.5 * errors[0]  # 0.036 and 0.014 of thick slices, 0.061 and 0.019 of thin ones
    # of thin ones 0.989: atoms of up to 2.2 rad that the counts leave between two slices, where each lies in one
    assert scales[2] == pytest.approx(1.0, abs=0.012)
    if gap < 2:  # 0.982 of slices that shift the phase only, which are free beyond the detector's edge
        assert 1 - scales[2] < 0.7 * (1 - scales[1])
        assert errors[2] < 0.9 * errors[1]  # 0.019, 0.023
