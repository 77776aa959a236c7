# SPDX-License-Identifier: GPL-3.0-or-later
"""What the simulated instrument knows and never tells: for tests and reports only, in a file of its own."""

from __future__ import annotations

import os
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from instrument import Rectangle, optics
from sim_instrument.column import Column
from sim_instrument.potential import true_potential
from sim_instrument.specimen import Specimen

PIXEL = 0.2
"""Å, of the file."""
_TILE = 100.0


def true_phase(
    specimen: Specimen,
    rectangle: Rectangle,
    pixel: float,
    voltage: float = 80e3,
    present: NDArray[np.bool_] | None = None,
) -> NDArray[np.float32]:
    """The phase shift of the whole specimen, atoms at rest, projected along the beam.

    Args:
        specimen: the atoms.
        rectangle: window, Å, specimen frame.
        pixel: Å.
        voltage: beam energy, eV.
        present: (n,) which atoms damage has left; None: all.

    Returns:
        (y, x) rad, at rectangle.y + i · pixel, rectangle.x + j · pixel.
    """
    return true_potential(specimen, rectangle, pixel, present) * np.float32(optics.interaction_parameter(voltage))


def true_defocus(column: Column, specimen: Specimen, nominal: float) -> float:
    """The defocus of the specimen's middle plane, which is what a reconstruction with one slice measures.

    Nominal and true defocus of a column refer to the entrance surface; the middle plane lies `specimen.middle_depth` below
    it, and sees that much less underfocus.

    Args:
        column: true parameters.
        specimen: the atoms.
        nominal: set-point, Å, positive for underfocus.

    Returns:
        Å, positive for underfocus.
    """
    return column.true_defocus(nominal) - specimen.middle_depth


def write_truth(path: Path, specimen: Specimen, column: Column, pixel: float = PIXEL) -> None:
    """Write projected potential and phase of the pristine flake and all true parameters to an HDF5 file.

    Pixel (i, j) lies at (i, j) · pixel in the specimen frame. The file appears complete or not at all.

    Args:
        path: of the file; replaced if it exists.
        specimen: the flake.
        column: true parameters.
        pixel: Å.
    """
    size = specimen.options.size
    n = round(size / pixel)
    tile = round(_TILE / pixel)
    part = path.with_name(path.name + ".part")
    with h5py.File(part, "w") as file:
        file.attrs["description"] = "truth of a simulated microscope; the agent has no way to it"
        potential = file.create_dataset(
            "projected_potential", (n, n), np.float32, chunks=(tile, tile), compression="gzip"
        )
        phase = file.create_dataset("phase", (n, n), np.float32, chunks=(tile, tile), compression="gzip")
        potential.attrs["units"], phase.attrs["units"] = "V Å", "rad"
        for dataset in (potential, phase):
            dataset.attrs.update({"pixel_size": pixel, "origin": (0.0, 0.0), "axes": "y, x, Å, specimen frame"})
        interaction = optics.interaction_parameter(column.voltage)
        for y in range(0, n, tile):
            for x in range(0, n, tile):
                rows, columns = min(tile, n - y), min(tile, n - x)
                window = Rectangle(y=y * pixel, x=x * pixel, height=rows * pixel, width=columns * pixel)
                values = true_potential(specimen, window, pixel)
                potential[y : y + rows, x : x + columns] = values
                phase[y : y + rows, x : x + columns] = interaction * values
        atoms = file.create_group("atoms")
        atoms.create_dataset("positions", data=specimen.positions).attrs["units"] = "Å"
        atoms["positions"].attrs["axes"] = "y, x, z"
        atoms["numbers"] = specimen.numbers
        _attributes(file.create_group("specimen"), specimen.options.model_dump())
        file["specimen"].attrs["middle_depth"] = specimen.middle_depth
        _attributes(file.create_group("column"), column.model_dump())
        file["column"].attrs["focal_spread"] = column.focal_spread
    os.replace(part, path)


def _attributes(group: h5py.Group, values: dict[str, object]) -> None:
    for name, value in values.items():
        if isinstance(value, dict):
            _attributes(group.create_group(name), value)
        elif value is not None:
            group.attrs[name] = value
