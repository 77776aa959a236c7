# SPDX-License-Identifier: GPL-3.0-or-later
"""Specimens with a thickness: a crystalline lamella, gold in amorphous carbon, protein in ice, and what a file holds.

Projected into slices across the beam; how thick a slice may be is measured in `README.md` of `sim_instrument`.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from instrument.errors import BadInputError
from sim_instrument.structures.atoms import Atoms, tiled
from sim_instrument.structures.packing import amorphous, places_apart, random_turn

SRTIO3 = 3.905
"""Lattice constant of cubic strontium titanate, Å."""
GOLD = 4.078
"""Lattice constant of gold, Å."""
CARBON_DENSITY, CARBON_DISTANCE = 0.100, 1.35
"""Atoms/Å³ of amorphous carbon (2.0 g/cm³), and their smallest distance, Å."""
ICE_DENSITY, ICE_DISTANCE = 0.031, 2.4
"""Oxygen atoms/Å³ of vitreous ice (0.93 g/cm³), and their smallest distance, Å. Hydrogen is left out in ice and protein alike:
it adds nearly the same potential to both, about 1.5 V."""
PROTEIN_DENSITY, PROTEIN_DISTANCE = 0.058, 1.4
"""C, N and O atoms/Å³ of protein (1.35 g/cm³), and their smallest distance, Å."""
PROTEIN = ((6, 0.63), (7, 0.17), (8, 0.20))
"""Atomic number and part of the heavier atoms of protein."""
MOST_ATOMS = 5_000_000


def strontium_titanate(size: float, orientation: float, thickness: float) -> Atoms:
    """A lamella of SrTiO3 along [001], one slice for each unit cell; begins with SrO, ends with TiO2.

    Args:
        size: edge of the square, Å.
        orientation: of [100] against x, degrees.
        thickness: Å, rounded to whole cells.
    """
    sites = SRTIO3 * np.array([[0, 0, 0], [0.5, 0.5, 0], [0.5, 0.5, 0.5], [0.5, 0, 0.5], [0, 0.5, 0.5]])
    cells = max(round(thickness / SRTIO3), 1)
    one, numbers = tiled(SRTIO3 * np.eye(2), sites, np.array([38, 8, 22, 8, 8]), size, orientation)
    positions = np.tile(one, (cells, 1))
    layer = np.repeat(np.arange(cells), len(one))
    positions[:, 2] += SRTIO3 * layer
    # Half way between the two planes of the cell.
    depths = tuple(SRTIO3 * (index + 0.25) for index in range(cells))
    return Atoms(positions, np.tile(numbers, cells), layer, depths)


def gold_in_carbon(size: float, thickness: float, rng: np.random.Generator) -> Atoms:
    """Gold crystals of 10 to 22 Å, at most as large as the film is thick, in any orientation, in a film of amorphous carbon.

    Args:
        size: edge of the square, Å.
        thickness: of the film, Å.
        rng: source of randomness.
    """
    carbon = amorphous(size, thickness, CARBON_DENSITY, CARBON_DISTANCE, rng)
    largest = min(11.0, thickness / 2)
    beside = cKDTree(carbon)
    parts, outside = [], np.ones(len(carbon), dtype=bool)
    for place in places_apart(size, 2 * largest + 2, 0.5, rng):
        radius = largest * rng.uniform(5 / 11, 1)
        centre = np.array([*place, rng.uniform(radius, thickness - radius)])
        parts.append(centre + _gold_ball(radius, rng))
        outside[beside.query_ball_point(centre, radius + 1.2)] = False
    gold = _within(np.concatenate(parts), size)
    positions = np.concatenate([carbon[outside], gold])
    numbers = np.repeat([6, 79], [int(outside.sum()), len(gold)])
    return sliced(positions, numbers, 4.0)


def protein_in_ice(size: float, thickness: float, rng: np.random.Generator) -> Atoms:
    """Hollow shells and assemblies of four balls, 52 Å wide and of the density of protein, in vitreous ice.

    Args:
        size: edge of the square, Å.
        thickness: of the ice, Å, at least 40.
        rng: source of randomness.
    """
    ice = amorphous(size, thickness, ICE_DENSITY, ICE_DISTANCE, rng)
    matter = amorphous(200.0, 100.0, PROTEIN_DENSITY, PROTEIN_DISTANCE, rng)[:, :3] - (100.0, 100.0, 50.0)
    largest = min(26.0, thickness / 2 - 4)
    beside = cKDTree(ice)
    parts, watery = [], np.ones(len(ice), dtype=bool)
    for place in places_apart(size, 2 * largest + 4, 0.5, rng):
        shell = rng.random() < 0.5
        centre = np.array([*place, rng.uniform(largest, thickness - largest)])
        turn = random_turn(rng)
        inside = _in_shell if shell else _in_assembly
        parts.append(centre + matter[inside(matter, largest)] @ turn.T)
        near = np.array(beside.query_ball_point(centre, largest + 1.0), dtype=np.int64)
        watery[near[inside((ice[near] - centre) @ turn, largest + 1.0)]] = False
    protein = _within(np.concatenate(parts), size)
    kinds = rng.choice([number for number, _ in PROTEIN], size=len(protein), p=[part for _, part in PROTEIN])
    positions = np.concatenate([ice[watery], protein])
    return sliced(positions, np.concatenate([np.full(int(watery.sum()), 8), kinds]), 10.0)


def _gold_ball(radius: float, rng: np.random.Generator) -> NDArray[np.float64]:
    """(n, 3) atoms of a ball of face-centred cubic gold, in any orientation."""
    reach = math.ceil(radius / GOLD) + 1
    index = np.arange(-reach, reach + 1)
    cells = np.stack(np.meshgrid(index, index, index, indexing="ij"), axis=-1).reshape(-1, 1, 3)
    sites = GOLD * (cells + np.array([[0, 0, 0], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]])).reshape(-1, 3)
    sites += GOLD * rng.random(3)
    ball: NDArray[np.float64] = sites[np.linalg.norm(sites, axis=1) < radius] @ random_turn(rng).T
    return ball


def _in_shell(points: NDArray[np.float64], radius: float) -> NDArray[np.bool_]:
    distance = np.linalg.norm(points, axis=1)
    inside: NDArray[np.bool_] = (distance < radius) & (distance > 0.65 * radius)
    return inside


def _in_assembly(points: NDArray[np.float64], radius: float) -> NDArray[np.bool_]:
    corners = np.array([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]]) / math.sqrt(3)
    nearest = np.min([np.linalg.norm(points - 0.6 * radius * corner, axis=1) for corner in corners], axis=0)
    inside: NDArray[np.bool_] = nearest < 0.4 * radius
    return inside


def _within(positions: NDArray[np.float64], size: float) -> NDArray[np.float64]:
    inside = np.all((positions[:, :2] >= 0) & (positions[:, :2] < size), axis=1)
    return positions[inside]


def sliced(positions: NDArray[np.float64], numbers: NDArray[np.int64], thickness: float) -> Atoms:
    """Atoms in slices of equal thickness, the outermost at z = 0.

    Args:
        positions: (n, 3), (y, x, z), Å.
        numbers: (n,) atomic numbers.
        thickness: largest of a slice, Å.

    Returns:
        Each slice lies at the mean depth of its atoms.
    """
    z = positions[:, 2] - positions[:, 2].min()
    count = max(math.ceil(float(z.max()) / thickness), 1)
    layer = np.minimum((z / max(float(z.max()), 1e-9) * count).astype(np.int64), count - 1)
    _, layer = np.unique(layer, return_inverse=True)
    depths = np.bincount(layer, weights=z) / np.bincount(layer)
    return Atoms(
        np.column_stack([positions[:, :2], z]), numbers.astype(np.int64), layer.astype(np.int64), tuple(depths.tolist())
    )


def from_file(path: str, size: float, orientation: float, thickness: float | None, slice_thickness: float) -> Atoms:
    """Atoms from a file that ASE reads. x, y, z of the file are x, y and the direction of the beam.

    What is periodic in the plane fills the square; what is not lies once in its middle. What is periodic along the beam
    is repeated up to `thickness`.

    Args:
        path: of the file.
        size: edge of the square, Å.
        orientation: by which the structure is turned, degrees.
        thickness: Å; None: the structure once.
        slice_thickness: largest of a slice, Å.

    Raises:
        BadInputError: the file cannot be read, is empty, has too many atoms, or its cell does not lie in the plane.
    """
    structure = _read(path)
    if thickness is not None and structure.pbc[2]:
        height = float(structure.cell[2, 2])
        structure = structure.repeat((1, 1, max(round(thickness / height), 1))) if height > 0 else structure
    sites = np.asarray(structure.positions, dtype=np.float64)
    numbers = np.asarray(structure.numbers, dtype=np.int64)
    if structure.pbc[0] and structure.pbc[1]:
        cell = np.asarray(structure.cell)
        if np.abs(cell[:2, 2]).max() > 1e-3 * np.abs(cell[:2]).max() or abs(np.linalg.det(cell[:2, :2])) < 1e-6:
            msg = f"{path}: the first two lattice vectors have to lie in the plane across the beam (z = 0); turn the structure"
            raise BadInputError(msg)
        expected = len(numbers) * size**2 / abs(np.linalg.det(cell[:2, :2]))
        _refuse_too_many(path, expected, size)
        positions, numbers = tiled(cell[:2, :2], sites, numbers, size, orientation)
    else:
        angle = math.radians(orientation)
        turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
        flat = (sites[:, :2] - (sites[:, :2].min(axis=0) + sites[:, :2].max(axis=0)) / 2) @ turn.T + size / 2
        inside = np.all((flat >= 0) & (flat < size), axis=1)
        positions, numbers = np.column_stack([flat[:, ::-1], sites[:, 2]])[inside], numbers[inside]
        _refuse_too_many(path, len(numbers), size)
    return sliced(positions, numbers, slice_thickness)


def _read(path: str) -> Any:
    from ase.io import read

    if not Path(path).is_file():
        msg = f"structure {path}: there is no such file"
        raise BadInputError(msg)
    try:
        structure = read(path)
    except Exception as error:  # ASE's readers raise whatever they come across
        msg = f"structure {path}: ASE cannot read it ({type(error).__name__}: {' '.join(str(error).split())[:200]})"
        raise BadInputError(msg) from error
    if isinstance(structure, list) or not len(structure):
        msg = f"structure {path}: holds no atoms"
        raise BadInputError(msg)
    return structure


def _refuse_too_many(path: str, atoms: float, size: float) -> None:
    if atoms > MOST_ATOMS:
        msg = (
            f"structure {path}: {atoms:.3g} atoms fill a square of {size:g} Å, at most {MOST_ATOMS:.0e} are simulated; take a "
            "smaller size or thickness"
        )
        raise BadInputError(msg)
