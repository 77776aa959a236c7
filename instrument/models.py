"""What the microscope offers and what may be asked of it, as frozen records.

Lengths in Å, angles in mrad, energies in eV, times in s, currents in pA, doses in e/Å². Where a detector's counts per
electron are not known, read "electron" as "count": `Detector.counts_per_electron` is None then.
Defocus is signed and positive for underfocus.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from instrument import optics
from instrument.errors import OutOfLimitsError

ELEMENTARY_CHARGE = 1.602176634e-19
"""C per electron."""

Identifier = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
Interlacing = Literal["offset", "checkerboard"]
"""How two passes share a field: two rasters offset by half a step along both axes, each at half the dwell time; or every other
cell of one raster in turn, at the full dwell time."""


class Record(BaseModel):
    """A frozen value; an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Rectangle(Record):
    """An axis-parallel rectangle in the specimen frame: corner (y, x) and size, Å."""

    y: float
    x: float
    height: Annotated[float, Field(gt=0)]
    width: Annotated[float, Field(gt=0)]

    @property
    def area(self) -> float:
        """Å²."""
        return self.height * self.width

    def grown(self, margin: float) -> Rectangle:
        """The same rectangle with a margin on each side.

        Args:
            margin: Å.
        """
        return Rectangle(
            y=self.y - margin, x=self.x - margin, height=self.height + 2 * margin, width=self.width + 2 * margin
        )

    def contains(self, other: Rectangle, tolerance: float = 1e-6) -> bool:
        """Whether another rectangle lies inside.

        Args:
            other: specimen frame, Å.
            tolerance: by how much it may stick out, Å.
        """
        return (
            other.y >= self.y - tolerance
            and other.x >= self.x - tolerance
            and other.y + other.height <= self.y + self.height + tolerance
            and other.x + other.width <= self.x + self.width + tolerance
        )

    def overlaps(self, other: Rectangle, tolerance: float = 1e-6) -> bool:
        """Whether two rectangles share more than an edge.

        Args:
            other: specimen frame, Å.
            tolerance: width of an overlap that does not count, Å.
        """
        return (
            self.y + tolerance < other.y + other.height
            and other.y + tolerance < self.y + self.height
            and self.x + tolerance < other.x + other.width
            and other.x + tolerance < self.x + self.width
        )


