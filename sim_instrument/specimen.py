# SPDX-License-Identifier: GPL-3.0-or-later
"""Thin crystals to look at: bilayers of transition-metal dichalcogenides with vacancies at random places.

Coordinates are (y, x, z) in Å; the beam travels along +z and enters at z = 0, the outermost atomic plane.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from instrument.models import Record, Rectangle

Material = Literal["2h-mos2", "twisted-mos2", "mose2-ws2", "vacuum"]
SULPHUR, SELENIUM = 16, 34
CHALCOGENS = (SULPHUR, SELENIUM)

DISPLACEMENTS = {42: 0.06, 74: 0.05, SULPHUR: 0.07, SELENIUM: 0.07}
"""Atomic number -> thermal displacement at 300 K, Å rms along each axis (typical of X-ray refinements)."""


@dataclass(frozen=True)
class _Layer:
    """One trigonal-prismatic MX2 layer: `a`, half of c and X–X distance in Å."""

    formula: str
    a: float
    half_c: float
    thickness: float


_MOS2 = _Layer("MoS2", 3.161, 6.148, 3.17)
_WS2 = _Layer("WS2", 3.153, 6.162, 3.14)
_MOSE2 = _Layer("MoSe2", 3.289, 6.464, 3.34)


class SpecimenOptions(Record):
    """Which specimen, and how imperfect."""

    material: Material = "2h-mos2"
    size: Annotated[float, Field(ge=300, le=1000, description="edge of the square flake, Å")] = 400.0
    twist: Annotated[float, Field(ge=0, le=60, description="twist between the layers of twisted-mos2, degrees")] = 5.0
    orientation: Annotated[
        float, Field(ge=-180, le=180, description="of the lattice against the scan's x axis, degrees")
    ] = 11.0
    vacancies: Annotated[float, Field(ge=0, le=5, description="chalcogen vacancies per nm²; 0: perfect")] = 0.5
    phonon_configurations: Annotated[
        int, Field(ge=0, le=64, description="frozen-phonon configurations averaged in each pattern; 0: atoms at rest")
    ] = 0
    seed: Annotated[int, Field(ge=0)] = 0


@dataclass(frozen=True)
class Specimen:
    """Atoms in a square of `options.size` Å.

    Attributes:
        options: what was asked for.
        positions: (n, 3), (y, x, z), Å.
        numbers: (n,) atomic numbers.
        layer: (n,) index of the MX2 layer an atom belongs to, 0 at the entrance surface.
        layer_depth: z of the metal plane of each layer, Å.
    """

    options: SpecimenOptions
    positions: NDArray[np.float64]
    numbers: NDArray[np.int64]
    layer: NDArray[np.int64]
    layer_depth: tuple[float, ...]

    @property
    def extent(self) -> Rectangle:
        """The whole flake."""
        return Rectangle(y=0, x=0, height=self.options.size, width=self.options.size)


def build_specimen(options: SpecimenOptions | None = None) -> Specimen:
    """Put the atoms in their places; the same options give the same specimen.

    Vacancies are drawn one by one over the whole flake, so that no two places of it are alike.

    Args:
        options: material, size and imperfections; None: the defaults.
    """
    options = options or SpecimenOptions()
    if options.material == "vacuum":
        return Specimen(options, np.zeros((0, 3)), np.zeros(0, np.int64), np.zeros(0, np.int64), (0.0,))
    lower, upper, twist = {
        "2h-mos2": (_MOS2, _MOS2, 0.0),
        "twisted-mos2": (_MOS2, _MOS2, options.twist),
        "mose2-ws2": (_MOSE2, _WS2, 0.0),
    }[options.material]
    first, first_numbers = _tile(lower, options.size, options.orientation, inverted=False)
    second, second_numbers = _tile(upper, options.size, options.orientation + twist, inverted=True)
    spacing = 0.5 * (lower.half_c + upper.half_c)
    depths = (0.5 * lower.thickness, 0.5 * lower.thickness + spacing)
    first[:, 2] += depths[0]
    second[:, 2] += depths[1]
    positions = np.concatenate([first, second])
    numbers = np.concatenate([first_numbers, second_numbers])
    layer = np.repeat([0, 1], [len(first), len(second)])

    rng = np.random.default_rng([options.seed, 1])
    sites = np.flatnonzero(np.isin(numbers, CHALCOGENS))
    missing = rng.choice(sites, size=round(options.vacancies * (options.size / 10) ** 2), replace=False)
    keep = np.ones(len(numbers), dtype=bool)
    keep[missing] = False
    return Specimen(options, positions[keep], numbers[keep], layer[keep], depths)


def _tile(
    layer: _Layer, size: float, orientation: float, inverted: bool
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Fill a square with one MX2 layer, metal plane at z = 0.

    `inverted` exchanges metal and chalcogen sites: 2H (AA') stacking puts each metal over a chalcogen.
    """
    from ase.build import mx2

    unit = mx2(layer.formula, kind="2H", a=layer.a, thickness=layer.thickness, size=(1, 1, 1), vacuum=None)
    metal = ~np.isin(unit.numbers, CHALCOGENS)
    site = np.asarray(unit.positions)[:, :2]
    height = np.asarray(unit.positions)[:, 2] - unit.positions[metal, 2][0]
    if inverted:
        site = np.where(metal[:, None], site[~metal][0], site[metal][0])
    reach = math.ceil(size / layer.a) + 2
    index = np.arange(-reach, reach + 1)
    cells = np.stack(np.meshgrid(index, index, indexing="ij"), axis=-1).reshape(-1, 2) @ np.asarray(unit.cell)[:2, :2]
    angle = math.radians(orientation)
    turn = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
    x, y = ((cells[:, None] + site[None]).reshape(-1, 2) @ turn).T + 0.5 * size
    z = np.tile(height, len(cells))
    inside = (y >= 0) & (y < size) & (x >= 0) & (x < size)
    return np.stack([y, x, z], axis=-1)[inside], np.tile(unit.numbers, len(cells)).astype(np.int64)[inside]


def thermal_displacements(specimen: Specimen, configuration: int) -> NDArray[np.float64]:
    """The displacements of one frozen-phonon configuration (independent atoms, Einstein model).

    Configurations come in pairs of opposite displacements: what is odd in the displacements then cancels in the average,
    and fewer configurations are needed for the same error.

    Args:
        specimen: the atoms.
        configuration: its number, from 0.

    Returns:
        (n, 3), Å.
    """
    pair, odd = divmod(configuration, 2)
    rng = np.random.default_rng([specimen.options.seed, 2, pair])
    rms = np.vectorize(DISPLACEMENTS.__getitem__, otypes=[float])(specimen.numbers)
    displacements: NDArray[np.float64] = rng.standard_normal(specimen.positions.shape) * rms[:, None]
    return -displacements if odd else displacements
