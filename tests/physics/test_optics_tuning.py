"""The optics found by likelihood against the optics that patterns were computed with."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from agent.errors import BadInputError
from agent.reconstruction import DiffractionData, ReconstructionSettings, reconstruct
from agent.reconstruction.calibration import parameters
from agent.reconstruction.calibration.finding import Tuned, find
from agent.reconstruction.model import coherence, probe
from instrument import optics

sys.path.insert(0, str(Path(__file__).parent))
import phantom
from test_reconstruction_engine import experiment

ROTATION, CENTRE = 0.3, (32.4, 31.7)
TRUTH = {
    "C12": 18.0, "phi12": 0.6, "C21": 500.0, "phi21": 0.3, "C23": 400.0, "phi23": -0.4,
    "C30": 30000.0, "C32": 9000.0, "phi32": 0.2, "C34": 8000.0, "phi34": 0.1,
}  # fmt: skip
EVERYTHING = tuple(group for group in parameters.GROUPS if group not in ("source", "ellipse", "focal_spread", "drift"))
TOLERANCE = {"defocus": 2.0, "C12a": 3.0, "C12b": 3.0, "rotation": 0.006, "row": 0.02, "column": 0.02}
"""What is asked for where everything else is known."""


def errors(found: Tuned, truth: DiffractionData) -> dict[str, tuple[float, float]]:
    """Parameter -> (error, standard deviation)."""
    result = {}
    for name, sd in found.uncertainty.items():
        error = parameters.value(found.data, name) - parameters.value(truth, name)
        if name == "rotation":
            turn = np.asarray(found.data.detector_to_scan) @ np.asarray(truth.detector_to_scan).T
            error = float(np.arctan2(turn[1, 0], turn[0, 0]))
        result[name] = (error, sd)
    return result


def within(found: Tuned, truth: DiffractionData, sds: float = 3.0) -> None:
    for name, (error, sd) in errors(found, truth).items():
        assert abs(error) < sds * sd + 0.02 * parameters.unit(truth, name), (name, error, sd)


@pytest.mark.parametrize("group", EVERYTHING)
def test_each_is_found_where_the_others_are_known(group: str) -> None:
    data = experiment(dose=3e3, field=21.0, aberrations=TRUTH, rotation=ROTATION, centre=CENTRE)
    wrong = replace(data, **{
        "defocus": {"defocus": data.defocus + 12.0},
        "rotation": {"detector_to_scan": optics.detector_to_scan(ROTATION - np.radians(1.5))},
        "centre": {"centre": (32.0, 32.0)},
    }.get(group, {"aberrations": {k: v for k, v in TRUTH.items() if k[-2:] != group[-2:]}}))  # fmt: skip
    found = find(wrong, parameters.widths(wrong, (group,)))
    assert found.improved
    within(found, data)
    for name, (error, sd) in errors(found, data).items():
        assert abs(error) < TOLERANCE.get(name, np.inf)
        assert 0 < sd < 0.3 * parameters.widths(wrong, (group,))[name]


def all_wrong(data: DiffractionData) -> DiffractionData:
    """Defocus 6 % off, rotation 1.5°, centre (0.4, −0.3) pixels, no aberration known."""
    turned = optics.detector_to_scan(ROTATION - np.radians(1.5))
    return replace(data, defocus=data.defocus + 12.0, aberrations={}, detector_to_scan=turned, centre=None)


@pytest.mark.parametrize("dose", [1e3, pytest.param(1e4, marks=pytest.mark.long)])
def test_all_together(dose: float) -> None:
    data = experiment(dose=dose, field=27.0, aberrations=TRUTH, rotation=ROTATION, centre=CENTRE)
    wrong = all_wrong(data)
    found = find(wrong, parameters.widths(wrong, EVERYTHING))
    within(found, data)
    scores = np.array([error / sd for error, sd in errors(found, data).values()])
    assert 0.3 < np.sqrt((scores**2).mean()) < 2.0
    again = experiment(dose=dose, field=27.0, aberrations=TRUTH, rotation=ROTATION, centre=CENTRE, seed=8)
    learned = replace(found.data, patterns=again.patterns)
    warm = find(learned, found.uncertainty)
    assert warm.evaluations < 0.6 * found.evaluations
    within(warm, again)


@pytest.mark.parametrize("dose", [3e3, 1e5])
def test_a_perfect_crystal_tells_defocus_and_astigmatism(dose: float) -> None:
    """4 % of defocus and 20 Å of C12, as well as random atoms tell them: wherever two discs overlap, the phase between the
    reflections depends on the place in the overlap through the aberrations alone. Centre and rotation are no worse known: the
    disc's rim and the reflections tell them. From 180 Å away the search ends in another minimum, as it does with random atoms.
    """
    c12 = {"C12": 20.0, "phi12": 0.6}

    def astigmatic(wave: NDArray[np.complex64]) -> NDArray[np.complex64]:
        ky, kx = probe.frequencies((phantom.N, phantom.N), phantom.ANGULAR_PIXEL, phantom.VOLTAGE)
        return (wave * np.exp(-1j * optics.aberration_phase(ky, kx, phantom.VOLTAGE, c12)))[None].astype(np.complex64)

    data = phantom.experiment(dose=dose, layers=(phantom.CRYSTAL,), modes=astigmatic)
    truth = replace(data, aberrations=c12, detector_to_scan=np.eye(2))
    wrong = replace(data, defocus=1.04 * data.defocus)
    found = find(wrong, parameters.widths(wrong, ("defocus", "C12")))
    assert found.improved
    for name, (error, sd) in errors(found, truth).items():
        assert abs(error) < 3 * sd, name
        # what is said at least: 0.1 natural units, and of the defocus what a spherical aberration would hide that nobody has told
        assert sd < (10.0 if name == "defocus" else 3.0), name


def test_at_very_low_dose_nothing_runs_away() -> None:
    data = experiment(dose=30.0, field=18.0, aberrations=TRUTH, rotation=ROTATION, centre=CENTRE)
    wrong = all_wrong(data)
    known = parameters.widths(wrong, EVERYTHING)
    found = find(wrong, known)
    for name, (error, sd) in errors(found, data).items():
        assert abs(error) < 3 * known[name], name
        assert sd <= 1.001 * known[name], name
    assert found.uncertainty["C30"] > 0.3 * known["C30"]


def test_an_empty_specimen_tells_nothing_of_the_defocus() -> None:
    data = experiment(dose=1e3, field=18.0)
    wave = probe.aperture_wave((64, 64), data.angular_pixel, data.voltage, data.semiangle, {})
    mean = np.fft.fftshift(np.abs(wave) ** 2) * data.patterns[0].sum()
    empty = np.random.default_rng(3).poisson(mean, data.patterns.shape).astype(np.uint16)
    blank = replace(data, patterns=empty)
    known = parameters.widths(blank, ("defocus", "C12"))
    found = find(blank, known)
    assert abs(found.data.defocus - blank.defocus) < known["defocus"]
    assert found.uncertainty["defocus"] > 0.3 * known["defocus"]


def test_reconstruct_measures_what_it_is_asked_to() -> None:
    data = experiment(dose=3e3, aberrations={"C12": 18.0, "phi12": 0.6})
    wrong = replace(data, defocus=data.defocus + 12.0, aberrations={})
    settings = ReconstructionSettings(refine_optics=("defocus", "C12"), max_passes=4, device="cpu")
    result = reconstruct(wrong, settings)
    assert result.defocus == pytest.approx(200.0, abs=2.0)
    assert result.aberrations["C12"] == pytest.approx(18.0, abs=3.0)
    assert set(result.optics_sd) == {"defocus", "C12a", "C12b"}
    warm = reconstruct(replace(wrong, defocus=data.defocus + 5.0), settings, warm_start=result)
    assert warm.defocus == pytest.approx(200.0, abs=2.0)
    with pytest.raises(BadInputError, match="C99"):
        reconstruct(wrong, replace(settings, refine_optics=("C99",)))


def test_source_and_focal_spread_are_found_within_what_is_said() -> None:
    def blurred(wave: NDArray[np.complex64]) -> NDArray[np.complex64]:
        spread = coherence.Spread(0.6, 30.0)
        return coherence.factors(wave, spread, phantom.ANGULAR_PIXEL, phantom.VOLTAGE, count=16) * wave

    data = phantom.experiment(dose=3e3, modes=blurred)
    wrong = replace(data, source_size=0.9, focal_spread=40.0)
    settings = ReconstructionSettings(refine_optics=("source", "focal_spread"), max_passes=4, device="cpu")
    result = reconstruct(wrong, settings)
    sd = result.optics_sd
    assert abs(result.source_size - 0.6) < 3 * sd["source_size"]
    assert abs(result.focal_spread - 30.0) < 3 * sd["focal_spread"]
    assert sd["source_size"] < 0.15
    assert sd["focal_spread"] < 3
    with pytest.raises(BadInputError, match="halves of whole counts"):
        reconstruct(replace(wrong, patterns=data.patterns.astype(np.float32)), settings)