class AcquisitionPlan(Record):
    """One scan, or two passes over one field: where, how fine, how far from focus, with how many electrons.

    The scanned cells tile the field: there are floor(height/step) × floor(width/step) of them, of step × step, scanned row by
    row. One pass has a position at the centre of each. Two passes follow each other without a pause and share the dose: with
    `offset` interlacing each visits every cell, a quarter of a step before and behind its centre along both axes; with
    `checkerboard` interlacing the first visits the centres of the cells with an even row + column, the second the others.
    Explicit `positions` (specimen frame, (y, x), Å) replace the raster; `step` then only relates dose to electrons per pattern.
    """

    id: Identifier
    campaign: Identifier
    region: Identifier
    field: Rectangle
    step: Annotated[float, Field(gt=0, le=1e9, description="scan step size, Å")]
    defocus: Annotated[float, Field(ge=-1e12, le=1e12, description="nominal defocus, Å, positive for underfocus")]
    dose: Annotated[float, Field(gt=0, le=1e12, description="electrons per area of a scan cell, e/Å²")]
    positions: tuple[tuple[float, float], ...] | None = None
    passes: Literal[1, 2] = Field(default=1, description="scans that share the dose; the second lies between the first")
    interlacing: Interlacing = Field(default="offset", description="how two passes share the field")

    @model_serializer(mode="wrap")
    def _as_one_pass_always_was(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out what one pass does not need, so that instruments and files from before there were two understand it."""
        told: dict[str, Any] = handler(self)
        if self.passes == 1:
            told.pop("passes", None)
            told.pop("interlacing", None)
        return told

    @model_validator(mode="after")
    def _has_positions(self) -> AcquisitionPlan:
        if self.positions is None and min(self.shape) < 1:
            msg = f"a field of {self.field.height:g} × {self.field.width:g} Å holds no position at a step of {self.step:g} Å"
            raise ValueError(msg)
        if self.positions is not None and not self.positions:
            raise ValueError("positions is an empty list; leave it out for a raster")
        if self.passes == 2 and (self.positions is not None or self.n_cells < 2):
            what = "explicit positions are" if self.positions is not None else "a single cell is"
            msg = f"{what} scanned once; set passes to 1"
            raise ValueError(msg)
        return self

    @property
    def shape(self) -> tuple[int, int]:
        """(scan_y, scan_x) cells of the raster; (1, n) for explicit positions."""
        if self.positions is not None:
            return 1, len(self.positions)
        return math.floor(self.field.height / self.step + 1e-6), math.floor(self.field.width / self.step + 1e-6)

    @property
    def n_cells(self) -> int:
        """Number of cells of step × step that are scanned."""
        return self.shape[0] * self.shape[1]

    @property
    def patterns_per_cell(self) -> int:
        """How many patterns share the dose of a cell."""
        return self.passes if self.interlacing == "offset" else 1

    @property
    def n_positions(self) -> int:
        """Number of patterns, of all passes."""
        return self.n_cells * self.patterns_per_cell

    @property
    def electrons_per_pattern(self) -> float:
        """dose · step² over the patterns of a cell."""
        return self.dose * self.step**2 / self.patterns_per_cell

    @property
    def electrons(self) -> float:
        """Total electrons of the scan, without settle and flyback."""
        return self.electrons_per_pattern * self.n_positions

    def scan_positions(self) -> NDArray[np.float64]:
        """Set-points of the probe in scan order, (n, 2), (y, x), Å, specimen frame; the first pass comes first."""
        if self.positions is not None:
            return np.asarray(self.positions, dtype=np.float64)
        n_y, n_x = self.shape
        y = self.field.y + (np.arange(n_y) + 0.5) * self.step
        x = self.field.x + (np.arange(n_x) + 0.5) * self.step
        centres = np.stack(np.meshgrid(y, x, indexing="ij"), axis=-1).reshape(-1, 2)
        if self.passes == 1:
            return centres
        if self.interlacing == "offset":
            return np.concatenate([centres - self.step / 4, centres + self.step / 4])
        return centres[self._checkerboard_order()]

    def pass_index(self) -> NDArray[np.int64]:
        """(n,) in which pass each position is scanned, 0 or 1, in scan order."""
        first = self.n_cells if self.patterns_per_cell == self.passes else -(-self.n_cells // 2)
        return (np.arange(self.n_positions) >= first).astype(np.int64)

    def rasters(self) -> tuple[NDArray[np.int64], ...]:
        """Scan indices as (scan_y, scan_x): one array of all positions, or one for each of two offset passes.

        Explicit positions have no raster.
        """
        if self.positions is not None:
            return ()
        if self.passes == 2 and self.interlacing == "checkerboard":
            return (np.argsort(self._checkerboard_order()).reshape(self.shape),)
        return tuple(np.arange(self.n_positions).reshape(-1, *self.shape))

    def _checkerboard_order(self) -> NDArray[np.int64]:
        """(n_cells,) numbers of the cells, those with an even row + column first."""
        rows, columns = (np.arange(n) for n in self.shape)
        return np.argsort(np.add.outer(rows, columns).ravel() % 2, kind="stable")


def _rounding(limit: float) -> float:
    # Of the limit itself: a range of doses may span six decades.
    return 1e-6 * abs(limit) + 1e-9


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


class Description(Record):
    """Everything an agent may know of an instrument before it exposes anything."""

    name: str
    voltage: Annotated[
        float, Field(gt=0, le=1e7, description="beam energy, eV, above 1000; equivalent of `wavelength`")
    ]
    wavelength: float | None = Field(default=None, gt=0, description="Å, of X-rays or light; None: of electrons")
    semiangle: Annotated[float, Field(gt=0, le=200, description="convergence semi-angle, mrad")]
    beam_current: float | None = Field(default=None, description="pA; None where a recording does not say")
    detector: Detector
    step: Parameter
    defocus: Parameter
    dose: Parameter
    two_passes: Interlacing | None = Field(
        default=None, description="how it scans a field in two passes; None: it scans in one pass only"
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
    settle_time: float = Field(default=0.0, ge=0, description="s before a scan, after defocus or region changed")
    latency: float = Field(
        default=0.0, ge=0, description="s by which a frame may come later: arming, buffers of the detector, computing"
    )
    region_dose_limit: float | None = Field(default=None, description="largest accumulated dose of a region, e/Å²")
    notes: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _is_a_beam(self) -> Description:
        if self.wavelength is None and self.voltage <= 1e3:
            raise ValueError(
                f"voltage of {self.voltage:g} eV is not possible; legal: above 1000, or a wavelength beside"
            )
        return self

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


class PlanCheck(Record):
    """What an accepted plan will cost."""

    n_positions: int
    shape: tuple[int, int]
    dwell_time: float
    electrons: float = Field(
        description="all electrons that reach the specimen, with settle and flyback if unblanked then"
    )
    duration: float
    bytes: int
    illuminated: Rectangle


class Reservation(Record):
    """Electrons set aside for one acquisition id; `start` uses it up."""

    id: Identifier
    check: PlanCheck
    electrons_left: float = Field(description="of the campaign's budget, after this reservation")


class Outcome(Record):
    """How an acquisition ended (or that it still runs), as journalled by the instrument."""

    id: Identifier
    state: Literal["reserved", "running", "done", "aborted", "failed"]
    frames: int = 0
    electrons: float = 0.0
    reason: str = ""


class Health(Record):
    """State of the column as far as an operator cares."""

    blanked: bool
    ok: bool = True
    message: str = ""
