"""One setting and its legal values; the constraints on them, and how far from each a point is."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from agent.config import CampaignConfig, Exploration, dwell_electrons_per_cell, electrons_per_cell
from agent.errors import BadInputError
from agent.records import Settings
from agent.search_choice import Range
from instrument import optics
from instrument.models import Description, Parameter

Array = NDArray[np.float64]

STEP, DEFOCUS, DOSE, SEMIANGLE = 0, 1, 2, 3
"""Columns of a point (step Å, defocus Å, dose e/Å²; semi-angle mrad where it may be chosen), and the order of the axes."""
NAMES = ("step", "defocus", "dose", "semiangle")
TOLERANCE = 1e-6
"""Relative slack of every limit, as in instrument.models.Parameter."""
DWELL_TIME = "dwell time"
"""Name of the constraint of scan engines with fixed dwell times."""
SMALLEST_RASTER = 8
"""Positions along each edge of a trial's field: fewer do not determine a probe."""


@dataclass(frozen=True)
class Axis:
    """One setting and its legal values.

    Attributes:
        name: step, defocus, dose or semiangle.
        unit: of the setting: Å, e/Å² or mrad.
        low: smallest legal value.
        high: largest legal value.
        values: the legal values in ascending order; None where everything in [low, high] is legal.
    """

    name: str
    unit: str
    low: float
    high: float
    values: Array | None

    @classmethod
    def intersect(cls, name: str, parameter: Parameter, searched: Range | None) -> Axis:
        """What the instrument offers, narrowed to the campaign's range.

        Args:
            name: step, defocus or dose.
            parameter: legal values of the instrument.
            searched: (low, high) that the campaign allows, in the parameter's unit; None: all.

        Returns:
            The axis of the values that both allow.

        Raises:
            BadInputError: where nothing is left.
        """
        low, high = parameter.bounds
        wanted = searched if searched is not None else (low, high)
        slack = TOLERANCE * max(abs(low), abs(high), abs(wanted[0]), abs(wanted[1]))
        if parameter.kind == "continuous":
            low, high, values = max(low, wanted[0]), min(high, wanted[1]), None
            empty = low > high + slack
        else:
            assert parameter.values
            offered = np.unique(np.asarray(parameter.values, dtype=np.float64))
            values = offered[(offered >= wanted[0] - slack) & (offered <= wanted[1] + slack)]
            empty = values.size == 0
            low, high = (low, high) if empty else (float(values[0]), float(values[-1]))
        if empty:
            msg = (
                f"search.{name} {wanted[0]:g} … {wanted[1]:g} {parameter.unit} holds nothing the instrument can do; "
                f"legal: {parameter.legal()}"
            )
            raise BadInputError(msg)
        return cls(name, parameter.unit, low, max(low, high), values)

    @property
    def fixed(self) -> bool:
        """Whether there is nothing to choose."""
        return self.high - self.low <= TOLERANCE * max(abs(self.low), abs(self.high), 1e-6)

    def legal(self) -> str:
        """The legal values in words."""
        if self.values is not None:
            return ", ".join(f"{v:g}" for v in self.values) + f" {self.unit}"
        return f"{self.low:g} … {self.high:g} {self.unit}"

    def contains(self, x: Array) -> NDArray[np.bool_]:
        """Whether each value is one of the discrete ones; True everywhere on a continuous axis.

        Args:
            x: (n,) values in the unit of the setting.

        Returns:
            (n,).
        """
        if self.values is None:
            return np.ones(x.shape, dtype=bool)
        slack = TOLERANCE * max(abs(self.low), abs(self.high), 1e-12)
        close: NDArray[np.bool_] = np.any(np.abs(x[..., None] - self.values) <= slack, axis=-1)
        return close

    def at_most(self, x: Array) -> Array:
        """The largest legal value that does not exceed each given one.

        Args:
            x: (n,) values in the unit of the setting.

        Returns:
            (n,); `x` itself on a continuous axis, nan where no discrete value is small enough.
        """
        if self.values is None:
            return x
        index = np.searchsorted(self.values, x * (1 + TOLERANCE), side="right") - 1
        return np.where(index >= 0, self.values[np.maximum(index, 0)], np.nan)

    def choose(self, low: Array, high: Array, fraction: Array) -> Array:
        """Legal values at given fractions of intervals, on a logarithmic scale.

        Args:
            low: (n,) lower ends of the intervals, positive.
            high: (n,) upper ends.
            fraction: (n,) in [0, 1]; of discrete values, which of those between `low` and `high`.

        Returns:
            (n,); nan where no legal value lies between.
        """
        if self.values is None:
            legal = np.isfinite(low) & (low <= high * (1 + TOLERANCE))
            start = np.where(legal, low, 1.0)
            return np.where(legal, start * (np.maximum(high, start) / start) ** fraction, np.nan)
        inside = (self.values >= low[:, None] * (1 - TOLERANCE)) & (self.values <= high[:, None] * (1 + TOLERANCE))
        count = inside.sum(axis=1)
        index = np.argmax(inside, axis=1) + np.minimum(fraction * count, np.maximum(count - 1, 0)).astype(int)
        return np.where(count > 0, self.values[np.minimum(index, self.values.size - 1)], np.nan)


