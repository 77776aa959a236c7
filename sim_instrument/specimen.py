# SPDX-License-Identifier: GPL-3.0-or-later
"""What lies in the microscope: options, atoms, and the depth of its middle plane.

Coordinates are (y, x, z) in Å; the beam travels along +z and enters at z = 0, the outermost atomic plane.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from instrument.models import Record, Rectangle
from sim_instrument.structures import (
    Atoms,
    bilayer,
    from_file,
    gold_in_carbon,
    graphene,
    protein_in_ice,
    strontium_titanate,
)

Material = Literal[
    "2h-mos2",
    "twisted-mos2",
    "2h-wse2",
    "mose2-ws2",
    "graphene",
    "srtio3",
    "gold-carbon",
    "protein-ice",
    "file",
    "vacuum",
]
FLAT = ("2h-mos2", "twisted-mos2", "2h-wse2", "mose2-ws2", "graphene", "vacuum")
"""Materials whose thickness is given."""
THICKNESS = {"srtio3": 100.0, "gold-carbon": 40.0, "protein-ice": 100.0}
"""Å, unless another is asked for."""
CARBON, SULPHUR, SELENIUM = 6, 16, 34

DISPLACEMENTS = {6: 0.06, 16: 0.07, 22: 0.07, 34: 0.07, 38: 0.085, 42: 0.06, 74: 0.05, 79: 0.085}
"""Atomic number -> thermal displacement at 300 K, Å rms along each axis (typical of X-ray refinements)."""
_DISPLACEMENT = 0.08
"""Å, of the elements that are not listed."""
_VACANT = (CARBON, SULPHUR, SELENIUM)
"""Which elements leave vacancies in a two-dimensional crystal."""


class SpecimenOptions(Record):
    """Which specimen, and how imperfect."""

    material: Material = "2h-mos2"
    structure: Annotated[
        str | None, Field(description="a file that ASE reads; x, y, z are x, y and the direction of the beam")
    ] = None
    thickness: Annotated[
        float | None,
        Field(
            ge=4, le=500, description="of srtio3, gold-carbon, protein-ice, or a periodic structure, Å; None: its own"
        ),
    ] = None
    slice_thickness: Annotated[
        float, Field(ge=0.5, le=20, description="largest slice of a structure from a file, Å")
    ] = 2.0
    size: Annotated[float, Field(ge=300, le=1000, description="edge of the square flake, Å")] = 400.0
    twist: Annotated[float, Field(ge=0, le=60, description="twist between the layers of twisted-mos2, degrees")] = 5.0
    orientation: Annotated[
        float, Field(ge=-180, le=180, description="of the lattice against the scan's x axis, degrees")
    ] = 11.0
    vacancies: Annotated[
        float,
        Field(
            ge=0, le=5, description="vacancies of a two-dimensional crystal, chalcogen or carbon, per nm²; 0: perfect"
        ),
    ] = 0.5
    phonon_configurations: Annotated[
        int, Field(ge=0, le=64, description="frozen-phonon configurations averaged in each pattern; 0: atoms at rest")
    ] = 0
    seed: Annotated[int, Field(ge=0)] = 0

    @model_validator(mode="before")
    @classmethod
    def _structure_is_a_material(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("structure") is not None:
            return {"material": "file"} | values
        return values

    @model_validator(mode="after")
    def _consistent(self) -> SpecimenOptions:
        if (self.material == "file") != (self.structure is not None):
            msg = f"material {self.material!r} and structure {self.structure!r}: a structure goes with material 'file' only"
            raise ValueError(msg)
        if self.thickness is not None and self.material in FLAT:
            msg = f"thickness {self.thickness:g}: {self.material} has its own; leave it out"
            raise ValueError(msg)
        if self.thickness is not None and self.material == "protein-ice" and self.thickness < 40:
            msg = f"thickness {self.thickness:g}: the ice has to hold its particles, at least 40 Å"
            raise ValueError(msg)
        return self


@dataclass(frozen=True)
class Specimen:
    """Atoms in a square of `options.size` Å.

    Attributes:
        options: what was asked for.
        positions: (n, 3), (y, x, z), Å.
        numbers: (n,) atomic numbers.
        layer: (n,) index of the slice an atom is projected into, 0 at the entrance surface.
        layer_depth: z of the plane that each slice is projected into, Å; the metal plane of an MX2 layer.
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

    @property
    def middle_depth(self) -> float:
        """Depth of the middle plane below the entrance surface, Å: half way between the outermost atomic planes.

        A reconstruction with one slice measures the defocus of this plane, which is that of the entrance surface less this
        depth.
        """
        return 0.5 * float(self.positions[:, 2].max()) if len(self.positions) else 0.0


def build_specimen(options: SpecimenOptions | None = None) -> Specimen:
    """Put the atoms in their places; the same options give the same specimen.

    Vacancies are drawn one by one over the whole flake, so that no two places of it are alike.

    Args:
        options: material, size and imperfections; None: the defaults.
    """
    options = options or SpecimenOptions()
    atoms = _without_vacancies(_atoms(options), options)
    return Specimen(options, atoms.positions, atoms.numbers, atoms.layer, atoms.layer_depth)


def _atoms(options: SpecimenOptions) -> Atoms:
    size, orientation = options.size, options.orientation
    match options.material:
        case "2h-mos2":
            return bilayer("MoS2", "MoS2", size, orientation)
        case "twisted-mos2":
            return bilayer("MoS2", "MoS2", size, orientation, options.twist)
        case "2h-wse2":
            return bilayer("WSe2", "WSe2", size, orientation)
        case "mose2-ws2":
            return bilayer("MoSe2", "WS2", size, orientation)
        case "graphene":
            return graphene(size, orientation)
        case "vacuum":
            return Atoms.none()
        case "file":
            assert options.structure is not None
            return from_file(options.structure, size, orientation, options.thickness, options.slice_thickness)
    thickness = options.thickness or THICKNESS[options.material]
    if options.material == "srtio3":
        return strontium_titanate(size, orientation, thickness)
    make = gold_in_carbon if options.material == "gold-carbon" else protein_in_ice
    return make(size, thickness, np.random.default_rng([options.seed, 5]))


def _without_vacancies(atoms: Atoms, options: SpecimenOptions) -> Atoms:
    rng = np.random.default_rng([options.seed, 1])
    if options.material not in FLAT or not len(atoms.numbers):
        return atoms
    sites = np.flatnonzero(np.isin(atoms.numbers, _VACANT))
    missing = rng.choice(sites, size=round(options.vacancies * (options.size / 10) ** 2), replace=False)
    keep = np.ones(len(atoms.numbers), dtype=bool)
    keep[missing] = False
    return atoms.chosen(keep)


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
    elements, element = np.unique(specimen.numbers, return_inverse=True)
    rms = np.array([DISPLACEMENTS.get(int(number), _DISPLACEMENT) for number in elements])[element]
    displacements: NDArray[np.float64] = rng.standard_normal(specimen.positions.shape) * rms[:, None]
    return -displacements if odd else displacements
