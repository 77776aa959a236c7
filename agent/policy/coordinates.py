"""Settings as rows of numbers, and the coordinates in which a model sees them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np

from agent.policy.limits import DEFOCUS, DOSE, NAMES, SEMIANGLE, STEP, Array, Axis
from agent.records import Settings

DOSE_DECADES = 20.0
"""Decades of dose per unit of the model's dose axis. README.md says what a shorter scale did."""


class ModelCoordinates:
    """ln step, defocus and ln semi-angle scaled to 0 … 1, and ln dose above the smallest in units of DOSE_DECADES decades.

    Args:
        axes: step, defocus and dose of a trial, and the semi-angle where it may be chosen; fixed ones have no coordinate.
    """

    def __init__(self, axes: Sequence[Axis]) -> None:
        self._free = [not axis.fixed for axis in axes]
        self._fixed_dose = axes[DOSE].low
        self._low = _to_model_scale(np.array([[axis.low for axis in axes]]))[0]
        span = _to_model_scale(np.array([[axis.high for axis in axes]]))[0] - self._low
        span[DOSE] = DOSE_DECADES * math.log(10)
        self._span = np.where(span > 0, span, 1.0)

    @property
    def names(self) -> tuple[str, ...]:
        """Of the settings that have a coordinate."""
        return tuple(name for name, free in zip(NAMES, self._free, strict=False) if free)

    @property
    def dose_column(self) -> int | None:
        """Which coordinate is that of the dose; None: it is fixed."""
        return sum(self._free[:DOSE]) if self._free[DOSE] else None

    def normalize(self, points: Array) -> Array:
        """Points in the coordinates of the model.

        Args:
            points: (n, 3) step Å, defocus Å, dose e/Å², or (n, 4) with the semi-angle, mrad.

        Returns:
            (n, d) for the d settings that are not fixed.
        """
        x: Array = (_to_model_scale(points) - self._low) / self._span
        return x[:, self._free]

    def dose_of(self, x: Array) -> Array:
        """Doses of points in the coordinates of the model.

        Args:
            x: (…, d) as `normalize` gives them.

        Returns:
            (…) e/Å².
        """
        column = self.dose_column
        if column is None:
            return np.full(x.shape[:-1], self._fixed_dose)
        dose: Array = np.exp(self._low[DOSE] + self._span[DOSE] * x[..., column])
        return dose


def as_points(settings: Iterable[Settings], own: float | None = None) -> Array:
    """Settings as rows.

    Args:
        settings: of n trials.
        own: semi-angle, mrad, of settings that name none; None: there is no choice.

    Returns:
        (n, 3) step Å, defocus Å, dose e/Å²; (n, 4) with the semi-angle where there is a choice.
    """
    if own is None:
        return np.array([(s.step, s.defocus, s.dose) for s in settings], dtype=np.float64).reshape(-1, 3)
    rows = [(s.step, s.defocus, s.dose, s.semiangle or own) for s in settings]
    return np.array(rows, dtype=np.float64).reshape(-1, 4)


def as_settings(point: Array) -> Settings:
    """One row as settings.

    Args:
        point: (3,) step Å, defocus Å, dose e/Å², or (4,) with the semi-angle, mrad.
    """
    semiangle = float(point[SEMIANGLE]) if len(point) > SEMIANGLE else None
    return Settings(
        step=float(point[STEP]), defocus=float(point[DEFOCUS]), dose=float(point[DOSE]), semiangle=semiangle
    )


def _to_model_scale(points: Array) -> Array:
    """ln step, defocus and ln dose, (n, 3), or (n, 4) with the ln semi-angle."""
    angle = [np.log(points[:, SEMIANGLE])] if points.shape[1] > SEMIANGLE else []
    return np.stack([np.log(points[:, STEP]), points[:, DEFOCUS], np.log(points[:, DOSE]), *angle], axis=1)
