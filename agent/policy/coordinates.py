"""Settings as rows of numbers, and the coordinates in which a model sees them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np

from agent.policy.limits import DEFOCUS, DOSE, NAMES, STEP, Array, Axis
from agent.records import Settings

DOSE_DECADES = 20.0
"""Decades of dose per unit of the model's dose axis. README.md says what a shorter scale did."""


class ModelCoordinates:
    """ln step and defocus scaled to 0 … 1, and ln dose above the smallest dose in units of DOSE_DECADES decades.

    Args:
        axes: step, defocus and dose of a trial; fixed ones have no coordinate.
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
        return tuple(name for name, free in zip(NAMES, self._free, strict=True) if free)

    def normalize(self, points: Array) -> Array:
        """Points in the coordinates of the model.

        Args:
            points: (n, 3) step Å, defocus Å, dose e/Å².

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
        if not self._free[DOSE]:
            return np.full(x.shape[:-1], self._fixed_dose)
        dose: Array = np.exp(self._low[DOSE] + self._span[DOSE] * x[..., -1])
        return dose


def as_points(settings: Iterable[Settings]) -> Array:
    """Settings as rows.

    Args:
        settings: of n trials.

    Returns:
        (n, 3) step Å, defocus Å, dose e/Å².
    """
    return np.array([(s.step, s.defocus, s.dose) for s in settings], dtype=np.float64).reshape(-1, 3)


def as_settings(point: Array) -> Settings:
    """One row as settings.

    Args:
        point: (3,) step Å, defocus Å, dose e/Å².
    """
    return Settings(step=float(point[STEP]), defocus=float(point[DEFOCUS]), dose=float(point[DOSE]))


def _to_model_scale(points: Array) -> Array:
    """ln step, defocus and ln dose, (n, 3)."""
    return np.stack([np.log(points[:, STEP]), points[:, DEFOCUS], np.log(points[:, DOSE])], axis=1)
