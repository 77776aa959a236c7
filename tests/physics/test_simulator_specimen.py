# SPDX-License-Identifier: GPL-3.0-or-later
"""The simulated specimens are what their names say, and knock-on damage follows the dose."""

from __future__ import annotations

import json
import math
from pathlib import Path

import examples
import h5py
import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from instrument import AcquisitionPlan, ConflictError, Rectangle, optics
from sim_instrument import Column, Specimen, SpecimenOptions, build_specimen, true_phase
from sim_instrument.damage import BARN, DamageState
from sim_instrument.simulation import Exposure
from sim_instrument.specimen import SELENIUM, SULPHUR
from sim_instrument.truth import write_truth

MOLYBDENUM, TUNGSTEN = 42, 74
PERFECT = build_specimen(SpecimenOptions(vacancies=0))


def plan(id: str = "a1", y: float = 180.0, dose: float = 1e5, step: float = 1.0) -> AcquisitionPlan:
    return examples.plan(id, 30, y, 180, step=step, defocus=0, dose=dose)


def metals(specimen: Specimen, layer: int) -> NDArray[np.float64]:
    chosen = (specimen.layer == layer) & np.isin(specimen.numbers, (MOLYBDENUM, TUNGSTEN))
    return specimen.positions[chosen]


def test_2h_bilayer() -> None:
    """Lattice constant, layer distance, composition, and metal over chalcogen."""
    lower, upper = metals(PERFECT, 0), metals(PERFECT, 1)
    inner = lower[np.all(np.abs(lower[:, :2] - 200) < 100, axis=1)]
    distance, _ = cKDTree(lower).query(inner, k=7)
    np.testing.assert_allclose(distance[:, 1:], 3.161, atol=1e-6)
    assert upper[:, 2].mean() - lower[:, 2].mean() == pytest.approx(6.148)
    assert (PERFECT.numbers == SULPHUR).sum() / (PERFECT.numbers == MOLYBDENUM).sum() == pytest.approx(2, rel=1e-2)
    assert PERFECT.positions[:, 2].min() == pytest.approx(0)
    sulphur = PERFECT.positions[(PERFECT.layer == 1) & (PERFECT.numbers == SULPHUR), :2]
    above, _ = cKDTree(sulphur).query(inner[:, :2])
    np.testing.assert_allclose(above, 0, atol=1e-6)
    # 2 layers of 3 atoms in a cell of √3/2 a².
    assert len(PERFECT.numbers) == pytest.approx(400**2 * 6 / (math.sqrt(3) / 2 * 3.161**2), rel=5e-3)


def test_vacancies_are_at_random_places() -> None:
    defective = build_specimen(SpecimenOptions(vacancies=1.0))
    assert len(PERFECT.numbers) - len(defective.numbers) == 1600
    assert (defective.numbers == MOLYBDENUM).sum() == (PERFECT.numbers == MOLYBDENUM).sum()
    present = cKDTree(defective.positions).query(PERFECT.positions)[0] < 1e-6
    missing = PERFECT.positions[~present, :2]
    counts = np.histogram2d(*missing.T, bins=10, range=[[0, 400], [0, 400]])[0]
    # 16 in each of 100 squares of 40 Å, Poisson: neither equal nor clustered.
    assert counts.var() / counts.mean() == pytest.approx(1, abs=0.5)
    other = build_specimen(SpecimenOptions(vacancies=1.0, seed=1))
    assert not np.array_equal(other.positions, defective.positions)


def test_twist_turns_the_upper_layer() -> None:
    twisted = build_specimen(SpecimenOptions(material="twisted-mos2", twist=7.0, vacancies=0))

    def direction(layer: int) -> float:
        points = metals(twisted, layer)[:, :2]
        centre = points[np.argmin(np.linalg.norm(points - 200, axis=1))]
        near = points[np.argsort(np.linalg.norm(points - centre, axis=1))[1]] - centre
        return math.degrees(math.atan2(near[0], near[1])) % 60

    assert (direction(1) - direction(0)) % 60 == pytest.approx(7.0, abs=1e-6)


def test_heterobilayer() -> None:
    pair = build_specimen(SpecimenOptions(material="mose2-ws2", vacancies=0))
    assert set(pair.numbers[pair.layer == 0]) == {MOLYBDENUM, SELENIUM}
    assert set(pair.numbers[pair.layer == 1]) == {TUNGSTEN, SULPHUR}
    for layer, a in ((0, 3.289), (1, 3.153)):
        points = metals(pair, layer)
        distance, _ = cKDTree(points).query(points[np.argmin(np.linalg.norm(points[:, :2] - 200, axis=1))], k=7)
        np.testing.assert_allclose(distance[1:], a, atol=1e-6)


