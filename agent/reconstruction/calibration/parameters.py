"""The parameters of the optics that can be measured: their names, where they live in `DiffractionData`, and their scale.

Defocus in Å; aberrations in Cartesian Krivanek notation (C12a = C12 cos 2φ12, C12b = C12 sin 2φ12, …), Å; `rotation` in rad,
added to `detector_to_scan`; `row` and `column` of the disc centre in pixels; `scale`, relative, of the scan about its middle.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

import numpy as np

from agent.reconstruction.model import probe
from agent.reconstruction.model.data import DiffractionData
from instrument import optics
from instrument.errors import BadInputError

GROUPS: Mapping[str, tuple[str, ...]] = {
    "defocus": ("defocus",),
    "C12": ("C12a", "C12b"),
    "C21": ("C21a", "C21b"),
    "C23": ("C23a", "C23b"),
    "C30": ("C30",),
    "C32": ("C32a", "C32b"),
    "C34": ("C34a", "C34b"),
    "rotation": ("rotation",),
    "centre": ("row", "column"),
}
"""Name in `ReconstructionSettings.refine_optics` -> its parameters."""
ROTATION_WIDTH, CENTRE_WIDTH, SCALE_WIDTH = 0.03, 0.5, 0.02
"""What a calibration leaves open: rad, detector pixels, relative."""
DEFOCUS_WIDTH = 0.05
"""By how much a nominal defocus is off, relative, besides what turns the phase at the aperture's rim by 1 rad."""


def members(groups: Iterable[str]) -> tuple[str, ...]:
    """The parameters of the quantities named. Raises BadInputError for an unknown name."""
    names: list[str] = []
    for group in groups:
        if group not in GROUPS:
            msg = f"refine_optics: unknown name {group!r}; known: {', '.join(GROUPS)}"
            raise BadInputError(msg)
        names += [name for name in GROUPS[group] if name not in names]
    return tuple(names)


def unit(data: DiffractionData, name: str) -> float:
    """Natural scale of a parameter: an aberration that turns the phase at the aperture's rim by 1 rad, or a similar effect."""
    if name == "rotation":
        return ROTATION_WIDTH
    if name in ("row", "column"):
        return CENTRE_WIDTH
    if name == "scale":
        return SCALE_WIDTH
    order = 2 if name == "defocus" else int(name[1]) + 1
    return order * optics.wavelength(data.voltage) / (2 * np.pi * (data.semiangle * 1e-3) ** order)


def widths(data: DiffractionData, groups: Iterable[str]) -> dict[str, float]:
    """Standard deviation of each parameter before the data were looked at, where nothing better is known."""
    result = {name: unit(data, name) for name in members(groups)}
    if "defocus" in result:
        result["defocus"] += DEFOCUS_WIDTH * abs(data.defocus)
    return result


def value(data: DiffractionData, name: str) -> float:
    """A parameter as it is; 0 for `rotation` and `scale`, which are counted from where they are."""
    if name == "defocus":
        return data.defocus
    if name in ("rotation", "scale"):
        return 0.0
    if name in ("row", "column"):
        axis = ("row", "column").index(name)
        return float(data.patterns.shape[1 + axis] // 2 if data.centre is None else data.centre[axis])
    return float(probe.cartesian(data.aberrations).get(name, 0.0))


def with_values(data: DiffractionData, values: Mapping[str, float]) -> DiffractionData:
    """`data` with the parameters named replaced."""
    coefficients = probe.cartesian(data.aberrations)
    for name, number in values.items():
        if name == "defocus":
            data = replace(data, defocus=float(number))
        elif name == "rotation":
            matrix = np.eye(2) if data.detector_to_scan is None else data.detector_to_scan
            data = replace(data, detector_to_scan=optics.detector_to_scan(number) @ matrix)
        elif name in ("row", "column"):
            centre = {axis: value(data, axis) for axis in ("row", "column")} | {name: float(number)}
            data = replace(data, centre=(centre["row"], centre["column"]))
        elif name == "scale":
            middle = (data.positions.min(axis=0) + data.positions.max(axis=0)) / 2
            data = replace(data, positions=middle + (1 + number) * (data.positions - middle))
        else:
            coefficients[name] = float(number)
            if len(name) == 4:
                coefficients.setdefault(name[:3] + ("b" if name[3] == "a" else "a"), 0.0)
    return replace(data, aberrations=probe.polar(coefficients))
