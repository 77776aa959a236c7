"""One setting and its legal values; one limit and how far from it a point is."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from agent.config import Range
from agent.errors import BadInputError
from agent.records import Settings
from instrument.models import Parameter

Array = NDArray[np.float64]

TOLERANCE = 1e-6
"""Relative slack of every limit, as in instrument.models.Parameter."""


@dataclass(frozen=True)
class Axis:
    """One setting: legal in [low, high], or one of `values` (ascending)."""

    name: str
    unit: str
    low: float
    high: float
    values: Array | None

    @classmethod
    def between(cls, name: str, parameter: Parameter, searched: Range | None) -> Axis:
        """What the instrument offers, narrowed to the campaign's range; raises BadInputError where nothing is left."""
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
        return self.high - self.low <= TOLERANCE * max(abs(self.low), abs(self.high))

    def legal(self) -> str:
        """The legal values in words."""
        if self.values is not None:
            return ", ".join(f"{v:g}" for v in self.values) + f" {self.unit}"
        return f"{self.low:g} … {self.high:g} {self.unit}"

    def has(self, x: Array) -> NDArray[np.bool_]:
        """Whether each of `x` is one of the values; True everywhere on a continuous axis."""
        if self.values is None:
            return np.ones(x.shape, dtype=bool)
        slack = TOLERANCE * max(abs(self.low), abs(self.high), 1e-12)
        return np.any(np.abs(x[..., None] - self.values) <= slack, axis=-1)

    def at_most(self, x: Array) -> Array:
        """The largest value not above each of `x`, nan where there is none; `x` itself on a continuous axis."""
        if self.values is None:
            return x
        index = np.searchsorted(self.values, x * (1 + TOLERANCE), side="right") - 1
        return np.where(index >= 0, self.values[np.maximum(index, 0)], np.nan)

    def choose(self, low: Array, high: Array, fraction: Array) -> Array:
        """A legal value at `fraction` of [low, high] on a logarithmic scale, each (n,); nan where none lies between."""
        if self.values is None:
            return np.where(low <= high * (1 + TOLERANCE), low * (np.maximum(high, low) / low) ** fraction, np.nan)
        inside = (self.values >= low[:, None] * (1 - TOLERANCE)) & (self.values <= high[:, None] * (1 + TOLERANCE))
        count = inside.sum(axis=1)
        index = np.argmax(inside, axis=1) + np.minimum(fraction * count, np.maximum(count - 1, 0)).astype(int)
        return np.where(count > 0, self.values[np.minimum(index, self.values.size - 1)], np.nan)


@dataclass(frozen=True)
class Constraint:
    """One limit. `margin` maps points (n, 3) to relative distances (n,) from it, negative beyond; `value` is in words."""

    name: str
    limit: str
    margin: Callable[[Array], Array]
    value: Callable[[Settings], str]

    def sentence(self, settings: Settings) -> str:
        """Name, value and limit, for messages."""
        return f"{self.name}: {self.value(settings)}, must be {self.limit}"


def log_margin(x: Array, low: float, high: float) -> Array:
    """Relative distance of positive `x` from the nearer end of [low, high]."""
    above = np.log(x) - math.log(low) if low > 0 else np.full(x.shape, np.inf)
    return np.minimum(above, math.log(high) - np.log(x))


def edge_values(axis: Axis, critical: tuple[float, ...]) -> Array:
    """The critical values of a setting, the same within its limits, and its ends or values."""
    own = axis.values if axis.values is not None else np.array([axis.low, axis.high])
    return np.unique(np.concatenate([own, critical, np.clip(critical, axis.low, axis.high)]))


def interval_limit(axis: Axis, column: int) -> Constraint:
    """The limit of a single setting. A list of values or a fixed one is never 'nearly' left: its margin is infinite."""

    def margin(points: Array) -> Array:
        x = points[:, column]
        if axis.fixed or axis.values is not None:
            member = axis.has(x) if axis.values is not None else np.isclose(x, axis.low, rtol=TOLERANCE, atol=1e-12)
            return np.where(member, np.inf, -1.0)
        if axis.name == "defocus":
            return np.minimum(x - axis.low, axis.high - x) / (axis.high - axis.low)
        return log_margin(x, axis.low, axis.high)

    return Constraint(axis.name, axis.legal(), margin, lambda s: f"{getattr(s, axis.name):g} {axis.unit}")