def test_truth_is_the_projected_potential(tmp_path: Path) -> None:
    """Atoms are where the truth is bright; the side file has it with all true parameters."""
    window = Rectangle(y=100, x=120, height=12, width=10)
    phase = true_phase(PERFECT, window, 0.1)
    assert phase.shape == (120, 100)
    assert phase.min() > 0
    inside = np.all((PERFECT.positions[:, :2] > (101, 121)) & (PERFECT.positions[:, :2] < (111, 129)), axis=1)
    pixels = np.rint((PERFECT.positions[inside, :2] - (100, 120)) / 0.1).astype(int)
    assert phase[tuple(pixels.T)].min() > 3 * np.median(phase)

    write_truth(tmp_path / "truth.h5", PERFECT, Column(), pixel=0.5)
    with h5py.File(tmp_path / "truth.h5") as file:
        coarse = true_phase(PERFECT, window, 0.5)
        np.testing.assert_allclose(file["phase"][200:224, 240:260], coarse, atol=0.02)
        np.testing.assert_allclose(
            file["phase"][:20, :20],
            file["projected_potential"][:20, :20] * optics.interaction_parameter(80e3),
            rtol=1e-5,
        )
        assert file["column"].attrs["defocus_offset"] == Column().defocus_offset
        assert file["column/aberrations"].attrs["C30"] == Column().aberrations["C30"]
        assert file["projected_potential"].attrs["units"] == "V Å"
    assert [path.name for path in tmp_path.iterdir()] == ["truth.h5"]


def test_sulphur_leaves_with_the_dose() -> None:
    """exp(−σD) of the sulphur atoms survive in the field, all outside, and no metal is touched."""
    column = Column.ideal(knock_on=500.0)
    damage = DamageState(PERFECT, column)
    scan = plan(dose=2e5)
    damage.expose(scan, 0, scan.n_positions)
    present = damage.present()
    inner = np.all((PERFECT.positions[:, :2] > (183, 183)) & (PERFECT.positions[:, :2] < (207, 207)), axis=1)
    sulphur = PERFECT.numbers == SULPHUR
    np.testing.assert_allclose(damage.dose[185:205, 185:205], 2e5, rtol=1e-6)
    expected = math.exp(-500 * BARN * 2e5)
    n = (inner & sulphur).sum()
    assert present[inner & sulphur].mean() == pytest.approx(expected, abs=4 * math.sqrt(expected * (1 - expected) / n))
    assert present[~sulphur].all()
    far = np.any((PERFECT.positions[:, :2] < (170, 170)) | (PERFECT.positions[:, :2] > (220, 220)), axis=1)
    assert present[far].all()
    assert DamageState(PERFECT, Column.ideal()).present().all()


def test_later_acquisitions_see_the_damage_and_so_does_the_same_one() -> None:
    column = Column.ideal(knock_on=2000.0)
    damage = DamageState(PERFECT, column)
    scan = plan(dose=1e5, step=3.0)
    during = Exposure(scan, PERFECT, column, damage=damage)
    fresh = Exposure(scan, PERFECT, Column.ideal(), damage=None)
    first, last = during.blocks[0], during.blocks[-1]
    pristine = fresh_patterns(fresh)
    np.testing.assert_allclose(during.intensities(first), pristine[: first.stop], atol=1e-7)
    assert np.abs(during.intensities(last) - pristine[last.first :]).sum(axis=(1, 2)).min() > 0.01

    damage.expose(scan, 0, scan.n_positions)
    later = plan("a2", y=190.0, step=3.0)
    overlapping = Exposure(later, PERFECT, column, damage=damage)
    block = overlapping.blocks[0]
    untouched = fresh_patterns(Exposure(later, PERFECT, Column.ideal()))[: block.stop]
    assert np.abs(overlapping.intensities(block) - untouched).sum(axis=(1, 2)).min() > 0.01


def fresh_patterns(exposure: Exposure) -> NDArray[np.float32]:
    return np.concatenate([exposure.intensities(block) for block in exposure.blocks])


def test_damage_survives_the_process(tmp_path: Path) -> None:
    column = Column.ideal(knock_on=1000.0)
    scan = plan()
    before = DamageState(PERFECT, column, tmp_path)
    before.expose(scan, 0, 500)
    before.expose(scan, 500, scan.n_positions)
    # A crash in the middle of a line: the exposure it was to announce has not begun.
    with (tmp_path / "exposures.jsonl").open("a") as file:
        file.write('{"plan": {"id": "a2", "ca')
    after = DamageState(PERFECT, column, tmp_path)
    np.testing.assert_allclose(after.dose, before.dose)
    assert np.array_equal(after.present(), before.present())
    after.expose(plan("a3", y=230.0), 0, 100)
    np.testing.assert_allclose(DamageState(PERFECT, column, tmp_path).dose, after.dose)
    with pytest.raises(ConflictError, match="another specimen"):
        DamageState(build_specimen(SpecimenOptions(vacancies=1)), column, tmp_path)


def test_a_state_directory_from_before_specimens_had_a_thickness_is_still_the_same_flake(tmp_path: Path) -> None:
    DamageState(PERFECT, Column.ideal(), tmp_path)
    owner = tmp_path / "specimen.json"
    known = json.loads(owner.read_text())
    owner.write_text(json.dumps({key: known[key] for key in known if key not in ("structure", "thickness")}))
    DamageState(PERFECT, Column.ideal(), tmp_path)
    owner.write_text('{"unreadable": 1}')
    with pytest.raises(ConflictError, match="another specimen"):
        DamageState(PERFECT, Column.ideal(), tmp_path)
