"""What an incoherent beam leaves of the likelihood's curvature, and what steps that know it gain."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import phantom
import pytest
from numpy.typing import NDArray

from agent.reconstruction import DiffractionData, Reconstructor
from agent.reconstruction.model import coherence
from agent.reconstruction.model.coherence import FWHM
from agent.reconstruction.model.settings import ReconstructionSettings
from agent.reconstruction.solver import curvature
from agent.reconstruction.solver.experiment import load
from agent.reconstruction.solver.state import start
from instrument import optics

SOURCE = 1.0


def blurred(wave: NDArray[np.complex64]) -> NDArray[np.complex64]:
    spread = coherence.Spread(SOURCE, 0.0)
    factors = coherence.factors(wave, spread, phantom.ANGULAR_PIXEL, phantom.VOLTAGE, carried=0.9999)
    return np.asarray(factors * wave, np.complex64)


@pytest.fixture(scope="module")
def patterns() -> DiffractionData:
    return replace(phantom.experiment(dose=1e4, defocus=80.0, modes=blurred), source_size=SOURCE)


def test_in_vacuum_the_source_takes_what_its_transfer_function_says() -> None:
    """Overlapping discs interfere by exp(−2π²σ²k²), of which the information has the square."""
    patterns = phantom.experiment(dose=1e2, step=6.0, shape=(192, 192), angular_pixel=0.67, defocus=80.0)
    patterns = replace(patterns, source_size=SOURCE)
    experiment = load(patterns, ReconstructionSettings(coherence=0.9999, background=False, device="cpu"))
    state = start(experiment)
    curvature.look(experiment, state, 0.0)
    pixel = experiment.geometry.pixel_size
    rows, columns = state.unknowns.object.shape[1:]
    k = np.hypot(np.fft.fftfreq(rows, pixel[0])[:, None], np.fft.rfftfreq(columns, pixel[1]))
    radius = optics.spatial_frequency(patterns.semiangle, patterns.voltage)
    ratio = np.clip(k / (2 * radius), 0, 1)
    overlap = 2 / np.pi * (np.arccos(ratio) - ratio * np.sqrt(1 - ratio**2))
    transfer = np.exp(-2 * (np.pi * k * SOURCE / FWHM) ** 2)
    expected = 1 - overlap * (1 - transfer**2)
    within = k < 0.5 * radius
    assert expected[within].min() < 0.75
    assert np.abs(state.seen - expected)[within].max() < 0.1


def test_a_coherent_beam_is_divided_by_its_illumination_alone(patterns: DiffractionData) -> None:
    experiment = load(replace(patterns, source_size=0.0), ReconstructionSettings(device="cpu"))
    state = start(experiment)
    curvature.look(experiment, state, 0.0)
    assert state.seen is None


def test_few_passes_undo_a_source(patterns: DiffractionData) -> None:
    """The error is 0.156 after fifty passes and 0.18 after six; divided by the illumination alone they left 0.21."""
    settings = ReconstructionSettings(max_passes=6, refine_probe=False, quantitative=False, device="cpu")
    run = Reconstructor(patterns, settings)
    run.run()
    found, truth, pixel = phantom.inner(run.result())
    ratio, match = phantom.phase_scale(found, truth, pixel)
    assert np.sqrt(1 - 2 * ratio + (ratio / match) ** 2) < 0.19