@dataclass(frozen=True)
class Constraint:
    """One limit on the settings.

    Attributes:
        name: for messages.
        limit: what is legal, in words.
        margin: maps points (n, 3) to relative distances (n,) from the limit, negative beyond it.
        value: what the limit is compared with, in words.
    """

    name: str
    limit: str
    margin: Callable[[Array], Array]
    value: Callable[[Settings], str]

    def sentence(self, settings: Settings) -> str:
        """Name, value and limit, for messages."""
        return f"{self.name}: {self.value(settings)}, must be {self.limit}"


def log_margin(x: Array, low: float, high: float) -> Array:
    """Relative distance from the nearer end of an interval.

    Args:
        x: (n,) positive values.
        low: lower end in the unit of `x`; 0: none.
        high: upper end, positive.

    Returns:
        (n,) the smaller of ln(x/low) and ln(high/x), negative outside.
    """
    above = np.log(x) - math.log(low) if low > 0 else np.full(x.shape, np.inf)
    return np.minimum(above, math.log(high) - np.log(x))


def smallest_paid(low: float, high: float, cost: Callable[[float], float], paid: float) -> float:
    """Smallest step from `low` on whose cost, which falls with the step, is at most what is paid; infinite where none is.

    Args:
        low: smallest legal step, Å.
        high: largest legal step, Å.
        cost: e/Å² of a step, Å.
        paid: e/Å².
    """
    if low >= high or cost(low) <= paid or not cost(high) <= paid:
        return low if low >= high or cost(low) <= paid else math.inf
    for _ in range(60):
        middle = math.sqrt(low * high)
        low, high = (low, middle) if cost(middle) <= paid else (middle, high)
    return high


def edge_values(axis: Axis, critical: tuple[float, ...]) -> Array:
    """Values of a setting at which the set of legal points may have a corner.

    Args:
        axis: the setting.
        critical: values at which another limit begins to act, in the unit of the setting.

    Returns:
        (m,) ascending: the critical values, the same within the axis, and the ends or values of the axis.
    """
    own = axis.values if axis.values is not None else np.array([axis.low, axis.high])
    return np.unique(np.concatenate([own, critical, np.clip(critical, axis.low, axis.high)]))


def axis_constraint(axis: Axis, column: int) -> Constraint:
    """The limits of a single setting.

    Args:
        axis: the setting.
        column: STEP, DEFOCUS or DOSE.

    Returns:
        The constraint. Its margin is infinite inside where the setting is discrete or fixed: such a setting cannot be
        close to its limit.
    """

    def margin(points: Array) -> Array:
        x = points[:, column]
        if axis.fixed or axis.values is not None:
            member = (
                axis.contains(x) if axis.values is not None else np.isclose(x, axis.low, rtol=TOLERANCE, atol=1e-12)
            )
            return np.where(member, np.inf, -1.0)
        if column == DEFOCUS:
            return np.minimum(x - axis.low, axis.high - x) / (axis.high - axis.low)
        return log_margin(x, axis.low, axis.high)

    return Constraint(axis.name, axis.legal(), margin, lambda s: f"{getattr(s, axis.name):g} {axis.unit}")


