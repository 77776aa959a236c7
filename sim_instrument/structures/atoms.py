# SPDX-License-Identifier: GPL-3.0-or-later
"""Atoms, and the layers that multislice takes them in."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Atoms:
    """Atoms in layers across the beam.

    Attributes:
        positions: (n, 3), (y, x, z), Å; the beam enters at z = 0.
        numbers: (n,) atomic numbers.
        layer: (n,) which layer an atom is projected into, 0 at the entrance surface.
        layer_depth: z of the plane that each layer is projected into, Å, ascending.
    """

    positions: NDArray[np.float64]
    numbers: NDArray[np.int64]
    layer: NDArray[np.int64]
    layer_depth: tuple[float, ...]

    @classmethod
    def none(cls) -> Atoms:
        """No atoms, in one layer."""
        return cls(np.zeros((0, 3)), np.zeros(0, np.int64), np.zeros(0, np.int64), (0.0,))

    def chosen(self, keep: NDArray[np.bool_]) -> Atoms:
        """Some of the atoms.

        Args:
            keep: (n,) which.
        """
        return Atoms(self.positions[keep], self.numbers[keep], self.layer[keep], self.layer_depth)


def tiled(
    cell: NDArray[np.float64],
    sites: NDArray[np.float64],
    numbers: NDArray[np.int64],
    size: float,
    orientation: float,
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Fill a square with a crystal that repeats in the plane.

    Args:
        cell: (2, 2) lattice vectors in the plane, rows (x, y), Å.
        sites: (m, 3) atoms of one cell, (x, y, z), Å.
        numbers: (m,) their atomic numbers.
        size: edge of the square, Å.
        orientation: by which the lattice is turned, degrees.

    Returns:
        (n, 3) positions (y, x, z), Å, and (n,) atomic numbers of the atoms in the square.
    """
    # Twice the square's half diagonal, in the shorter height of the cell.
    height = abs(float(np.linalg.det(cell))) / np.linalg.norm(cell, axis=1).max()
    reach = int(np.ceil(size / np.sqrt(2) / height)) + 2
    index = np.arange(-reach, reach + 1)
    cells = np.stack(np.meshgrid(index, index, indexing="ij"), axis=-1).reshape(-1, 2) @ cell
    cells = cells[np.linalg.norm(cells, axis=1) <= size / np.sqrt(2) + 2 * np.linalg.norm(cell, axis=1).max()]
    angle = np.radians(orientation)
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    x, y = ((cells[:, None] + sites[None, :, :2]).reshape(-1, 2) @ turn).T + 0.5 * size
    z = np.tile(sites[:, 2], len(cells))
    inside = (y >= 0) & (y < size) & (x >= 0) & (x < size)
    return np.stack([y, x, z], axis=-1)[inside], np.tile(numbers, len(cells)).astype(np.int64)[inside]
