"""What may be asked of an instrument, and what becomes of it: a plan, its cost, its reservation, its outcome.

Lengths in Å, times in s, doses in e/Å². Defocus is signed and positive for underfocus.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from instrument.records import Identifier, Record, Rectangle

Interlacing = Literal["offset", "checkerboard"]
"""How two passes share a field: two rasters offset by half a step along both axes, each at half the dwell time; or every other
cell of one raster in turn, at the full dwell time."""
ScanPattern = Literal["raster", "serpentine", "spiral", "positions"]
"""In which order a field is visited: row by row; row by row, every other row backwards; from the middle outwards, ring by ring
along the cells; or as a list of positions says."""


class AcquisitionPlan(Record):
    """One scan, or two passes over one field: where, how fine, how far from focus, with how many electrons.

    The scanned cells tile the field: there are floor(height/step) × floor(width/step) of them, of step × step, visited in the
    order of `pattern`. One pass has a position at the centre of each. Two passes follow each other without a pause and share
    the dose: with `offset` interlacing each visits every cell, a quarter of a step before and behind its centre along both
    axes; with `checkerboard` interlacing the first visits the centres of the cells with an even row + column, the second the
    others.
    Explicit `positions` (specimen frame, (y, x), Å) replace the cells; `step` then only relates dose to electrons per pattern.
    """

    id: Identifier
    campaign: Identifier
    region: Identifier
    field: Rectangle
    step: Annotated[float, Field(gt=0, le=1e9, description="scan step size, Å")]
    defocus: Annotated[float, Field(ge=-1e12, le=1e12, description="nominal defocus, Å, positive for underfocus")]
    dose: Annotated[float, Field(gt=0, le=1e12, description="electrons per area of a scan cell, e/Å²")]
    semiangle: float | None = Field(
        default=None,
        gt=0,
        le=200,
        description="which aperture, by its semi-angle, mrad; None: the instrument's present one",
    )
    positions: tuple[tuple[float, float], ...] | None = None
    pattern: Literal["raster", "serpentine", "spiral"] = Field(
        default="raster", description="order in which each pass visits the cells, where no positions are given"
    )
    passes: Literal[1, 2] = Field(default=1, description="scans that share the dose; the second lies between the first")
    interlacing: Interlacing = Field(default="offset", description="how two passes share the field")
    dry: bool = Field(default=False, description="go through the motions with the beam blanked; costs no electrons")

    @model_serializer(mode="wrap")
    def _as_one_pass_always_was(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out what one lit pass through the present aperture does not need, so that older instruments understand it."""
        told: dict[str, Any] = handler(self)
        if self.passes == 1:
            told.pop("passes", None)
            told.pop("interlacing", None)
        if not self.dry:
            told.pop("dry", None)
        if self.pattern == "raster":
            told.pop("pattern", None)
        if self.semiangle is None:
            told.pop("semiangle", None)
        return told

    @model_validator(mode="after")
    def _has_positions(self) -> AcquisitionPlan:
        if self.positions is None and min(self.shape) < 1:
            msg = f"a field of {self.field.height:g} × {self.field.width:g} Å holds no position at a step of {self.step:g} Å"
            raise ValueError(msg)
        if self.positions is not None and not self.positions:
            raise ValueError("positions is an empty list; leave it out for a raster")
        if self.positions is not None and self.pattern != "raster":
            raise ValueError(f"positions have an order of their own; leave pattern {self.pattern} out")
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
    def scan_pattern(self) -> ScanPattern:
        """What the scan engine has to be able to do."""
        return self.pattern if self.positions is None else "positions"

    @property
    def line_length(self) -> int:
        """Patterns from one flyback to the next: a row of a raster, all of a pass of what needs none."""
        return self.shape[1] if self.scan_pattern == "raster" else self.n_positions // self.passes

    @property
    def crowding(self) -> int:
        """Positions in the fullest cell of step × step, which gets so many times the dose: 1 but for explicit positions."""
        if self.positions is None:
            return 1
        corner = np.array([self.field.y, self.field.x])
        cells = np.floor((self.scan_positions() - corner) / self.step + 1e-6)
        numbers = cells[:, 0] * (math.ceil(self.field.width / self.step) + 2) + cells[:, 1]
        return int(np.unique(numbers, return_counts=True)[1].max())

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
        centres = np.stack(np.meshgrid(y, x, indexing="ij"), axis=-1).reshape(-1, 2)[self._order()]
        if self.patterns_per_cell == 1:
            return centres
        return np.concatenate([centres - self.step / 4, centres + self.step / 4])

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
        visited = np.argsort(self._order()).reshape(self.shape)
        return tuple(visited + first for first in range(0, self.n_positions, self.n_cells))

    def _order(self) -> NDArray[np.int64]:
        """(n_cells,) numbers of the cells as they are visited in a pass, or in both of a checkerboard."""
        return _visited(self.shape, self.pattern, self.passes == 2 and self.interlacing == "checkerboard")


@lru_cache(maxsize=16)
def _visited(shape: tuple[int, int], pattern: ScanPattern, checkerboard: bool) -> NDArray[np.int64]:
    """Numbers of the cells in the order of their visit.

    Args:
        shape: (scan_y, scan_x) cells.
        pattern: of the scan.
        checkerboard: whether those with an even row + column come first.

    Returns:
        (n_cells,), not to be written to.
    """
    cells = np.arange(shape[0] * shape[1]).reshape(shape)
    if pattern == "serpentine":
        cells[1::2] = cells[1::2, ::-1].copy()
    if pattern == "spiral":
        rings, left = [], cells
        while left.size:  # the outer rows and columns, turn by turn
            rings.append(left[0])
            left = np.rot90(left[1:])
        cells = np.concatenate(rings)[::-1]
    order = cells.ravel()
    if checkerboard:
        order = order[np.argsort((order // shape[1] + order % shape[1]) % 2, kind="stable")]
    order.setflags(write=False)
    return order


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
    dry: bool = Field(
        default=False, description="the beam stays blanked: nothing reaches the specimen, nothing is booked"
    )
    beam_stop: bool = Field(default=False, description="the beam stop will be in, so that the detector bears the beam")


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
    dry: bool = Field(default=False, description="the beam was blanked throughout; its frames show no specimen")
