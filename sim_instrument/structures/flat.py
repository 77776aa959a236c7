# SPDX-License-Identifier: GPL-3.0-or-later
"""Two-dimensional crystals: bilayers of transition-metal dichalcogenides, and graphene."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sim_instrument.structures.atoms import Atoms, tiled

CHALCOGENS = (16, 34)
GRAPHENE = 2.461
"""Lattice constant of graphene, Å."""


@dataclass(frozen=True)
class _Layer:
    """One trigonal-prismatic MX2 layer: `a`, half of c and X–X distance in Å."""

    formula: str
    a: float
    half_c: float
    thickness: float


_LAYERS = {
    layer.formula: layer
    for layer in (
        _Layer("MoS2", 3.161, 6.148, 3.17),
        _Layer("WS2", 3.153, 6.162, 3.14),
        _Layer("MoSe2", 3.289, 6.464, 3.34),
        _Layer("WSe2", 3.282, 6.480, 3.34),
    )
}


def bilayer(lower: str, upper: str, size: float, orientation: float, twist: float = 0.0) -> Atoms:
    """Two layers MX2, the upper one upside down, one slice each.

    Args:
        lower: formula of the layer at the entrance surface.
        upper: formula of the other.
        size: edge of the square, Å.
        orientation: of the lower lattice against x, degrees.
        twist: of the upper against the lower, degrees.
    """
    first_kind, second_kind = _LAYERS[lower], _LAYERS[upper]
    first, first_numbers = _tile(first_kind, size, orientation, inverted=False)
    second, second_numbers = _tile(second_kind, size, orientation + twist, inverted=True)
    spacing = 0.5 * (first_kind.half_c + second_kind.half_c)
    depths = (0.5 * first_kind.thickness, 0.5 * first_kind.thickness + spacing)
    first[:, 2] += depths[0]
    second[:, 2] += depths[1]
    return Atoms(
        np.concatenate([first, second]),
        np.concatenate([first_numbers, second_numbers]),
        np.repeat([0, 1], [len(first), len(second)]),
        depths,
    )


def graphene(size: float, orientation: float) -> Atoms:
    """One layer of carbon.

    Args:
        size: edge of the square, Å.
        orientation: of the lattice against x, degrees.
    """
    cell = GRAPHENE * np.array([[1.0, 0.0], [0.5, 0.5 * np.sqrt(3)]])
    sites = np.column_stack([np.array([[1 / 3, 1 / 3], [2 / 3, 2 / 3]]) @ cell, np.zeros(2)])
    positions, numbers = tiled(cell, sites, np.array([6, 6]), size, orientation)
    return Atoms(positions, numbers, np.zeros(len(numbers), np.int64), (0.0,))


def _tile(
    layer: _Layer, size: float, orientation: float, inverted: bool
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Fill a square with one MX2 layer, metal plane at z = 0.

    `inverted` exchanges metal and chalcogen sites: 2H (AA') stacking puts each metal over a chalcogen.
    """
    from ase.build import mx2

    unit = mx2(layer.formula, kind="2H", a=layer.a, thickness=layer.thickness, size=(1, 1, 1), vacuum=None)
    metal = ~np.isin(unit.numbers, CHALCOGENS)
    sites = np.array(unit.positions)
    sites[:, 2] -= sites[metal, 2][0]
    if inverted:
        site = sites[:, :2].copy()
        sites[:, :2] = np.where(metal[:, None], site[~metal][0], site[metal][0])
    return tiled(np.asarray(unit.cell)[:2, :2], sites, unit.numbers.astype(np.int64), size, orientation)
