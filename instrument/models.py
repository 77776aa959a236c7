"""What the microscope offers, as frozen records; what may be asked of it lies in `plans` and is had from here as well.

Lengths in Å, angles in mrad, energies in eV, times in s, currents in pA, doses in e/Å². Where a detector's counts per
electron are not known, read "electron" as "count": `Detector.counts_per_electron` is None then.
Defocus is signed and positive for underfocus.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import Field, model_validator

from instrument import optics
from instrument.errors import OutOfLimitsError
from instrument.plans import AcquisitionPlan, Interlacing, Outcome, PlanCheck, Reservation, ScanPattern
from instrument.records import Identifier, Record, Rectangle

__all__ = [
    "ELEMENTARY_CHARGE",
    "AcquisitionPlan",
    "Aperture",
    "BeamStop",
    "Condition",
    "Description",
    "Detector",
    "Health",
    "Identifier",
    "Interlacing",
    "Outcome",
    "Parameter",
    "PlanCheck",
    "Record",
    "Rectangle",
    "Reservation",
    "ScanPattern",
    "Slew",
]

ELEMENTARY_CHARGE = 1.602176634e-19
"""C per electron."""
WALKING_PACE = 0.1
"""s from one change to the next where a setting has only a rate."""
LONGEST_WALK = 20.0
"""s for the whole range of a setting at the pace that its slew allows."""


def _rounding(limit: float) -> float:
    # Of the limit itself: a range of doses may span six decades.
    return 1e-6 * abs(limit) + 1e-9


def same_angle(a: float, b: float) -> bool:
    """Whether two semi-angles, mrad, are those of one aperture: rounding of a relative 1e-6 is allowed."""
    return abs(a - b) <= _rounding(b)


class Parameter(Record):
    """A setting and its legal values: continuous in [minimum, maximum], one of `values`, or fixed to one value."""

    kind: Literal["continuous", "discrete", "fixed"]
    unit: str
    minimum: float | None = None
    maximum: float | None = None
    values: tuple[float, ...] | None = None

    @model_validator(mode="after")
    def _complete(self) -> Parameter:
        if self.kind == "continuous":
            if self.minimum is None or self.maximum is None or self.minimum > self.maximum:
                raise ValueError("a continuous parameter needs minimum <= maximum")
        elif not self.values or (self.kind == "fixed" and len(self.values) != 1):
            raise ValueError("a discrete parameter needs values, a fixed one exactly one")
        return self

    @property
    def bounds(self) -> tuple[float, float]:
        """Smallest and largest legal value."""
        if self.kind == "continuous":
            assert self.minimum is not None
            assert self.maximum is not None
            return self.minimum, self.maximum
        assert self.values
        return min(self.values), max(self.values)

    def legal(self) -> str:
        """The legal values in words, for messages."""
        if self.kind == "continuous":
            return f"{self.bounds[0]:g} … {self.bounds[1]:g} {self.unit}"
        assert self.values
        return ", ".join(f"{v:g}" for v in self.values) + f" {self.unit}"

    def check(self, name: str, value: float) -> None:
        """Refuse an illegal value; rounding of a relative 1e-6 is allowed.

        Args:
            name: of the parameter, for the message.
            value: in `unit`.

        Raises:
            OutOfLimitsError: with the legal values in the message.
        """
        low, high = self.bounds
        if self.kind == "continuous":
            legal = low - _rounding(low) <= value <= high + _rounding(high)
        else:
            assert self.values
            legal = any(abs(value - v) <= _rounding(v) for v in self.values)
        if not legal:
            msg = f"{name} of {value:g} {self.unit} is not possible here; legal: {self.legal()}"
            raise OutOfLimitsError(msg, parameter=name, value=value, minimum=low, maximum=high)


class Detector(Record):
    """The pixelated detector as calibrated by the facility. Angles are nominal."""

    shape: tuple[int, int] = Field(description="(detector_y, detector_x) in pixels")
    angular_pixel: Annotated[float, Field(gt=0, description="reciprocal-space sampling, mrad per pixel")]
    dtype: Literal["uint8", "uint16"]
    saturation: Annotated[int, Field(gt=0, description="largest count of a pixel")]
    counts_per_electron: float | None = Field(default=1.0, description="None: not known; doses are counts/Å²")
    dead_pixels: tuple[tuple[int, int], ...] = Field(
        default=(), description="(row, column) of pixels known not to count"
    )
    dark_counts: float = Field(default=0.0, ge=0, description="mean counts of a pixel without beam, per pattern")
    count_rate_limit: float | None = Field(
        default=None, gt=0, description="largest counts per second that a pixel bears for long; None: not known"
    )


class Slew(Record):
    """How fast one setting may change, in its own unit. The server walks where a change is larger."""

    step: float | None = Field(default=None, gt=0, description="largest change at once; None: any")
    rate: float | None = Field(default=None, gt=0, description="largest change per second; None: any")
    settle: float = Field(default=0.0, ge=0, le=10, description="s to wait after every single change")

    def portions(self, change: float) -> int:
        """In how many equal parts a change has to be made, at least 1.

        Args:
            change: of the setting, in its unit.
        """
        most = self.step if self.step is not None else math.inf
        if self.rate is not None:
            most = min(most, self.rate * max(self.settle, WALKING_PACE))
        return max(1, math.ceil(abs(change) / most - 1e-9))

    def duration(self, change: float) -> float:
        """s that a change takes.

        Args:
            change: of the setting, in its unit.
        """
        slow = 0.0 if self.rate is None else abs(change) / self.rate
        return max(self.portions(change) * self.settle, slow)


class BeamStop(Record):
    """A stop that keeps the direct beam off the detector: a setting `beam_stop` that is 1 (in) or 0 (out).

    It is in while nothing is exposed, and during exposures whose bright-field disc is brighter than `needed_above`.
    """

    needed_above: float = Field(gt=0, description="counts per second of a pixel of the bright-field disc")


class Aperture(Record):
    """A condenser aperture that may be chosen, and the beam that it lets through."""

    semiangle: Annotated[float, Field(gt=0, le=200, description="convergence semi-angle that it gives, mrad")]
    beam_current: float | None = Field(
        default=None, gt=0, description="pA with it; None: what the present one gives, times the ratio of their areas"
    )
    electrons_per_pattern: tuple[float, float] | None = Field(
        default=None, description="smallest and largest number with it; None: as dwell times and the disc's area say"
    )


class Description(Record):
    """Everything an agent may know of an instrument before it exposes anything."""

    name: str
    voltage: Annotated[
        float, Field(gt=0, le=1e7, description="beam energy, eV, above 1000; equivalent of `wavelength`")
    ]
    wavelength: float | None = Field(default=None, gt=0, description="Å, of X-rays or light; None: of electrons")
    semiangle: Annotated[float, Field(gt=0, le=200, description="convergence semi-angle, mrad")]
    beam_current: float | None = Field(default=None, description="pA; None where a recording does not say")
    apertures: tuple[Aperture, ...] = Field(
        default=(), description="all that may be chosen, the present one among them; (): `semiangle` is fixed"
    )
    detector: Detector
    step: Parameter
    defocus: Parameter
    dose: Parameter
    two_passes: Interlacing | None = Field(
        default=None, description="how it scans a field in two passes; None: it scans in one pass only"
    )
    scan_patterns: tuple[ScanPattern, ...] = Field(
        default=("raster",), min_length=1, description="in which orders its scan engine can visit a field"
    )
    electrons_per_pattern: tuple[float, float] = Field(
        description="smallest and largest number in a pattern, from frame rate, dwell time, saturation or what is recorded"
    )
    electrons_per_pattern_values: tuple[float, ...] | None = Field(
        default=None,
        description="the only legal ones, ascending, where the scan engine has fixed dwell times; None: any between",
    )
    scan_rotation: float | None = Field(
        default=None,
        description="nominal rotation, rad, that takes a direction on the detector to the scan's frame; None: not known",
    )
    mirrored: bool | None = Field(
        default=None, description="detector rows and scan rows of opposite hand; None: not known"
    )
    spherical_aberration: float = Field(
        default=0.0, description="nominal C3,0, Å: that of the lens without a corrector; 0 with one"
    )
    area: Rectangle = Field(description="the part of the specimen that can be scanned, Å")
    repeatable: bool = Field(
        default=False, description="the same area may be acquired again unchanged (a recording, until it is used up)"
    )
    consumable: bool = Field(
        default=False, description="what is acquired is used up: a recording whose counts are given once"
    )
    frame_overhead: float = Field(default=0.0, ge=0, description="s per pattern besides the dwell time")
    line_overhead: float = Field(default=0.0, ge=0, description="flyback, s per scan line")
    line_trigger: float = Field(
        default=0.0, ge=0, description="frequency, Hz, whose next period each line waits for; 0: lines wait for nothing"
    )
    flyback_blanked: bool = Field(default=False, description="the beam is off during flyback and waits for triggers")
    settle_time: float = Field(default=0.0, ge=0, description="s before a scan, after defocus or region changed")
    latency: float = Field(
        default=0.0, ge=0, description="s by which a frame may come later: arming, buffers of the detector, computing"
    )
    region_dose_limit: float | None = Field(default=None, description="largest accumulated dose of a region, e/Å²")
    exposure_limit: float | None = Field(
        default=None, gt=0, description="most electrons of a single acquisition; None: no limit"
    )
    tolerances: dict[str, float] = Field(
        default={}, description="setting -> by how much it may differ from what was set when it is read back"
    )
    slews: dict[str, Slew] = Field(default={}, description="setting -> how fast it may change; None named: at once")
    beam_stop: BeamStop | None = Field(default=None, description="when the beam stop has to be in; None: there is none")
    notes: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _is_a_beam(self) -> Description:
        if self.wavelength is None and self.voltage <= 1e3:
            raise ValueError(
                f"voltage of {self.voltage:g} eV is not possible; legal: above 1000, or a wavelength beside"
            )
        return self

    @model_validator(mode="after")
    def _offers_its_own_aperture(self) -> Description:
        offered = [each.semiangle for each in self.apertures]
        if offered and (len(set(offered)) < len(offered) or not any(same_angle(self.semiangle, a) for a in offered)):
            raise ValueError(f"apertures have to differ, and the present one of {self.semiangle:g} mrad is one of them")
        for angle in offered:
            behind = self.through(angle)
            fewest, most = behind.electrons_per_pattern
            if fewest > most or behind.electrons_per_pattern_values == ():
                raise ValueError(
                    f"no electrons per pattern are legal with the aperture of {angle:g} mrad; leave it out"
                )
        return self

    @property
    def semiangles(self) -> tuple[float, ...]:
        """Those that a plan may name, ascending, mrad."""
        return tuple(sorted(each.semiangle for each in self.apertures)) or (self.semiangle,)

    def through(self, semiangle: float | None) -> Description:
        """The instrument as it is with one of its apertures: semi-angle, current and electrons per pattern of that one.

        Where an aperture does not say otherwise, current goes with area, the fewest electrons of a pattern with the current (a
        shortest dwell time), and the most with the current or the area of the disc (saturation), whichever is less.

        Args:
            semiangle: mrad; None: the present one.

        Returns:
            A description without a choice of apertures; this one itself where nothing is chosen.

        Raises:
            OutOfLimitsError: there is no such aperture.
        """
        if semiangle is None or (not self.apertures and same_angle(semiangle, self.semiangle)):
            return self
        wanted = next((each for each in self.apertures if same_angle(each.semiangle, semiangle)), None)
        if wanted is None:
            legal = ", ".join(f"{angle:g}" for angle in self.semiangles)
            msg = f"semiangle of {semiangle:g} mrad is not possible here; legal: {legal} mrad"
            raise OutOfLimitsError(msg, parameter="semiangle", value=semiangle, legal=list(self.semiangles))
        area, before = (wanted.semiangle / self.semiangle) ** 2, self.beam_current
        current = None if before is None else before * area
        if not same_angle(semiangle, self.semiangle):
            current = wanted.beam_current or current
        ratio = area if current is None or before is None else current / before
        fewest, most = self.electrons_per_pattern
        fewest, most = wanted.electrons_per_pattern or (fewest * ratio, most * min(ratio, area))
        values = self.electrons_per_pattern_values
        if values is not None:
            values = tuple(v * ratio for v in values if fewest * (1 - 1e-6) <= v * ratio <= most * (1 + 1e-6))
        return self.model_copy(
            update={
                "semiangle": wanted.semiangle,
                "beam_current": current,
                "electrons_per_pattern": (fewest, most),
                "electrons_per_pattern_values": values,
                "apertures": (),
            }
        )

    @property
    def disc_pixels(self) -> float:
        """Pixels of the bright-field disc, at most those of the detector."""
        rows, columns = self.detector.shape
        return min(math.pi * (self.semiangle / self.detector.angular_pixel) ** 2, float(rows * columns))

    @property
    def dwell_times(self) -> tuple[float, ...] | None:
        """The only legal ones, s, ascending, as `electrons_per_pattern_values` and the current say; None: any, or not known."""
        values, current = self.electrons_per_pattern_values, self.beam_current
        if values is None or not current:
            return None
        return tuple(value * ELEMENTARY_CHARGE * 1e12 / current for value in values)

    @property
    def energy(self) -> float:
        """eV; of X-rays and light that of electrons with their wavelength, which no check takes for a mistake."""
        return self.voltage if self.wavelength is None else optics.EquivalentVoltage(self.wavelength)

    @property
    def nominal_aberrations(self) -> dict[str, float]:
        """What is known of the lens besides defocus, Krivanek polar, Å."""
        return {"C30": self.spherical_aberration} if self.spherical_aberration else {}

    @property
    def dose_unit(self) -> str:
        """e/Å², or counts/Å² where counts per electron are not known."""
        return "e/Å²" if self.detector.counts_per_electron is not None else "counts/Å²"

    @model_validator(mode="after")
    def _electrons_in_order(self) -> Description:
        values = self.electrons_per_pattern_values
        if values is not None and (not values or list(values) != sorted(set(values)) or values[0] <= 0):
            msg = "electrons_per_pattern_values has to hold positive numbers in ascending order, or be left out"
            raise ValueError(msg)
        return self

    @property
    def full_dose(self) -> float:
        """Dose, at the finest step, of everything a recording holds, in `dose_unit`."""
        return min(self.dose.bounds[1], self.electrons_per_pattern[1] / self.step.bounds[0] ** 2)


class Condition(Record):
    """One thing that has to be right for an exposure: vacuum, valves, high tension, emission, cooling, …

    A value outside `low` … `high` is as bad as `ok` being false. After that it has to come back by `margin` before it counts as
    good again, so that a value at its limit does not turn the beam on and off.
    """

    name: Annotated[str, Field(min_length=1, max_length=64)]
    ok: bool = True
    value: float | None = None
    unit: str = ""
    low: float | None = Field(default=None, description="smallest value that is right; None: no limit")
    high: float | None = Field(default=None, description="largest value that is right; None: no limit")
    margin: Annotated[float, Field(ge=0)] = Field(default=0.0, description="by which it has to be better after a trip")
    message: Annotated[str, Field(max_length=500)] = ""

    def complaint(self, *, tripped: bool) -> str:
        """What is wrong, as a phrase; "" where nothing is.

        Args:
            tripped: whether it was wrong before, so that `margin` counts.
        """
        margin = self.margin if tripped else 0.0
        if not self.ok:
            return f"{self.name}: {self.message or 'not as it should be'}"
        if self.value is not None and self.low is not None and self.value < self.low + margin:
            return f"{self.name}: {self.value:g} {self.unit}, at least {self.low + margin:g} {self.unit} are needed"
        if self.value is not None and self.high is not None and self.value > self.high - margin:
            return f"{self.name}: {self.value:g} {self.unit}, at most {self.high - margin:g} {self.unit} are right"
        return ""


class Health(Record):
    """State of the column as far as an operator cares. While it is not well, nothing is exposed."""

    blanked: bool
    ok: bool = True
    message: str = ""
    conditions: tuple[Condition, ...] = ()
