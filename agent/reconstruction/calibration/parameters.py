"""The parameters of the optics that can be measured: their names, where they live in `DiffractionData`, and their scale.

Defocus in Å; aberrations in Cartesian Krivanek notation (C12a = C12 cos 2φ12, C12b = C12 sin 2φ12, …), Å; `rotation` in rad,
added to `detector_to_scan`; `row` and `column` of the disc centre in pixels; `scale`, relative, of the scan about its middle.
Counts go with the variances of what is averaged over, so these are parameters, Å²: `source_variance`, the mean along the source's
axes; `source_a`, `source_b`, half their difference times cos 2φ and sin 2φ of the major axis; `focus_variance`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import replace

import numpy as np

from agent.reconstruction.model import probe
from agent.reconstruction.model.coherence import FWHM, SourceSize, source_matrix, source_of
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
    "source": ("source_variance",),
    "ellipse": ("source_variance", "source_a", "source_b"),
    "focal_spread": ("focus_variance",),
    "drift": ("stretch", "shear"),
}
"""Name in `ReconstructionSettings.refine_optics` -> its parameters."""
ROTATION_WIDTH, CENTRE_WIDTH, SCALE_WIDTH = 0.03, 0.5, 0.02
"""What a calibration leaves open: rad, detector pixels, relative."""
DEFOCUS_WIDTH = 0.05
"""By how much a nominal defocus is off, relative, besides what turns the phase at the aperture's rim by 1 rad."""


VARIANCES = ("source_variance", "focus_variance")
"""Parameters that cannot be negative."""
DRIFT_WIDTH = 0.01
"""By how much drift stretches or shears a scan, relative."""
SOURCE = ("source_variance", "source_a", "source_b")
INCOHERENCE = (*SOURCE, "focus_variance")
SOURCE_WIDTH = 0.065
"""Variance, Å², of a source that nothing is known of: 0.6 Å FWHM."""
USUAL_SOURCE, USUAL_ENERGY_SPREAD, USUAL_CHROMATIC_ABERRATION = 0.6, 0.5, 1.2e7
"""FWHM, Å; eV FWHM; Å."""


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
    if name in ("stretch", "shear"):
        return DRIFT_WIDTH
    if name in SOURCE:
        rim = 2 * np.pi * optics.spatial_frequency(data.semiangle, data.voltage)
        return float(1 / rim**2 + value(data, "source_variance") / 2)
    if name == "focus_variance":
        return unit(data, "defocus") ** 2 + data.focal_spread**2 / 2
    order = 2 if name == "defocus" else int(name[1]) + 1
    return order * optics.wavelength(data.voltage) / (2 * np.pi * (data.semiangle * 1e-3) ** order)


def widths(data: DiffractionData, groups: Iterable[str]) -> dict[str, float]:
    """Standard deviation of each parameter before the data were looked at, where nothing better is known."""
    result = {name: unit(data, name) for name in members(groups)}
    if "defocus" in result:
        result["defocus"] += DEFOCUS_WIDTH * abs(data.defocus)
    for name in result.keys() & {*INCOHERENCE}:
        usual = usual_focal_spread(data) ** 2 if name == "focus_variance" else SOURCE_WIDTH
        result[name] = float(np.hypot(usual, value(data, "focus_variance" if name == "focus_variance" else SOURCE[0])))
    return result


