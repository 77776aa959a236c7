"""A column as a description announces it, with what no description says drawn by seed."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import numpy as np

from agent.records import Optics
from instrument import optics
from instrument.models import Description

RESIDUAL_PHASE = 0.4
"""rad rms at the aperture's edge that alignment leaves of each aberration."""
SOURCE_SIZES = (0.3, 0.9)
"""Å FWHM, uniform between."""
FOCAL_SPREADS = (10.0, 50.0)
"""Å at 80 kV, of energy spreads from 0.2 to 1 eV and Cc of about 1 mm; it falls with the voltage."""
LARGEST_JITTER = 0.12
"""Å rms along each axis."""
CALIBRATION = 0.02
"""Relative error of the defocus that the reconstruction is told."""
INCOHERENCE = 0.15
"""Relative standard deviation of a measured source size or focal spread that none is told of."""
FARTHEST = 1.35
"""1/Å, to which the detector is simulated where it reaches farther: no score counts what lies beyond."""


@dataclass(frozen=True)
class TwinColumn:
    """Everything that a simulated picture needs to know of a column.

    Attributes:
        voltage: eV.
        semiangle: mrad.
        angular_pixel: mrad.
        pixels: along each edge of the detector.
        aberrations: residual, Krivanek polar, Å and rad, without defocus.
        source_size: Å FWHM.
        focal_spread: standard deviation, Å.
        jitter: error of each position, Å rms along each axis.
        defocus_error: relative, of what the reconstruction is told.
        told: aberrations that the reconstruction is told, as `aberrations`.
        told_source_size: FWHM that the reconstruction is told, Å; None: the true one.
        told_focal_spread: likewise, Å.
    """

    voltage: float
    semiangle: float
    angular_pixel: float
    pixels: int
    aberrations: dict[str, float]
    source_size: float
    focal_spread: float
    jitter: float
    defocus_error: float
    told: dict[str, float] = field(default_factory=dict)
    told_source_size: float | None = None
    told_focal_spread: float | None = None

    @property
    def window(self) -> float:
        """1/Δk, Å."""
        return optics.wavelength(self.voltage) / (1e-3 * self.angular_pixel)

    def defocus(self, part: float) -> float:
        """Defocus, Å, at which the geometric probe disc fills a part of the window, with the sign of the part."""
        return part * self.window / (2e-3 * self.semiangle)


def draw_column(description: Description, rng: np.random.Generator) -> TwinColumn:
    """A column that could stand behind a description.

    Args:
        description: of the instrument.
        rng: that draws the rest.
    """
    voltage, semiangle = description.voltage, description.semiangle
    aberrations: dict[str, float] = {}
    for name in ("C12", "C21", "C23", "C30"):
        size = rng.normal(0, RESIDUAL_PHASE) * per_radian(name, description)
        aberrations[name] = size if name == "C30" else abs(size)
        if name != "C30":
            aberrations["phi" + name[1:]] = rng.uniform(-math.pi, math.pi) / int(name[2])
    detector = description.detector
    return TwinColumn(
        voltage=voltage,
        semiangle=semiangle,
        angular_pixel=detector.angular_pixel,
        pixels=_pixels(description),
        aberrations=aberrations,
        source_size=rng.uniform(*SOURCE_SIZES),
        focal_spread=rng.uniform(*FOCAL_SPREADS) * 8e4 / voltage,
        jitter=rng.uniform(0, LARGEST_JITTER),
        defocus_error=rng.normal(0, CALIBRATION),
    )


def draw_measured_column(description: Description, known: Optics, rng: np.random.Generator) -> TwinColumn:
    """A column that could have been measured as it was.

    What has a standard deviation lies about its value; what was not found is drawn as by `draw_column`.

    Args:
        description: of the instrument.
        known: the optics as a campaign has measured them, which its reconstructions are told.
        rng: that draws the rest.
    """
    column = draw_column(description, rng)
    aberrations = dict(column.aberrations)
    told = {name: value for name, value in known.aberrations.items() if name != "C10"}
    for name in sorted(n for n in optics.ABERRATIONS if n != "C10" and (n in told or n in known.sd) and n[0] == "C"):
        # What has no sd is as the instrument says; alignment misses it as it misses 0.
        value, sd = told.get(name, 0.0), known.sd.get(name, RESIDUAL_PHASE * per_radian(name, description))
        aberrations[name] = rng.normal(value, sd)
        m = int(name[2])
        if m:
            angle = "phi" + name[1:]
            across = known.sd[angle] * m * abs(value) if angle in known.sd and value else sd
            along, beside = aberrations[name], rng.normal(0, across)
            aberrations[name] = math.hypot(along, beside)
            aberrations[angle] = told.get(angle, 0.0) + math.atan2(beside, along) / m
    source = _about(known.source_size, known.sd.get("source_size"), rng) or column.source_size
    spread = _about(known.focal_spread, known.sd.get("focal_spread"), rng) or column.focal_spread
    return replace(
        column,
        aberrations=aberrations,
        source_size=source,
        focal_spread=spread,
        told=told,
        told_source_size=known.source_size or None,
        told_focal_spread=known.focal_spread or None,
    )


def per_radian(name: str, description: Description) -> float:
    """Å of an aberration that make 1 rad at the aperture's edge.

    Args:
        name: in `optics.ABERRATIONS`, of a coefficient.
        description: of the instrument.
    """
    order = int(name[1]) + 1
    wavelength, angle = optics.wavelength(description.voltage), 1e-3 * description.semiangle
    return order * wavelength / (2 * math.pi * angle**order)


def _about(value: float, sd: float | None, rng: np.random.Generator) -> float:
    """A width about a measured one; 0: it was not measured."""
    return abs(rng.normal(value, INCOHERENCE * value if sd is None else sd)) if value else 0.0


def _pixels(description: Description) -> int:
    """Along an edge: as many as FARTHEST and the disc ask for, in steps of 16, at most the detector's."""
    detector = description.detector
    reach = max(FARTHEST, 1.2 * optics.spatial_frequency(description.semiangle, description.voltage))
    per_pixel = optics.spatial_frequency(detector.angular_pixel, description.voltage)
    return min(math.ceil(2 * reach / per_pixel / 16) * 16, min(detector.shape) // 2 * 2)