def probe_diameter(description: Description, defocus: Array) -> Array:
    """instrument.optics.probe_diameter for arrays.

    Args:
        description: of the instrument.
        defocus: (n,) Å.

    Returns:
        (n,) Å: the geometric disc 2α|Δf|, at least the diffraction limit.
    """
    focused = optics.probe_diameter(description.semiangle, 0.0, description.voltage)
    return np.maximum(2e-3 * description.semiangle * np.abs(defocus), focused)


def coupled_constraints(description: Description, config: CampaignConfig) -> tuple[Constraint, ...]:
    """The constraints that couple settings in trials and in the final acquisition alike.

    Args:
        description: of the instrument.
        config: of the campaign.

    Returns:
        Constraints on electrons per pattern, window and overlap, and on the dose of a region where the instrument has one.
    """
    search = config.search
    fewest, most = electrons_per_cell(config, description)
    per_pattern = "electrons per pattern"
    if fewest > description.electrons_per_pattern[0]:
        per_pattern = "electrons per cell, shared by two passes"
    slope = 2e-3 * description.semiangle
    widest = search.largest_defocus(description)

    def overlap(step: Array, defocus: Array) -> Array:
        return 1 - step / probe_diameter(description, defocus)

    constraints = [
        Constraint(
            per_pattern,
            f"{fewest:g} … {most:g}",
            lambda p: log_margin(p[:, DOSE] * p[:, STEP] ** 2, fewest, most),
            lambda s: f"dose · step² is {s.dose * s.step**2:.4g}",
        ),
        Constraint(
            "window",
            f"at most {slope * widest:.4g} Å ({search.window:g} of 1/Δk)",
            lambda p: 1 - np.abs(p[:, DEFOCUS]) / widest,
            lambda s: f"the probe disc 2α|Δf| is {slope * abs(s.defocus):.4g} Å wide",
        ),
        Constraint(
            "overlap",
            f"at least {100 * search.overlap:.3g} %",
            lambda p: overlap(p[:, STEP], p[:, DEFOCUS]) - search.overlap,
            lambda s: (
                f"neighbouring probes overlap by {100 * overlap(np.array([s.step]), np.array([s.defocus]))[0]:.3g} %"
            ),
        ),
    ]
    if (values := dwell_electrons_per_cell(config, description)) is not None:
        constraints.append(_dwell_constraint(np.array(values), per_pattern))
    largest_dose = description.region_dose_limit
    if largest_dose and math.isfinite(largest_dose):
        constraints.append(
            Constraint(
                "region dose",
                f"at most {largest_dose:g} {description.dose_unit}",
                lambda p: np.log(largest_dose / p[:, DOSE]),
                lambda s: f"dose is {s.dose:g}",
            )
        )
    return tuple(constraints)


def _dwell_constraint(values: Array, unit: str) -> Constraint:
    """The scan engine has fixed dwell times: dose · step² is one of `values` (n,), in `unit`."""

    def margin(points: Array) -> Array:
        electrons = points[:, DOSE] * points[:, STEP] ** 2
        legal = np.any(np.abs(electrons[:, None] / values - 1) <= TOLERANCE, axis=1)
        return np.where(legal, np.inf, -1.0)

    listed = ", ".join(f"{value:.6g}" for value in values)
    return Constraint(
        DWELL_TIME, f"one of {listed} {unit}", margin, lambda s: f"dose · step² is {s.dose * s.step**2:.6g}"
    )


def positions_constraint(field: Exploration) -> Constraint:
    """A trial's field holds at least SMALLEST_RASTER positions along each edge."""
    shorter = min(field.height, field.width)
    return Constraint(
        "positions",
        f"at least {SMALLEST_RASTER} along the shorter edge of the trial's field ({shorter:g} Å)",
        lambda p: shorter / p[:, STEP] / SMALLEST_RASTER - 1,
        lambda s: f"a step of {s.step:g} Å gives {math.floor(shorter / s.step + 1e-6)}",
    )
