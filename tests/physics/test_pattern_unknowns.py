"""What each pattern has of its own, against known answers: positions, intensities, variations of the probe."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import phantom
import pytest
from numpy.typing import NDArray

from agent.errors import BadInputError
from agent.reconstruction import DiffractionData, ReconstructionSettings, Reconstructor, reconstruct
from agent.reconstruction.model import forward
from agent.reconstruction.solver import per_pattern
from agent.reconstruction.solver import positions as displacement
from agent.reconstruction.solver.result import Reconstruction
from instrument import optics

NOMINAL = phantom.raster()
LINE = 16
SETTINGS = ReconstructionSettings(max_passes=40, stop_early=False, background=False, quantitative=False, device="cpu")


def centred(positions: NDArray[np.float64]) -> NDArray[np.float64]:
    """The object may lie anywhere."""
    return positions - positions.mean(axis=0)


def rms(found: NDArray[np.float64], truth: NDArray[np.float64]) -> float:
    """Å, of the distance between two sets of positions but for a common shift."""
    return float(np.sqrt(((centred(found) - centred(truth)) ** 2).sum(axis=1).mean()))


def distorted(scale: float = 1.02, degrees: float = 1.0, shear: float = 0.01) -> NDArray[np.float64]:
    """The matrix of a scan with these errors."""
    angle = np.deg2rad(degrees)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return np.asarray(turn @ np.array([[scale, shear], [0.0, scale]]))


def drifting(seed: int = 3) -> NDArray[np.float64]:
    """Positions whose lines walk at random, 0.15 Å from line to line."""
    walk = np.cumsum(np.random.default_rng(seed).normal(size=(LINE, 2)) * 0.15 / np.sqrt(2), axis=0)
    return NOMINAL + np.repeat(walk, LINE, axis=0)


def jittered(seed: int = 3) -> NDArray[np.float64]:
    """Positions each off by 0.3 Å rms."""
    return NOMINAL + np.random.default_rng(seed).normal(size=NOMINAL.shape) * 0.3 / np.sqrt(2)


def test_scale_rotation_and_shear_of_the_scan_are_found() -> None:
    truth = centred(NOMINAL) @ distorted().T
    data = phantom.experiment(dose=1e5, true_positions=truth + NOMINAL.mean(axis=0))
    result = reconstruct(data, replace(SETTINGS, refine_positions="linear"))
    found = np.linalg.lstsq(centred(NOMINAL), centred(result.positions), rcond=None)[0].T
    # Counting noise alone leaves 0.0008 here: the field has 24 Å, and scale and defocus are much alike.
    assert np.abs(found - distorted()).max() < 2e-3
    angle, wanted = (np.arctan2(m[1, 0] - m[0, 1], m[0, 0] + m[1, 1]) for m in (found, distorted()))
    assert np.rad2deg(abs(angle - wanted)) < 0.1
    assert np.sqrt(np.linalg.det(found)) == pytest.approx(np.sqrt(np.linalg.det(distorted())), abs=1e-3)
    assert rms(result.positions, truth) < 0.015  # 0.24 Å before
    assert np.allclose(result.positions.mean(axis=0), NOMINAL.mean(axis=0), atol=1e-4)


def test_positions_stay_in_the_model() -> None:
    data = phantom.experiment(dose=1e4, true_positions=jittered())
    few = replace(SETTINGS, max_passes=12)
    linear = reconstruct(data, replace(few, refine_positions="linear")).positions
    matrix = np.linalg.lstsq(centred(NOMINAL), centred(linear), rcond=None)[0]
    assert np.allclose(centred(NOMINAL) @ matrix, centred(linear), atol=1e-4)
    lines = reconstruct(data, replace(few, refine_positions="lines")).positions
    within = (lines - NOMINAL).reshape(LINE, LINE, 2)
    slope = np.diff(within, axis=1)
    assert np.ptp(slope, axis=(0, 1)).max() < 1e-4  # in every line the same stretch


def test_drift_from_line_to_line_is_found() -> None:
    truth = drifting()
    data = phantom.experiment(dose=1e5, true_positions=truth)
    result = reconstruct(data, replace(SETTINGS, max_passes=20, refine_positions="lines"))
    assert rms(NOMINAL, truth) > 0.15
    assert rms(result.positions, truth) < 0.02
    noisy = reconstruct(phantom.experiment(dose=1e4, true_positions=truth), replace(SETTINGS, refine_positions="lines"))
    assert rms(noisy.positions, truth) < 0.05


@pytest.mark.parametrize(("rotation", "mirrored"), [(0.0, False), (0.4, True)])
def test_positions_are_found_one_by_one(rotation: float, mirrored: bool) -> None:
    truth = jittered()
    matrix = optics.detector_to_scan(rotation, mirrored)
    # the same experiment on a detector that is turned: positions in its frame are those of the phantom
    data = phantom.experiment(dose=1e5, true_positions=truth)
    turned = replace(data, positions=data.positions @ matrix.T, detector_to_scan=matrix)
    result = reconstruct(turned, replace(SETTINGS, max_passes=20, refine_positions="free"))
    assert rms(result.positions, truth @ matrix.T) < 0.04  # 0.29 Å before


def test_the_phase_is_no_longer_too_weak_where_positions_are_found() -> None:
    data = phantom.experiment(dose=1e5, true_positions=jittered())
    better, worse = (
        phantom.phase_scale(*phantom.inner(r))
        for r in (
            reconstruct(data, replace(SETTINGS, max_passes=20, refine_positions="free")),
            reconstruct(data, replace(SETTINGS, max_passes=20)),
        )
    )
    assert better[0] == pytest.approx(1.0, abs=0.02)  # without: 0.95
    assert better[0] > worse[0] + 0.03


def test_positions_that_are_right_stay() -> None:
    data = phantom.experiment(dose=1e4)
    for kind, limit in (("linear", 0.04), ("lines", 0.04), ("free", 0.08)):  # counting noise
        result = reconstruct(data, replace(SETTINGS, max_passes=20, refine_positions=kind))
        assert rms(result.positions, NOMINAL) < limit


def test_no_position_leaves_the_object() -> None:
    worker = Reconstructor(
        phantom.experiment(step=3.0, positions=phantom.raster(3.0)), replace(SETTINGS, refine_positions="free")
    )
    worker.run()
    everything = np.arange(len(worker.experiment.counts.totals))
    sums = worker.experiment.backend.accumulate(
        worker.experiment.problem(), worker.state.unknowns, everything, forward.Wanted()
    )
    sums.slopes[:, :2] = 1e6 * centred(worker.experiment.data.positions)  # all of them outwards, without end
    for _ in range(30):
        per_pattern.update(worker.experiment, worker.state, worker.experiment.problem(), sums, 0.0)
    found, room = worker.state.unknowns, np.asarray(worker.state.unknowns.object.shape[1:]) - phantom.N
    assert (found.corners >= 0).all()
    assert (found.corners < room).all()  # the sub-pixel shift reaches into the next pixel
    assert (found.corners == 0).any()
    assert ((found.subpixel_shifts >= 0) & (found.subpixel_shifts <= 1)).all()
    worker.experiment.backend.accumulate(worker.experiment.problem(), found, everything, forward.Wanted())


def test_drifts_of_lines_need_lines() -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(BadInputError, match="no raster"):
        displacement.scan_lines(rng.uniform(0, 20, (200, 2)))
    turned = NOMINAL[:, ::-1]  # the fast axis is y
    assert np.array_equal(displacement.scan_lines(turned), np.repeat(np.arange(LINE), LINE))
    snake = NOMINAL.reshape(LINE, LINE, 2).copy()
    snake[1::2] = snake[1::2, ::-1]
    assert np.array_equal(displacement.scan_lines(snake.reshape(-1, 2)), np.repeat(np.arange(LINE), LINE))


def finished(data: DiffractionData, **changes: object) -> Reconstructor:
    worker = Reconstructor(data, replace(SETTINGS, **changes))
    worker.run()
    return worker


@pytest.mark.parametrize("dose", [1e2, 1e3, 1e4])
def test_intensities_are_found_and_noise_is_not(dose: float) -> None:
    rng = np.random.default_rng(0)
    truth = np.clip(1 + 0.1 * rng.normal(size=len(NOMINAL)), 0.5, 1.5)
    truth /= truth.mean()
    worker = finished(phantom.experiment(dose=dose, intensity=truth), max_passes=12, refine_intensity=True)
    found = worker.state.unknowns.weights[:, 0].astype(float) ** 2
    noise = 1 / np.sqrt(dose * 1.5**2)
    best = 0.1 * noise / np.hypot(0.1, noise)  # of an estimate that knows spread and noise
    assert (
        np.std(found - truth) < 1.15 * best + 0.01
    )  # what absorbs is partly put into the object: 0.01 where noise is less
    assert found.mean() == pytest.approx(1.0, abs=1e-3)
    even = finished(phantom.experiment(dose=dose), max_passes=12, refine_intensity=True)
    assert np.std(even.state.unknowns.weights[:, 0] ** 2) < 0.3 * noise


@pytest.mark.parametrize(
    ("change", "correlation", "part"),
    [("defocus", 0.95, 0.85), ("tilt", 0.99, 0.75)],  # one variation is linear in the tilt, the disc's edge is not,
)
def test_a_probe_that_varies_is_followed(change: str, correlation: float, part: float) -> None:
    # a tilt is made random: where it drifts, a parabola in the object's phase does the same
    drift = np.linspace(-1, 1, len(NOMINAL))
    drift = drift if change == "defocus" else np.random.default_rng(4).permutation(drift)
    window = np.fft.fftfreq(phantom.N)[:, None]

    def probes(j: int, wave: NDArray[np.complex64]) -> NDArray[np.complex64]:
        if change == "defocus":
            return phantom.defocused(wave, 15 * drift[j])
        tilt = np.exp(1j * np.pi * 0.5 * drift[j] * window)  # 0.25 pixels at either end
        return np.asarray(np.fft.fft2(np.fft.ifft2(wave) * tilt), np.complex64)

    data = phantom.experiment(dose=1e5, probes=probes)
    # a slow drift of the defocus is nearly what a specimen of varying height would show, hence 60 passes
    settings = {"max_passes": 60 if change == "defocus" else 20}
    followed = finished(data, variable_modes=1, **settings)
    weights = followed.state.unknowns.weights[:, 1]
    assert abs(np.corrcoef(weights, drift)[0, 1]) > correlation
    ignored, steady = finished(data, **settings), finished(phantom.experiment(dose=1e5), **settings)
    without, followed_by, best = (job.result().deviance[-1] for job in (ignored, followed, steady))
    gained = (without - followed_by) / (without - best)
    assert gained > part


def test_variations_are_in_gauge() -> None:
    drift = np.linspace(-1, 1, len(NOMINAL))
    data = phantom.experiment(dose=1e4, probes=lambda j, wave: phantom.defocused(wave, 40 * drift[j]))
    worker = finished(data, max_passes=12, variable_modes=2)
    apertures = worker.state.unknowns.apertures.reshape(3, -1).astype(complex)
    overlap = apertures @ apertures.conj().T
    size = np.sqrt(np.diag(overlap).real)
    assert np.abs(overlap / size / size[:, None] - np.eye(3)).max() < 1e-3
    weights = worker.state.unknowns.weights[:, 1:].astype(float)
    assert np.abs(weights.mean(axis=0)).max() < 1e-4
    assert np.allclose((weights**2).mean(axis=0), 1, atol=1e-3)


@pytest.mark.parametrize("change", [{"refine_positions": "free"}, {"refine_intensity": True}, {"variable_modes": 1}])
def test_a_quantitative_result_needs_no_more_than_it_found(change: dict[str, object]) -> None:
    """The phase scale is found from fewer patterns than there are; positions and intensities then are known."""
    data = phantom.experiment(positions=phantom.raster(1.2), step=1.2)
    result: Reconstruction = reconstruct(data, replace(SETTINGS, max_passes=10, quantitative=True, **change))
    assert phantom.phase_scale(*phantom.inner(result))[0] == pytest.approx(1.0, abs=0.04)
