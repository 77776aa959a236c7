"""A column as a description announces it, with what no description says drawn by seed."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

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
        order = int(name[1]) + 1
        per_radian = order * optics.wavelength(voltage) / (2 * math.pi * (1e-3 * semiangle) ** order)
        size = rng.normal(0, RESIDUAL_PHASE) * per_radian
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


def _pixels(description: Description) -> int:
    """Along an edge: as many as FARTHEST and the disc ask for, in steps of 16, at most the detector's."""
    detector = description.detector
    reach = max(FARTHEST, 1.2 * optics.spatial_frequency(description.semiangle, description.voltage))
    per_pixel = optics.spatial_frequency(detector.angular_pixel, description.voltage)
    return min(math.ceil(2 * reach / per_pixel / 16) * 16, min(detector.shape) // 2 * 2)
