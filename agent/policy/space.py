"""The legal settings: what instrument and campaign allow together.

A point is a row (step Å, defocus Å, dose e/Å²). Besides the limits of each setting there are four that couple them: electrons
per pattern, the window 1/Δk, the overlap of neighbouring probes, and the positions in a trial's field (README.md, "What is
legal"). All are monotonic in each setting, so legal points are drawn without rejection: defocus first, then a step from the
interval that this defocus leaves, then a dose from the interval that this step leaves.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from agent.config import CampaignConfig, dwell_electrons_per_cell, electrons_per_cell
from agent.errors import BadInputError
from agent.policy.coordinates import ModelCoordinates, as_points
from agent.policy.limits import (
    DEFOCUS,
    DOSE,
    DWELL_TIME,
    SMALLEST_RASTER,
    STEP,
    TOLERANCE,
    Array,
    Axis,
    Constraint,
    axis_constraint,
    coupled_constraints,
    edge_values,
    positions_constraint,
    probe_diameter,
    smallest_paid,
)
from agent.records import Settings
from agent.scan_prices import Overheads
from instrument.models import Description

ACTIVE_MARGIN = 0.03
"""A constraint counts as active within this relative distance of its limit."""
NEAREST = 4096
"""Legal points among which the nearest one is looked for."""


class SearchSpace:
    """The legal settings of trials and of the final acquisition, with one aperture.

    Attributes:
        axes: step, defocus and dose of a trial, without the coupled limits.
        final_doses: dose axis of the final acquisition, likewise.
        coordinates: of models.
        variables: names of the settings that are not fixed.
        largest_defocus: |Δf|, Å, at which the probe disc fills the part of the window that the campaign allows.
        overheads: what scans take besides their dose.
        lowest_dose_trial: (3,) the legal trial with the smallest dose, counting what its scan takes besides.
        dimensions: of the cube that `draw` takes, and columns of a point.
    """

    axes: tuple[Axis, ...]
    dimensions = 3

    def __init__(self, description: Description, config: CampaignConfig, overheads: Overheads | None = None) -> None:
        """Combine the limits of both.

        Args:
            description: of the instrument.
            config: of the campaign.
            overheads: what scans take besides their dose; None: nothing.

        Raises:
            BadInputError: where no settings are legal; the message names the limits that collide.
        """
        self.description, self.config, self.overheads = description, config, overheads or Overheads()
        search = config.search
        self.axes = (
            Axis.intersect("step", description.step, search.step),
            Axis.intersect("defocus", description.defocus, search.defocus),
            Axis.intersect("dose", description.dose, search.dose),
        )
        self.final_doses = Axis.intersect("dose", description.dose, None)
        self._dwell = self._dwell_axis()
        self.coordinates = ModelCoordinates(self.axes)
        self.variables = self.coordinates.names
        self.largest_defocus = search.largest_defocus(description)
        self._largest_dose = description.region_dose_limit or math.inf
        shared = (
            axis_constraint(self.axes[STEP], STEP),
            axis_constraint(self.axes[DEFOCUS], DEFOCUS),
            *coupled_constraints(description, config),
        )
        self._trial_constraints = (
            *shared,
            axis_constraint(self.axes[DOSE], DOSE),
            positions_constraint(config.exploration),
        )
        self._final_constraints = (*shared, axis_constraint(self.final_doses, DOSE))
        self.lowest_dose_trial = self._find_lowest_dose_trial()
        self._defocus_choices = self._legal_defocus()

    @property
    def parts(self) -> tuple[SearchSpace, ...]:
        """A space for each aperture that may be chosen; this one where there is no choice."""
        return (self,)

    def at(self, point: Array) -> SearchSpace:
        """The part in which a point (dimensions,) lies."""
        return self

    def split(self, points: Array) -> list[tuple[SearchSpace, NDArray[np.bool_]]]:
        """The parts, each with which of the points (n, dimensions) lie in it, (n,)."""
        return [(self, np.ones(len(points), dtype=bool))]

    def points(self, settings: Iterable[Settings]) -> Array:
        """Settings of n trials as points, (n, dimensions)."""
        return as_points(settings)

    def why_illegal(self, settings: Settings, *, final: bool = False) -> str | None:
        """The limits that settings break.

        Args:
            settings: step Å, defocus Å, dose e/Å².
            final: of the final acquisition, which search.dose and the size of a trial's field do not concern.

        Returns:
            The broken limits with values, in words; None where the settings are legal.
        """
        point = as_points([settings])
        broken = [c.sentence(settings) for c in self._constraints(final) if c.margin(point)[0] < -TOLERANCE]
        return "; ".join(broken) or None

    def is_legal(self, points: Array, *, final: bool = False, any_dwell: bool = False) -> NDArray[np.bool_]:
        """Which points are legal.

        Args:
            points: (n, 3) step Å, defocus Å, dose e/Å².
            final: as final acquisition, see `why_illegal`.
            any_dwell: whether a dwell time may be one that the scan engine does not have.

        Returns:
            (n,).
        """
        legal = np.ones(len(points), dtype=bool)
        for constraint in self._constraints(final):
            if any_dwell and constraint.name == DWELL_TIME:
                continue
            legal &= constraint.margin(points) >= -TOLERANCE
        return legal

    def active_constraint(self, settings: Settings, *, final: bool = False) -> str | None:
        """The nearest constraint, where it is nearer than ACTIVE_MARGIN.

        Args:
            settings: step Å, defocus Å, dose e/Å².
            final: of the final acquisition, see `why_illegal`.

        Returns:
            The constraint with the value, in words; None where none is near.
        """
        point = as_points([settings])
        nearest = min(self._constraints(final), key=lambda c: float(c.margin(point)[0]))
        return nearest.sentence(settings) if nearest.margin(point)[0] < ACTIVE_MARGIN else None

    def _constraints(self, final: bool) -> tuple[Constraint, ...]:
        return self._final_constraints if final else self._trial_constraints

    def step_interval(self, defocus: Array, dose_max: float = math.inf) -> tuple[Array, Array]:
        """Smallest and largest legal step of a trial.

        Args:
            defocus: (n,) Å.
            dose_max: what the trial may take, with its overhead, e/Å².

        Returns:
            Both (n,), Å; no step is legal where the smallest exceeds the largest.
        """
        step, _, dose = self.axes
        fewest, most = electrons_per_cell(self.config, self.description)
        field = self.config.exploration
        low = max(step.low, math.sqrt(fewest / min(dose.high, self._largest_dose)))
        high = min(step.high, math.sqrt(most / dose.low), field.height / SMALLEST_RASTER, field.width / SMALLEST_RASTER)
        overlapping = (1 - self.config.search.overlap) * probe_diameter(self.description, defocus)

        def cost(step: float) -> float:
            return max(dose.low, 0.0, fewest / step**2) + float(self.overheads.trial(np.array([step]))[0])

        low = smallest_paid(low, high, cost, dose_max)
        return np.full(defocus.shape, low), np.minimum(high, overlapping)

    def charge(self, points: Array) -> Array:
        """What trials (n, dimensions) take per area, (n,) e/Å²: their dose, and what their scan costs besides."""
        total: Array = points[:, DOSE] + self.overheads.trial(points[:, STEP])
        return total

    def dose_interval(self, step: Array, *, final: bool = False) -> tuple[Array, Array]:
        """Smallest and largest legal dose.

        Args:
            step: (n,) Å.
            final: of the final acquisition instead of a trial.

        Returns:
            Both (n,), e/Å²; no dose is legal where the smallest exceeds the largest.
        """
        low, high = self.description.dose.bounds if final else (self.axes[DOSE].low, self.axes[DOSE].high)
        fewest, most = electrons_per_cell(self.config, self.description)
        return np.maximum(low, fewest / step**2), np.minimum(min(high, self._largest_dose), most / step**2)

    def dose_at_most(self, step: Array, dose: Array, *, final: bool = False) -> Array:
        """The largest dose that the instrument has and that does not exceed each given one.

        Args:
            step: (n,) Å.
            dose: (n,) e/Å².
            final: of the final acquisition instead of a trial.

        Returns:
            (n,) e/Å²; nan where no dose is small enough. Its limits are those of `dose_interval`.
        """
        offered = (self.final_doses if final else self.axes[DOSE]).at_most(dose)
        return offered if self._dwell is None else self._dwell.at_most(offered * step**2) / step**2

    @property
    def dose_is_discrete(self) -> bool:
        """Whether only some doses are legal at a step."""
        return self.axes[DOSE].values is not None or self._dwell is not None

    def _dwell_axis(self) -> Axis | None:
        """dose · step² of a scan engine with fixed dwell times."""
        values = dwell_electrons_per_cell(self.config, self.description)
        return None if values is None else Axis("dwell time", "e", values[0], values[-1], np.array(values))

    @property
    def smallest_dose(self) -> float:
        """What the cheapest legal trial takes, e/Å², with its overhead."""
        return float(self.charge(self.lowest_dose_trial[None])[0])

    def draw(self, cube: Array, *, dose_min: float = 0.0, dose_max: float = math.inf) -> Array:
        """Legal trials (m, dimensions) from numbers in the unit cube; some are dropped where discrete values leave none.

        Args:
            cube: (n, dimensions) in [0, 1): where in the legal range of defocus, step and dose, and which aperture.
            dose_min: e/Å²; no dose with its overhead is below, where step and `dose_max` leave the choice.
            dose_max: e/Å²; no dose with its overhead is above.
        """
        points, _ = self.drawn(cube, dose_min=dose_min, dose_max=dose_max)
        if self._dwell is not None and not len(points) and self.smallest_dose <= dose_max:
            return self.lowest_dose_trial[None]  # few steps give a legal dose, and none of them was drawn
        return points

    def drawn(self, cube: Array, *, dose_min: float, dose_max: float) -> tuple[Array, NDArray[np.int64]]:
        """See `draw`: the points (m, 3), and from which rows (m,) of the cube (n, 3) they come."""
        along_defocus, along_step, along_dose = cube.T
        if np.ndim(self._defocus_choices) == 1:
            index = np.minimum(along_defocus * len(self._defocus_choices), len(self._defocus_choices) - 1).astype(int)
            defocus = self._defocus_choices[index]
        else:
            lengths = self._defocus_choices[:, 1] - self._defocus_choices[:, 0]
            along = along_defocus * lengths.sum()
            edges = np.concatenate([[0.0], np.cumsum(lengths)])
            part = np.clip(np.searchsorted(edges, along, side="right") - 1, 0, len(lengths) - 1)
            defocus = self._defocus_choices[part, 0] + along - edges[part]
        step = self.axes[STEP].choose(*self.step_interval(defocus, dose_max), along_step)
        rows = np.flatnonzero(np.isfinite(step))
        defocus, step = defocus[rows], step[rows]
        low, high = self.dose_interval(step)
        besides = self.overheads.trial(step)
        high = self.dose_at_most(step, np.minimum(high, dose_max - besides))
        low = np.maximum(low, np.minimum(dose_min - besides, high))
        if self._dwell is None:
            dose = self.axes[DOSE].choose(low, high, along_dose[rows])
        else:
            dose = self._dwell.choose(low * step**2, high * step**2, along_dose[rows]) / step**2
        points = np.stack([step, defocus, dose], axis=1)
        legal = np.isfinite(dose)
        legal[legal] = self.is_legal(points[legal])
        return points[legal], rows[legal]

    def legal_doses(self, step: float, *, dose_max: float = math.inf, count: int = 24) -> Array:
        """Doses that a trial may have.

        Args:
            step: Å.
            dose_max: e/Å²; no dose with its overhead is above.
            count: how many, where the dose is continuous.

        Returns:
            (m,) e/Å², ascending: all discrete doses, or `count` on a logarithmic scale; may be empty.
        """
        low, high = (float(v[0]) for v in self.dose_interval(np.array([step])))
        high = min(high, dose_max - float(self.overheads.trial(np.array([step]))[0]))
        values = self.axes[DOSE].values if self._dwell is None else self._dwell_doses(step)
        if values is not None:
            return values[(values >= low * (1 - TOLERANCE)) & (values <= high * (1 + TOLERANCE))]
        if low > high * (1 + TOLERANCE):
            return np.zeros(0)
        return np.geomspace(low, high, count) if high > low * (1 + TOLERANCE) else np.array([low])

    def _dwell_doses(self, step: float) -> Array:
        """(n,) doses, e/Å², that the dwell times give at a step, Å, ascending."""
        assert self._dwell is not None
        assert self._dwell.values is not None
        doses = self._dwell.values / step**2
        return doses[self.axes[DOSE].contains(doses)]

    def normalize(self, points: Array) -> Array:
        """Points (n, dimensions) in the coordinates of the model, (n, d): see ModelCoordinates."""
        return self.coordinates.normalize(points)

    def dose_of(self, x: Array) -> Array:
        """Doses (…), e/Å², of points (…, d) in the coordinates of the model."""
        return self.coordinates.dose_of(x)

    def nearest(self, point: Array, *, dose_max: float = math.inf) -> Array:
        """The legal trial whose step and defocus are nearest to those wanted, and then its dose.

        Args:
            point: (3,) step Å, defocus Å, dose e/Å².
            dose_max: e/Å²; no dose with its overhead is above.

        Returns:
            (3,).
        """
        cube = np.random.default_rng(0).random((NEAREST, 3))
        legal = self.draw(cube, dose_min=min(float(point[DOSE]), dose_max), dose_max=dose_max)
        clipped = np.array([[axis.low, axis.high] for axis in self.axes])
        held = np.clip(point, clipped[:, 0], clipped[:, 1])[None]
        paid = dose_max - self.overheads.trial(held[:, STEP])
        held[:, DOSE] = self.dose_at_most(held[:, STEP], np.minimum(held[:, DOSE], paid))
        candidates = np.concatenate([held[self.is_legal(held)], legal, self.lowest_dose_trial[None]])
        best: Array = candidates[
            np.argmin(np.linalg.norm(self.normalize(candidates) - self.normalize(point[None]), axis=1))
        ]
        return best

    def _corners(self) -> Array:
        """Points (n, 3) among which is a legal one if there is any, as the limits are monotonic in each setting.

        Points outside single limits are kept: they tell which limits collide where none is legal.
        """
        step, defocus, dose = self.axes
        field = self.config.exploration
        fewest, most = electrons_per_cell(self.config, self.description)
        slope = 2e-3 * self.description.semiangle
        overlap = 1 - self.config.search.overlap
        nearest = (step.low if step.values is None else step.values.min()) / overlap / slope
        reach = (0.0, self.largest_defocus, nearest)
        defoci = edge_values(defocus, (*reach, *(-r for r in reach)))
        edges = [field.height / SMALLEST_RASTER, field.width / SMALLEST_RASTER]
        doses = dose.values if dose.values is not None else (dose.low, min(dose.high, self._largest_dose))
        electrons = dwell_electrons_per_cell(self.config, self.description) or (fewest, most)
        edges += [math.sqrt(e / d) for e in electrons for d in doses]
        steps = edge_values(step, (*edges, *(overlap * probe_diameter(self.description, defoci))))
        points = []
        for s in steps[(steps > 0.1 * step.low) & (steps < 10 * step.high)]:
            doses = edge_values(dose, (*(e / s**2 for e in electrons), min(self._largest_dose, dose.high)))
            points += [(s, f, d) for f in defoci for d in doses[doses > 0]]
        return np.array(points)

    def _find_lowest_dose_trial(self) -> Array:
        corners = self._corners()
        legal = np.stack([c.margin(corners) >= -TOLERANCE for c in self._trial_constraints])
        found = corners[legal.all(axis=0)]
        if len(found):
            lowest: Array = found[np.argmin(self.charge(found))]
            return lowest
        collide = [c for i, c in enumerate(self._trial_constraints) if np.delete(legal, i, axis=0).all(axis=0).any()]
        if not collide:
            best = int(np.argmax(legal.sum(axis=0)))
            collide = [c for i, c in enumerate(self._trial_constraints) if not legal[i, best]]
        limits = " and ".join(f"{c.name} ({c.limit})" for c in collide)
        msg = f"no settings are legal: these limits collide: {limits}; widen one of them"
        raise BadInputError(msg)

    def _legal_defocus(self) -> Array:
        """Legal discrete values (n,), or intervals (n, 2) of a continuous defocus, for which there is a legal step."""
        defocus, steps = self.axes[DEFOCUS], self.axes[STEP]
        if defocus.values is not None or defocus.fixed:
            values = defocus.values if defocus.values is not None else np.array([defocus.low])
            low, high = self.step_interval(values)
            step = steps.choose(low, high, np.zeros(len(values)))
            window = np.abs(values) <= self.largest_defocus * (1 + TOLERANCE)
            legal: Array = values[np.isfinite(step) & window]
            return legal
        smallest_step = self.step_interval(np.zeros(1))[0][0]
        if steps.values is not None:
            smallest_step = steps.values[steps.values >= smallest_step * (1 - TOLERANCE)][0]
        needed = smallest_step / (1 - self.config.search.overlap)
        nearest = (
            0.0
            if probe_diameter(self.description, np.zeros(1))[0] >= needed
            else needed / (2e-3 * self.description.semiangle)
        )
        sides = [(-self.largest_defocus, -nearest), (nearest, self.largest_defocus)]
        if nearest == 0.0:
            sides = [(-self.largest_defocus, self.largest_defocus)]
        clipped = [(max(a, defocus.low), min(b, defocus.high)) for a, b in sides]
        slack = TOLERANCE * self.largest_defocus
        return np.array([(a, max(a, b)) for a, b in clipped if a <= b + slack])
