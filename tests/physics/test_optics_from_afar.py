"""Optics of imperfect columns found from set-points that are far off, against what the simulator knows."""

from __future__ import annotations

import examples
import numpy as np
import pytest
from numpy.typing import NDArray

from agent.processing.column import PARAMETERS, first_widths
from agent.reconstruction import DiffractionData, find, fit_disc, with_usual_coherence
from instrument import optics
from instrument.models import AcquisitionPlan
from sim_instrument import Column, build_specimen, simulate
from sim_instrument.specimen import SpecimenOptions
from sim_instrument.truth import true_defocus

NOMINAL = 90.0
COLUMN = Column(
    voltage=120e3,
    semiangle=23.0,
    angular_pixel=2.6,
    detector_pixels=48,
    energy_spread=0.7,
    source_size=0.5,
    defocus_offset=-48.0,
    defocus_scale=1.0,
    rotation=0.6,
    rotation_error=0.014,
    dead_pixels=0,
    hot_pixels=0,
)
SPECIMEN = build_specimen(SpecimenOptions(material="mose2-ws2", seed=3))


@pytest.fixture(scope="module")
def counts() -> NDArray[np.uint16]:
    """At 1e4 e/Å²."""
    return simulate(scan(), SPECIMEN, COLUMN).reshape(-1, 48, 48)


def scan() -> AcquisitionPlan:
    return examples.plan("afar", 15.0, 60, 60, step=0.9, defocus=NOMINAL, dose=1e4)


def as_advertised(patterns: NDArray[np.uint16]) -> DiffractionData:
    """With set-point and rotation as the instrument says."""
    data = DiffractionData(
        patterns, scan().scan_positions(), COLUMN.voltage, COLUMN.semiangle, COLUMN.angular_pixel, NOMINAL,
        centre=fit_disc(patterns.mean(axis=0), None).centre if patterns.max() > 1 else (24.0, 24.0),
        detector_to_scan=optics.detector_to_scan(COLUMN.nominal_rotation, COLUMN.mirrored),
    )  # fmt: skip
    return with_usual_coherence(data)


@pytest.mark.parametrize("dose", [1e4, 8e2])
def test_a_defocus_that_the_lens_missed_by_half_is_found(counts: NDArray[np.uint16], dose: float) -> None:
    patterns = np.random.default_rng(1).binomial(counts, dose / 1e4).astype(np.uint16)
    data = as_advertised(patterns)
    widths = first_widths(data, {}, centre_known=False)
    if dose < 1e4:  # sooner done
        widths = {name: widths[name] for name in ("defocus", "source_variance", "focus_variance")}
    found = find(data, widths, n_positions=196)
    truth = true_defocus(COLUMN, SPECIMEN, NOMINAL)
    sd = found.uncertainty["defocus"]
    assert found.improved
    assert abs(data.defocus - truth) > 40, "the start is far"
    assert abs(found.data.defocus - truth) < 3 * sd < 40
    if dose == 1e4:
        rotation, _ = optics.rotation_and_hand(np.asarray(found.data.detector_to_scan))
        assert abs(rotation - COLUMN.rotation) < 3 * found.uncertainty["rotation"] < np.radians(2.5)
        assert sd < 10


def test_an_empty_specimen_tells_nothing_and_says_so() -> None:
    vacuum = simulate(scan(), build_specimen(SpecimenOptions(material="vacuum")), COLUMN).reshape(-1, 48, 48)
    data = as_advertised(np.random.default_rng(1).binomial(vacuum, 0.05).astype(np.uint16))
    found = find(data, first_widths(data, {}, centre_known=False), n_positions=100)
    assert not found.improved
    assert found.doubt
    assert found.data.defocus == NOMINAL


def test_what_is_measured_of_a_column_has_a_width_each() -> None:
    data = as_advertised(np.ones((4, 48, 48), np.uint16))
    names = set(first_widths(data, {}, centre_known=True))
    assert {"defocus", "rotation", "source_variance", "focus_variance", "stretch", "shear"} < names
    assert "row" not in names
    assert "centre" in PARAMETERS
