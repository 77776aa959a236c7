# SPDX-License-Identifier: GPL-3.0-or-later
"""The column, the scan engine and the detector with all their faults, each a number that can be set to 0.

The defaults are those of a good, real, aberration-corrected 80 kV instrument with a fast pixelated detector.
"""

from __future__ import annotations

import math
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from instrument import optics
from instrument.errors import OutOfLimitsError
from instrument.models import ELEMENTARY_CHARGE, same_angle
from sim_instrument.data_faults import NO_DATA_FAULTS, DataFaults

NonNegative = Annotated[float, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
CONTRAST = 3.0
"""How much brighter than the mean of the bright-field disc a pixel may be before it saturates."""
FWHM = 2 * math.sqrt(2 * math.log(2))
"""Full width at half maximum of a Gaussian of standard deviation 1."""

RESIDUAL_ABERRATIONS = {
    "C12": 10.0,
    "phi12": 0.7,
    "C21": 150.0,
    "phi21": -1.1,
    "C23": 250.0,
    "phi23": 0.4,
    "C30": 1.0e4,
}
"""What is left after alignment: two-fold astigmatism 1 nm, coma 15 nm, three-fold astigmatism 25 nm, C3 1 µm."""


class Column(DataFaults):
    """Everything about the instrument but the specimen. True values; only `nominal_rotation` is what is advertised."""

    voltage: Annotated[float, Field(ge=2e4, le=3e5, description="eV")] = 80e3
    semiangle: Annotated[float, Field(ge=5, le=50, description="convergence semi-angle, mrad")] = 21.4
    beam_current: Positive = Field(default=2.0, description="pA")
    apertures: tuple[Annotated[float, Field(ge=5, le=50)], ...] = Field(
        default=(), description="semi-angles that may be chosen, mrad, `semiangle` among them; (): it is fixed"
    )
    aperture_currents: tuple[Positive, ...] = Field(
        default=(), description="pA with each of `apertures`; (): `beam_current` times the ratio of areas"
    )

    defocus_offset: float = Field(default=25.0, description="true minus nominal defocus at nominal 0, Å")
    defocus_scale: Positive = Field(default=1.02, description="true change of defocus per nominal change")
    aberrations: dict[str, float] = Field(
        default_factory=RESIDUAL_ABERRATIONS.copy,
        description="residual, Krivanek polar in the scan's frame, Å and rad; C10 is set by the defocus",
    )
    source_size: NonNegative = Field(default=0.5, description="image of the source in the specimen plane, Å FWHM")
    energy_spread: NonNegative = Field(default=0.3, description="eV FWHM")
    chromatic_aberration: NonNegative = Field(default=1.0, description="Cc, mm")

    jitter: NonNegative = Field(default=0.05, description="random error of each probe position, Å rms along each axis")
    drift: NonNegative = Field(default=0.3, description="Å/s")
    drift_direction: float = Field(default=0.6, description="rad, from the scan's x axis towards y")
    rotation: float = Field(default=0.21, description="takes a detector direction to the scan's frame, rad")
    rotation_error: float = Field(default=0.01, description="true minus advertised rotation, rad")
    mirrored: bool = Field(default=False, description="detector rows and scan rows of opposite hand")

    detector_pixels: Annotated[int, Field(ge=32, le=512, multiple_of=16, description="pixels along each edge")] = 128
    angular_pixel: Positive = Field(default=1.096, description="mrad per pixel")
    pixel_area: bool = Field(default=True, description="integrate over the area of each pixel (else sample its centre)")
    point_spread: NonNegative = Field(default=0.4, description="Gaussian point spread, pixels rms")
    dead_pixels: Annotated[int, Field(ge=0, le=1000)] = 4
    hot_pixels: Annotated[int, Field(ge=0, le=1000)] = 3
    hot_rate: NonNegative = Field(default=500.0, description="false counts of a hot pixel, 1/s")
    saturation: Annotated[int, Field(ge=1, le=65535, description="largest count of a pixel")] = 4095
    max_frame_rate: Positive = Field(default=1e4, description="1/s")
    dwell_times: tuple[Positive, ...] | None = Field(
        default=None, min_length=1, description="the only dwell times that the scan engine has, s; None: any"
    )
    readout: NonNegative = Field(default=0.0, description="dead time of the detector, s per pattern, beam on")
    shot_noise: bool = Field(default=True, description="Poisson noise (else expected counts, rounded)")

    flyback: NonNegative = Field(default=1e-4, description="s per scan line")
    flyback_blanked: bool = Field(
        default=False, description="beam off during flyback and while waiting for a line trigger"
    )
    line_trigger: NonNegative = Field(default=0.0, description="mains frequency that each line waits for, Hz; 0: none")
    settle: NonNegative = Field(default=0.1, description="s before a scan, beam blanked")
    knock_on: NonNegative = Field(
        default=1.8,
        description="cross-section for sputtering a sulphur atom, barn; the default has the order of what is known at 80 kV",
    )
    max_defocus: Positive = Field(default=1000.0, description="largest nominal |defocus|, Å")

    @model_validator(mode="after")
    def _known_aberrations(self) -> Column:
        unknown = set(self.aberrations) - set(optics.ABERRATIONS) | ({"C10"} & set(self.aberrations))
        if unknown:
            msg = f"aberrations: {sorted(unknown)[0]} cannot be set here; known: {', '.join(optics.ABERRATIONS[1:])}"
            raise ValueError(msg)
        widest = max((self.semiangle, *self.apertures))
        if widest >= 0.5 * self.detector_pixels * self.angular_pixel:
            msg = (
                f"the bright-field disc of {widest:g} mrad does not fit on a detector that reaches "
                f"{0.5 * self.detector_pixels * self.angular_pixel:g} mrad; take more pixels or a larger angular pixel"
            )
            raise ValueError(msg)
        if self.dwell_electrons == ():
            shortest, longest = (1e6 * e / self.electrons_per_second for e in self._frame_limits)
            msg = (
                f"no dwell time lies between the shortest frame, {shortest:.4g} µs, and the one that saturates, "
                f"{longest:.4g} µs; give another dwell time, beam current or frame rate"
            )
            raise ValueError(msg)
        return self

    @model_validator(mode="after")
    def _offers_its_own_aperture(self) -> Column:
        if self.apertures and (self.semiangle not in self.apertures or len(set(self.apertures)) < len(self.apertures)):
            told = ", ".join(f"{angle:g}" for angle in self.apertures)
            msg = f"apertures: {told} mrad have to differ, and the semiangle of {self.semiangle:g} mrad has to be one of them"
            raise ValueError(msg)
        if self.aperture_currents and len(self.aperture_currents) != len(self.apertures):
            msg = f"aperture_currents: {len(self.aperture_currents)} currents for {len(self.apertures)} apertures"
            raise ValueError(msg)
        stated = dict(zip(self.apertures, self.aperture_currents, strict=False)).get(self.semiangle, self.beam_current)
        if not math.isclose(stated, self.beam_current, rel_tol=1e-6):
            msg = (
                f"aperture_currents: {stated:g} pA through the aperture that is in at first, but the beam current is "
                f"{self.beam_current:g} pA; make both the same"
            )
            raise ValueError(msg)
        for angle in self.apertures:
            if self.through(angle).dwell_electrons == ():
                msg = f"apertures: no dwell time is possible with that of {angle:g} mrad; leave it out, or give another"
                raise ValueError(msg)
        return self

    def through(self, semiangle: float | None) -> Column:
        """The column with one of its apertures in.

        Args:
            semiangle: mrad; None: the present one.

        Raises:
            OutOfLimitsError: there is no such aperture.
        """
        if semiangle is None or (not self.apertures and same_angle(semiangle, self.semiangle)):
            return self
        index = next((i for i, angle in enumerate(self.apertures) if same_angle(angle, semiangle)), None)
        if index is None:
            legal = ", ".join(f"{angle:g}" for angle in sorted(self.apertures) or [self.semiangle])
            msg = f"semiangle of {semiangle:g} mrad is not possible here; legal: {legal} mrad"
            raise OutOfLimitsError(msg, parameter="semiangle", value=semiangle)
        angle = self.apertures[index]
        current = self.beam_current * (angle / self.semiangle) ** 2
        if self.aperture_currents:
            current = self.aperture_currents[index]
        chosen = {"semiangle": angle, "beam_current": current, "apertures": (), "aperture_currents": ()}
        return self.model_copy(update=chosen)

    @classmethod
    def ideal(cls, **changes: Any) -> Column:
        """A column without any fault but shot noise.

        Args:
            changes: fields that are set all the same.
        """
        return cls.model_validate(FAULTLESS | changes)

    @property
    def electrons_per_second(self) -> float:
        """Electrons per second in the probe."""
        return self.beam_current * 1e-12 / ELEMENTARY_CHARGE

    @property
    def electrons_per_pattern(self) -> tuple[float, float]:
        """Fewest and most electrons of a pattern that frame rate, dwell times and saturation allow."""
        values = self.dwell_electrons
        return self._frame_limits if values is None else (values[0], values[-1])

    @property
    def dwell_electrons(self) -> tuple[float, ...] | None:
        """Electrons of a pattern for each possible dwell time, ascending; None: any within the limits."""
        if self.dwell_times is None:
            return None
        fewest, most = self._frame_limits
        electrons = (time * self.electrons_per_second for time in sorted(set(self.dwell_times)))
        return tuple(e for e in electrons if fewest * (1 - 1e-6) <= e <= most)

    @property
    def _frame_limits(self) -> tuple[float, float]:
        """Electrons of the shortest frame, and of one in which the bright-field disc just does not saturate."""
        disc = math.pi * (self.semiangle / self.angular_pixel) ** 2
        return self.electrons_per_second / self.max_frame_rate, self.saturation * disc / CONTRAST

    @property
    def focal_spread(self) -> float:
        """Standard deviation of the defocus from the energy spread, Å (Kirkland, 2nd ed., eq. 3.41)."""
        rest = optics.ELECTRON_REST_ENERGY
        relativistic = (1 + self.voltage / rest) / (1 + self.voltage / (2 * rest))
        return self.chromatic_aberration * 1e7 * self.energy_spread / FWHM / self.voltage * relativistic

    @property
    def aberration_spread(self) -> float:
        """By how much the aberrations can widen the geometric probe, its diameter, Å: twice Σ C αⁿ."""
        alpha = 1e-3 * self.semiangle
        return 2 * sum(abs(value) * alpha ** int(name[1]) for name, value in self.aberrations.items() if name[0] == "C")

    @property
    def nominal_rotation(self) -> float:
        """The rotation the facility believes in, rad."""
        return self.rotation - self.rotation_error

    @property
    def nominal_spherical_aberration(self) -> float:
        """C3,0 as the maker states it, Å, in steps of 0.05 mm; 0 of a corrected column."""
        return 5e5 * round(self.aberrations.get("C30", 0.0) / 5e5)

    def true_defocus(self, nominal: float) -> float:
        """The defocus that the column has where another is asked for.

        Args:
            nominal: set-point, Å, positive for underfocus.

        Returns:
            Å, positive for underfocus.
        """
        return self.defocus_scale * nominal + self.defocus_offset

    def drift_velocity(self) -> NDArray[np.float64]:
        """(2,) velocity (y, x) of the specimen, Å/s."""
        return self.drift * np.array([math.sin(self.drift_direction), math.cos(self.drift_direction)])


FAULTLESS: dict[str, Any] = {
    "defocus_offset": 0.0,
    "defocus_scale": 1.0,
    "aberrations": {},
    "source_size": 0.0,
    "energy_spread": 0.0,
    "jitter": 0.0,
    "drift": 0.0,
    "rotation": 0.0,
    "rotation_error": 0.0,
    "point_spread": 0.0,
    "dead_pixels": 0,
    "hot_pixels": 0,
    "readout": 0.0,
    "flyback": 0.0,
    "line_trigger": 0.0,
    "settle": 0.0,
    "knock_on": 0.0,
    **NO_DATA_FAULTS,
}
"""The value of each fault that switches it off."""
