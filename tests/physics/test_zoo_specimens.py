# SPDX-License-Identifier: GPL-3.0-or-later
"""The zoo's specimens have the right distances, compositions and mean inner potentials; its guns their coherence."""

from __future__ import annotations

import math
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from instrument import Rectangle, optics
from instrument.errors import BadInputError
from sim_instrument import Column, Specimen, SpecimenOptions, build_specimen, true_defocus, true_phase
from sim_instrument.column import FWHM
from sim_instrument.illumination import probe_modes
from sim_instrument.structures.solids import SRTIO3
from sim_instrument.zoo import COLUMNS, SPECIMENS

SCATTERING = {
    6: 2.509,
    7: 2.211,
    8: 1.983,
    16: 5.161,
    22: 8.776,
    34: 7.205,
    38: 13.109,
    42: 10.260,
    74: 12.52,
    79: 10.573,
}
"""Å, electron scattering factors for zero angle (Peng et al., Acta Cryst. A 52 (1996) 257)."""
V_PER_ATOM = 47.878
"""V Å³ per Å of scattering factor: h²/(2π m e)."""
WINDOW = Rectangle(y=150, x=150, height=60, width=60)


@cache
def specimen(name: str) -> Specimen:
    return build_specimen(SPECIMENS[name])


def inside(positions: NDArray[np.float64], window: Rectangle) -> NDArray[np.bool_]:
    relative = positions[:, :2] - (window.y, window.x)
    return np.all((relative >= 0) & (relative < (window.height, window.width)), axis=1)


@pytest.mark.parametrize("name", ["2h-wse2", "graphene", "srtio3", "gold-carbon", "protein-ice"])
def test_the_mean_phase_is_that_of_the_mean_inner_potential(name: str) -> None:
    atoms = specimen(name)
    numbers = atoms.numbers[inside(atoms.positions, WINDOW)]
    projected = V_PER_ATOM * sum(SCATTERING[int(number)] for number in numbers) / WINDOW.area
    phase = true_phase(atoms, WINDOW, 0.15, voltage=200e3)
    assert phase.mean() == pytest.approx(optics.interaction_parameter(200e3) * projected, rel=0.04)


def test_strontium_titanate_is_26_equal_cells_thick() -> None:
    atoms = specimen("srtio3")
    assert len(atoms.layer_depth) == 26
    cells = [atoms.positions[atoms.layer == index] for index in range(26)]
    for index, cell in enumerate(cells):
        np.testing.assert_array_equal(cell[:, :2], cells[0][:, :2])
        np.testing.assert_allclose(cell[:, 2] - cells[0][:, 2], index * SRTIO3)
    strontium = atoms.positions[atoms.numbers == 38]
    distance, _ = cKDTree(strontium).query(strontium[inside(strontium, WINDOW)][:50], k=2)
    np.testing.assert_allclose(distance[:, 1], SRTIO3, atol=1e-6)
    per_cell = np.bincount(atoms.numbers, minlength=39)[[8, 22, 38]] / (26 * (400 / SRTIO3) ** 2)
    np.testing.assert_allclose(per_cell, (3, 1, 1), rtol=0.01)


def test_atoms_are_as_far_apart_as_they_should_be() -> None:
    graphene = specimen("graphene").positions
    distance, _ = cKDTree(graphene).query(graphene[inside(graphene, WINDOW)], k=2)
    assert distance[:, 1].max() < 1.43
    assert distance[:, 1].min() > 1.41
    film = specimen("gold-carbon")
    gold = film.positions[film.numbers == 79]
    carbon = film.positions[film.numbers == 6]
    assert cKDTree(gold).query(gold, k=2)[0][:, 1].min() == pytest.approx(4.078 / math.sqrt(2), abs=1e-6)
    assert cKDTree(carbon).query(carbon[inside(carbon, WINDOW)], k=2)[0][:, 1].min() > 1.35
    assert cKDTree(carbon).query(gold)[0].min() > 1.0


def test_protein_is_seen_in_ice_and_weak() -> None:
    phase = true_phase(specimen("protein-ice"), Rectangle(y=100, x=100, height=200, width=200), 0.5, voltage=300e3)
    smooth = phase.reshape(50, 8, 50, 8).mean(axis=(1, 3))
    assert 0.02 < smooth.std() < 0.2
    assert np.ptp(smooth) < 0.5


@pytest.mark.parametrize(
    ("name", "depth"), [("2h-mos2", 4.66), ("graphene", 0.0), ("srtio3", 25.5 * SRTIO3 / 2), ("gold-carbon", 20.0)]
)
def test_defocus_of_the_middle_plane(name: str, depth: float) -> None:
    """Half the thickness less underfocus than at the entrance surface, to which the column's defocus refers."""
    column = Column(defocus_offset=10.0, defocus_scale=1.5)
    assert specimen(name).positions[:, 2].min() == pytest.approx(0, abs=1e-9)
    assert specimen(name).middle_depth == pytest.approx(depth, abs=0.01)
    assert true_defocus(column, specimen(name), 100.0) == pytest.approx(160.0 - depth, abs=0.01)


