# SPDX-License-Identifier: GPL-3.0-or-later
"""Amorphous matter: atoms at random places that keep a distance from each other, and things cut out of it."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

TILE = 100.0
"""Å, edge of the block that repeats in the plane."""


def amorphous(
    size: float, thickness: float, density: float, distance: float, rng: np.random.Generator
) -> NDArray[np.float64]:
    """Atoms of an amorphous film, packed at random in a block of about TILE that repeats in the plane.

    Args:
        size: edge of the square, Å.
        thickness: Å.
        density: atoms per Å³.
        distance: smallest distance of two atoms, Å.
        rng: source of randomness.

    Returns:
        (n, 3), (y, x, z), Å, z from 0 to `thickness`.
    """
    tiles = math.ceil(size / TILE)
    edge = size / tiles
    block = _packed(np.array([edge, edge, thickness]), density, distance, rng)
    shifts = np.stack(np.meshgrid(*2 * [edge * np.arange(tiles)], indexing="ij"), axis=-1).reshape(-1, 1, 2)
    flat = (block[None, :, :2] + shifts).reshape(-1, 2)
    return np.column_stack([flat, np.tile(block[:, 2], tiles**2)])


def _packed(box: NDArray[np.float64], density: float, distance: float, rng: np.random.Generator) -> NDArray[np.float64]:
    """(n, 3): random sequential addition in a box that is periodic in the plane, many at a time."""
    wanted = round(density * float(np.prod(box)))
    # A period of twice the thickness along z keeps its two faces apart.
    period = box * (1, 1, 2) + (0, 0, 2 * distance)
    placed = np.zeros((0, 3))
    while len(placed) < wanted:
        candidates = rng.random((max(2 * (wanted - len(placed)), wanted // 2) + 32, 3)) * box
        if len(placed):
            near, _ = cKDTree(placed, boxsize=period).query(candidates, distance_upper_bound=distance)
            candidates = candidates[np.isinf(near)]
        clashes = cKDTree(candidates, boxsize=period).query_pairs(distance, output_type="ndarray")
        kept = np.ones(len(candidates), dtype=bool)
        kept[clashes[:, 1]] = False
        placed = np.concatenate([placed, candidates[kept]])
    return placed[:wanted]


def places_apart(
    size: float, distance: float, coverage: float, rng: np.random.Generator, attempts: int = 40
) -> NDArray[np.float64]:
    """Random places in a square that keep a distance from each other.

    Args:
        size: edge of the square, Å.
        distance: smallest, Å.
        coverage: part of the area that discs of that diameter are to cover, at most about 0.5.
        rng: source of randomness.
        attempts: candidates per place.

    Returns:
        (n, 2), (y, x), Å; fewer than asked for where there is no more room.
    """
    wanted = round(coverage * size**2 / (math.pi * distance**2 / 4))
    places = np.zeros((0, 2))
    for candidate in rng.random((attempts * wanted, 2)) * size:
        if len(places) == wanted:
            break
        if not len(places) or np.min(np.sum((places - candidate) ** 2, axis=1)) >= distance**2:
            places = np.vstack([places, candidate])
    return places


def random_turn(rng: np.random.Generator) -> NDArray[np.float64]:
    """A rotation matrix, (3, 3), of which all are equally likely."""
    from scipy.spatial.transform import Rotation

    turn: NDArray[np.float64] = Rotation.random(random_state=rng).as_matrix()
    return turn