def value(data: DiffractionData, name: str) -> float:
    """A parameter as it is; 0 for `rotation` and `scale`, which are counted from where they are."""
    if name == "defocus":
        return data.defocus
    if name in ("rotation", "scale", "stretch", "shear"):
        return 0.0
    if name in ("row", "column"):
        axis = ("row", "column").index(name)
        return float(data.patterns.shape[1 + axis] // 2 if data.centre is None else data.centre[axis])
    if name == "focus_variance":
        return data.focal_spread**2
    if name in SOURCE:
        root = source_matrix(data.source_size) / FWHM
        (yy, yx), (_, xx) = root @ root
        return float({"source_variance": (yy + xx) / 2, "source_a": (xx - yy) / 2, "source_b": yx}[name])
    return float(probe.cartesian(data.aberrations).get(name, 0.0))


def with_values(data: DiffractionData, values: Mapping[str, float]) -> DiffractionData:
    """`data` with the parameters named replaced."""
    coefficients = probe.cartesian(data.aberrations)
    source = {name: value(data, name) for name in SOURCE}
    for name, number in values.items():
        if name in source:
            source[name] = float(number)
        elif name == "focus_variance":
            data = replace(data, focal_spread=math.sqrt(max(float(number), 0.0)))
        elif name == "defocus":
            data = replace(data, defocus=float(number))
        elif name == "rotation":
            matrix = np.eye(2) if data.detector_to_scan is None else data.detector_to_scan
            data = replace(data, detector_to_scan=optics.detector_to_scan(number) @ matrix)
        elif name in ("row", "column"):
            centre = {axis: value(data, axis) for axis in ("row", "column")} | {name: float(number)}
            data = replace(data, centre=(centre["row"], centre["column"]))
        elif name in ("stretch", "shear"):
            rows = data.positions[:, 0]
            moved = data.positions.copy()
            moved[:, 0 if name == "stretch" else 1] += number * (rows - (rows.min() + rows.max()) / 2)
            data = replace(data, positions=moved)
        elif name == "scale":
            middle = (data.positions.min(axis=0) + data.positions.max(axis=0)) / 2
            data = replace(data, positions=middle + (1 + number) * (data.positions - middle))
        else:
            coefficients[name] = float(number)
            if len(name) == 4:
                coefficients.setdefault(name[:3] + ("b" if name[3] == "a" else "a"), 0.0)
    if values.keys() & source.keys():
        data = replace(data, source_size=_source(*source.values()))
    return replace(data, aberrations=probe.polar(coefficients))


def with_usual_coherence(data: DiffractionData) -> DiffractionData:
    """`data` with the source and the focal spread of a usual column where it has none."""
    if data.focal_spread or source_matrix(data.source_size).any():
        return data
    return replace(data, source_size=USUAL_SOURCE, focal_spread=usual_focal_spread(data))


def usual_focal_spread(data: DiffractionData) -> float:
    """Å, of USUAL_ENERGY_SPREAD and USUAL_CHROMATIC_ABERRATION (Kirkland, 2nd ed., eq. 3.41)."""
    rest = optics.ELECTRON_REST_ENERGY
    relativistic = (1 + data.voltage / rest) / (1 + data.voltage / (2 * rest))
    return USUAL_CHROMATIC_ABERRATION * USUAL_ENERGY_SPREAD / FWHM / data.voltage * relativistic


def most_incoherent(data: DiffractionData, names: Iterable[str]) -> DiffractionData:
    """`data` as incoherent as a search of the parameters named will look at: the modes of that describe all others as well."""
    wide = {name: value(data, name) + 2 * unit(data, name) for name in (SOURCE[0], "focus_variance") if name in names}
    return with_values(data, wide) if wide else data


def deviations(data: DiffractionData, sd: Mapping[str, float]) -> dict[str, float]:
    """Standard deviations of `source_size` (mean FWHM, Å) and `focal_spread` (Å) where those of their variances are known.

    Args:
        data: with the values found.
        sd: parameter -> standard deviation, in its unit.
    """
    result = {}
    for name, told, factor in (("source_variance", "source_size", FWHM), ("focus_variance", "focal_spread", 1.0)):
        if name in sd:
            variance = value(data, name)
            result[told] = factor * (math.sqrt(variance + sd[name]) - math.sqrt(variance))
    return result


def _source(mean: float, a: float, b: float) -> SourceSize:
    """The source whose covariance, (y, x), Å², is [[mean − a, b], [b, mean + a]]; variances below 0 are none."""
    values, vectors = np.linalg.eigh(np.array([[mean - a, b], [b, mean + a]]))
    return source_of(FWHM * (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T)