def test_the_same_options_give_the_same_amorphous_film() -> None:
    again = build_specimen(SPECIMENS["gold-carbon"])
    np.testing.assert_array_equal(again.positions, specimen("gold-carbon").positions)
    other = build_specimen(SPECIMENS["gold-carbon"].model_copy(update={"seed": 1}))
    assert len(other.numbers) != len(again.numbers)


# -- structures from files --------------------------------------------------------------------------------------


def write_cell(path: Path) -> Path:
    from ase import Atoms
    from ase.io import write

    scaled = [(0, 0, 0), (0.5, 0.5, 0), (0.5, 0.5, 0.5), (0.5, 0, 0.5), (0, 0.5, 0.5)]
    write(path, Atoms("SrOTiO2", scaled_positions=scaled, cell=3 * [SRTIO3], pbc=True))
    return path


def test_a_crystal_from_a_file_is_the_same_as_the_built_in_one(tmp_path: Path) -> None:
    given = SpecimenOptions(structure=str(write_cell(tmp_path / "cell.cif")), thickness=100)
    atoms = build_specimen(given)
    assert given.material == "file"
    assert atoms.middle_depth == pytest.approx(specimen("srtio3").middle_depth)
    window = Rectangle(y=200, x=200, height=10, width=10)
    np.testing.assert_allclose(true_phase(atoms, window, 0.25), true_phase(specimen("srtio3"), window, 0.25), atol=2e-3)


def test_a_molecule_from_a_file_lies_once_in_the_middle(tmp_path: Path) -> None:
    (tmp_path / "pair.xyz").write_text("2\n\nAu 0 0 10\nC 4 0 13\n")
    atoms = build_specimen(SpecimenOptions(structure=str(tmp_path / "pair.xyz"), orientation=0))
    np.testing.assert_allclose(atoms.positions, [(200, 198, 0), (200, 202, 3)])
    assert atoms.numbers.tolist() == [79, 6]
    assert atoms.layer_depth == (0, 3)


def test_a_structure_that_cannot_be_used_is_refused_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "text.cif").write_text("no crystal\n")
    with pytest.raises(BadInputError, match="no such file"):
        build_specimen(SpecimenOptions(structure=str(tmp_path / "missing.cif")))
    with pytest.raises(BadInputError, match=r"ASE cannot read it|holds no atoms"):
        build_specimen(SpecimenOptions(structure=str(tmp_path / "text.cif")))
    with pytest.raises(BadInputError, match=r"atoms fill a square of 1000 Å"):
        build_specimen(SpecimenOptions(structure=str(write_cell(tmp_path / "c.cif")), thickness=500, size=1000))
    with pytest.raises(ValueError, match="a structure goes with material 'file' only"):
        SpecimenOptions(structure="c.cif", material="graphene")
    with pytest.raises(ValueError, match="graphene has its own"):
        SpecimenOptions(material="graphene", thickness=50)


# -- coherence of the guns --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["default", "schottky-60", "schottky-80", "mono-60"])
def test_modes_have_the_coherence_of_source_and_focal_spread(name: str) -> None:
    """Σ weight² is the mean |overlap|² of two draws of the mixture: ∬ |J(k, k')|², which is known in closed form."""
    column = COLUMNS[name]
    extent = 24.0
    modes = probe_modes(column, 100.0, (128, 128), extent / 128, np.eye(2), tolerance=1e-3)
    axis = np.fft.fftfreq(128, extent / 128)
    ky, kx = np.meshgrid(axis, axis, indexing="ij")
    weight = np.sum(modes.weights[:, None, None] * np.abs(modes.waves) ** 2, axis=0)
    lit = weight > 1e-9
    k, weight = np.stack([ky[lit], kx[lit]], -1), weight[lit] / weight[lit].sum()
    apart = np.sum((k[:, None] - k[None]) ** 2, axis=-1)
    squares = np.sum(k**2, axis=1)
    source = np.exp(-((2 * math.pi * column.source_size / FWHM) ** 2) * apart)
    slope = math.pi * optics.wavelength(column.voltage) * column.focal_spread
    focus = np.exp(-((slope * (squares[:, None] - squares)) ** 2))
    purity = weight @ (source * focus) @ weight
    assert np.sum(modes.weights**2) == pytest.approx(purity, rel=0.01)


def test_a_schottky_gun_needs_more_modes_than_a_cold_one() -> None:
    def count(name: str) -> int:
        return len(probe_modes(COLUMNS[name], 100.0, (128, 128), 0.2, np.eye(2)).weights)

    assert count("schottky-80") > 1.5 * count("default")
