"""What may be proposed: the settings that instrument and campaign allow together.

A point is a row (step Å, defocus Å, dose e/Å²). The limits of the single settings are intervals or lists of values; the
others couple them:

- electrons per pattern, dose · step², between what frame rate, saturation or recording allow;
- the geometric probe disc 2α|Δf| fills at most a given part of the window 1/Δk of one pattern;
- neighbouring probes overlap linearly by at least 1 − step/diameter;
- a trial's field holds enough positions for a probe to be learned from them.

All of them are monotonic in each setting, so legal points can be drawn without rejection: defocus first, then a step from
the interval this defocus leaves, then a dose from the interval this step leaves.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from agent.config import CampaignConfig
from agent.errors import BadInputError
from agent.policy.limits import TOLERANCE, Array, Axis, Constraint, edge_values, interval_limit, log_margin
from agent.records import Settings
from instrument import optics
from instrument.models import Description

NAMES = ("step", "defocus", "dose")
SMALLEST_RASTER = 8
"""Positions along each edge of a trial's field: fewer do not determine a probe."""
ACTIVE = 0.03
"""A constraint counts as active within this relative distance of its limit."""
DOSE_DECADES = 20.0
"""Scale of the model's dose axis: what is left of the score once it is divided by the dose curve changes slowly with dose.

A shorter scale lets a few low-dose trials explain a bad step or defocus as an effect of the dose, and nothing is predicted at
the final dose any more (campaigns on the simulated column: 5.4 ± 2.1 predicted, 9.9 measured; with this scale 8.9 ± 0.4)."""


class SearchSpace:
    """The legal settings of trials and of the final acquisition. Raises BadInputError where there are none.

    Attributes:
        axes: step, defocus and dose of a trial, without the coupled limits.
        final_doses: of the final acquisition, likewise.
        variables: names of the settings that are not fixed.
        frugal: (3,) the legal trial with the smallest dose.
    """

    def __init__(self, description: Description, config: CampaignConfig) -> None:
        self.description = description
        self.config = config
        search = config.search
        self.axes = (
            Axis.between("step", description.step, search.step),
            Axis.between("defocus", description.defocus, search.defocus),
            Axis.between("dose", description.dose, search.dose),
        )
        self.final_doses = Axis.between("dose", description.dose, None)
        self.variables = tuple(a.name for a in self.axes if not a.fixed)
        self.largest_defocus = search.largest_defocus(description)
        self._largest_dose = description.region_dose_limit or math.inf
        self._shared = self._coupled_limits()
        self._of_trials = (*self._shared, *self._trial_limits())
        self._of_final = (*self._shared, interval_limit(self.final_doses, 2))
        self.frugal = self._most_frugal()
        self._defocus_choices = self._legal_defocus()
        self._unit_low, self._unit_span = self._unit_scale()

    # -- legality ------------------------------------------------------------------------------------------------

    def why_illegal(self, settings: Settings, *, final: bool = False) -> str | None:
        """The limits that `settings` break, with values; None where they are legal.

        The final acquisition is free of what only concerns trials: search.dose and the size of their field.
        """
        point = as_points([settings])
        broken = [c.sentence(settings) for c in self._limits(final) if c.margin(point)[0] < -TOLERANCE]
        return "; ".join(broken) or None

    def is_legal(self, points: Array, *, final: bool = False) -> NDArray[np.bool_]:
        """(n,) whether each of the points (n, 3) is legal."""
        legal = np.ones(len(points), dtype=bool)
        for constraint in self._limits(final):
            legal &= constraint.margin(points) >= -TOLERANCE
        return legal

    def active_constraint(self, settings: Settings, *, final: bool = False) -> str | None:
        """The constraint that is nearest, in words, where it is nearer than 3 %."""
        point = as_points([settings])
        nearest = min(self._limits(final), key=lambda c: float(c.margin(point)[0]))
        return nearest.sentence(settings) if nearest.margin(point)[0] < ACTIVE else None

    def _limits(self, final: bool) -> tuple[Constraint, ...]:
        return self._of_final if final else self._of_trials

    # -- intervals -----------------------------------------------------------------------------------------------

    def step_interval(self, defocus: Array, dose_max: float = math.inf) -> tuple[Array, Array]:
        """Smallest and largest step, each (n,), of a trial at `defocus` (n,) with a dose up to `dose_max`; low > high: none."""
        step, _, dose = self.axes
        fewest, most = self.description.electrons_per_pattern
        field = self.config.exploration
        low = max(step.low, math.sqrt(fewest / min(dose.high, self._largest_dose, dose_max)))
        high = min(step.high, math.sqrt(most / dose.low), field.height / SMALLEST_RASTER, field.width / SMALLEST_RASTER)
        overlapping = (1 - self.config.search.overlap) * self._diameter(defocus)
        return np.full(defocus.shape, low), np.minimum(high, overlapping)

    def dose_interval(self, step: Array, *, final: bool = False) -> tuple[Array, Array]:
        """Smallest and largest legal dose, each (n,), at `step` (n,); low > high: none."""
        low, high = self.description.dose.bounds if final else (self.axes[2].low, self.axes[2].high)
        fewest, most = self.description.electrons_per_pattern
        return np.maximum(low, fewest / step**2), np.minimum(min(high, self._largest_dose), most / step**2)

    @property
    def smallest_dose(self) -> float:
        """Smallest dose of any legal trial, e/Å²."""
        return float(self.frugal[2])

    # -- drawing -------------------------------------------------------------------------------------------------

    def draw(self, cube: Array, *, dose_min: float = 0.0, dose_max: float = math.inf) -> Array:
        """Legal points (m, 3), m ≤ n, from numbers in the unit cube (n, 3): which defocus, step and dose, in this order.

        No dose is above `dose_max`; none is below `dose_min` where step and `dose_max` leave the choice. Points are
        dropped only where discrete values leave no legal dose or step.
        """
        if np.ndim(self._defocus_choices) == 1:
            index = np.minimum(cube[:, 0] * len(self._defocus_choices), len(self._defocus_choices) - 1).astype(int)
            defocus = self._defocus_choices[index]
        else:
            lengths = self._defocus_choices[:, 1] - self._defocus_choices[:, 0]
            along = cube[:, 0] * lengths.sum()
            edges = np.concatenate([[0.0], np.cumsum(lengths)])
            part = np.clip(np.searchsorted(edges, along, side="right") - 1, 0, len(lengths) - 1)
            defocus = self._defocus_choices[part, 0] + along - edges[part]
        step = self.axes[0].choose(*self.step_interval(defocus, dose_max), cube[:, 1])
        found = np.isfinite(step)
        defocus, step = defocus[found], step[found]
        low, high = self.dose_interval(step)
        high = self.axes[2].at_most(np.minimum(high, dose_max))
        dose = self.axes[2].choose(np.maximum(low, np.minimum(dose_min, high)), high, cube[found, 2])
        points = np.stack([step, defocus, dose], axis=1)[np.isfinite(dose)]
        return points[self.is_legal(points)]

    def legal_doses(self, step: float, *, dose_max: float = math.inf, count: int = 24) -> Array:
        """Doses a trial at `step` may have, ascending: all discrete ones, or `count` on a logarithmic scale; may be empty."""
        low, high = (float(v[0]) for v in self.dose_interval(np.array([step])))
        high = min(high, dose_max)
        values = self.axes[2].values
        if values is not None:
            return values[(values >= low * (1 - TOLERANCE)) & (values <= high * (1 + TOLERANCE))]
        if low > high * (1 + TOLERANCE):
            return np.zeros(0)
        return np.geomspace(low, high, count) if high > low * (1 + TOLERANCE) else np.array([low])

    # -- model coordinates ---------------------------------------------------------------------------------------

    def to_unit(self, points: Array) -> Array:
        """Points (n, 3) as the model sees them, (n, variables): log step and defocus scaled to 0 … 1, log dose.

        The unit of the dose axis is DOSE_DECADES decades above the smallest dose, whatever the limits are.
        """
        return ((_model_scale(points) - self._unit_low) / self._unit_span)[
            :, [name in self.variables for name in NAMES]
        ]

    def dose_of(self, unit: Array) -> Array:
        """Dose (…), e/Å², of model coordinates (…, variables)."""
        if "dose" not in self.variables:
            return np.full(unit.shape[:-1], self.axes[2].low)
        return np.exp(self._unit_low[2] + self._unit_span[2] * unit[..., -1])

    def _unit_scale(self) -> tuple[Array, Array]:
        low = _model_scale(np.array([[a.low for a in self.axes]]))[0]
        span = _model_scale(np.array([[a.high for a in self.axes]]))[0] - low
        span[2] = DOSE_DECADES * math.log(10)
        return low, np.where(span > 0, span, 1.0)

    # -- limits --------------------------------------------------------------------------------------------------

    def _diameter(self, defocus: Array) -> Array:
        """optics.probe_diameter for arrays."""
        focused = optics.probe_diameter(self.description.semiangle, 0.0, self.description.voltage)
        return np.maximum(2e-3 * self.description.semiangle * np.abs(defocus), focused)

    def _coupled_limits(self) -> tuple[Constraint, ...]:
        fewest, most = self.description.electrons_per_pattern
        overlap = self.config.search.overlap
        slope = 2e-3 * self.description.semiangle

        def overlap_of(p: Array) -> Array:
            return 1 - p[:, 0] / self._diameter(p[:, 1])

        limits = [
            interval_limit(self.axes[0], 0),
            interval_limit(self.axes[1], 1),
            Constraint(
                "electrons per pattern",
                f"{fewest:g} … {most:g}",
                lambda p: log_margin(p[:, 2] * p[:, 0] ** 2, fewest, most),
                lambda s: f"dose · step² is {s.dose * s.step**2:.4g}",
            ),
            Constraint(
                "window",
                f"at most {slope * self.largest_defocus:.4g} Å ({self.config.search.window:g} of 1/Δk)",
                lambda p: 1 - np.abs(p[:, 1]) / self.largest_defocus,
                lambda s: f"the probe disc 2α|Δf| is {slope * abs(s.defocus):.4g} Å wide",
            ),
            Constraint(
                "overlap",
                f"at least {100 * overlap:.3g} %",
                lambda p: overlap_of(p) - overlap,
                lambda s: f"neighbouring probes overlap by {100 * overlap_of(as_points([s]))[0]:.3g} %",
            ),
        ]
        if math.isfinite(self._largest_dose):
            limits.append(
                Constraint(
                    "region dose",
                    f"at most {self._largest_dose:g} {self.description.dose_unit}",
                    lambda p: np.log(self._largest_dose / p[:, 2]),
                    lambda s: f"dose is {s.dose:g}",
                )
            )
        return tuple(limits)

    def _trial_limits(self) -> tuple[Constraint, ...]:
        field = self.config.exploration
        shorter = min(field.height, field.width)
        return (
            interval_limit(self.axes[2], 2),
            Constraint(
                "positions",
                f"at least {SMALLEST_RASTER} along the shorter edge of the trial's field ({shorter:g} Å)",
                lambda p: shorter / p[:, 0] / SMALLEST_RASTER - 1,
                lambda s: f"a step of {s.step:g} Å gives {math.floor(shorter / s.step + 1e-6)}",
            ),
        )

    def _corners(self) -> Array:
        """Points (n, 3) among which is a legal one if there is any, as the limits are monotonic in each setting.

        Those outside of single limits are there to tell which of them stand in the way.
        """
        step, defocus, dose = self.axes
        field = self.config.exploration
        fewest, most = self.description.electrons_per_pattern
        slope = 2e-3 * self.description.semiangle
        overlap = 1 - self.config.search.overlap
        nearest = (step.low if step.values is None else step.values.min()) / overlap / slope
        reach = (0.0, self.largest_defocus, nearest)
        defoci = edge_values(defocus, (*reach, *(-r for r in reach)))
        edges = [field.height / SMALLEST_RASTER, field.width / SMALLEST_RASTER]
        doses = dose.values if dose.values is not None else (dose.low, min(dose.high, self._largest_dose))
        edges += [math.sqrt(e / d) for e in (fewest, most) for d in doses]
        steps = edge_values(step, (*edges, *(overlap * self._diameter(defoci))))
        points = []
        for s in steps[(steps > 0.1 * step.low) & (steps < 10 * step.high)]:
            doses = edge_values(dose, (fewest / s**2, most / s**2, min(self._largest_dose, dose.high)))
            points += [(s, f, d) for f in defoci for d in doses[doses > 0]]
        return np.array(points)

    def _most_frugal(self) -> Array:
        corners = self._corners()
        legal = np.stack([c.margin(corners) >= -TOLERANCE for c in self._of_trials])
        found = corners[legal.all(axis=0)]
        if len(found):
            return found[np.argmin(found[:, 2])]
        collide = [c for i, c in enumerate(self._of_trials) if np.delete(legal, i, axis=0).all(axis=0).any()]
        if not collide:
            best = int(np.argmax(legal.sum(axis=0)))
            collide = [c for i, c in enumerate(self._of_trials) if not legal[i, best]]
        limits = " and ".join(f"{c.name} ({c.limit})" for c in collide)
        msg = f"no settings are legal: these limits collide: {limits}; widen one of them"
        raise BadInputError(msg)

    def _legal_defocus(self) -> Array:
        """Legal discrete values (n,), or intervals (n, 2) of a continuous defocus, for which there is a legal step."""
        defocus = self.axes[1]
        if defocus.values is not None or defocus.fixed:
            values = defocus.values if defocus.values is not None else np.array([defocus.low])
            low, high = self.step_interval(values)
            step = self.axes[0].choose(low, high, np.zeros(len(values)))
            window = np.abs(values) <= self.largest_defocus * (1 + TOLERANCE)
            return values[np.isfinite(step) & window]
        smallest_step = self.step_interval(np.zeros(1))[0][0]
        if self.axes[0].values is not None:
            smallest_step = self.axes[0].values[self.axes[0].values >= smallest_step * (1 - TOLERANCE)][0]
        needed = smallest_step / (1 - self.config.search.overlap)
        nearest = 0.0 if self._diameter(np.zeros(1))[0] >= needed else needed / (2e-3 * self.description.semiangle)
        sides = [(-self.largest_defocus, -nearest), (nearest, self.largest_defocus)]
        if nearest == 0.0:
            sides = [(-self.largest_defocus, self.largest_defocus)]
        clipped = [(max(a, defocus.low), min(b, defocus.high)) for a, b in sides]
        slack = TOLERANCE * self.largest_defocus
        return np.array([(a, max(a, b)) for a, b in clipped if a <= b + slack])


def as_points(settings: Iterable[Settings]) -> Array:
    """Settings as rows (step, defocus, dose), (n, 3)."""
    return np.array([(s.step, s.defocus, s.dose) for s in settings], dtype=np.float64).reshape(-1, 3)


def as_settings(point: Array) -> Settings:
    """One row (step, defocus, dose) as Settings."""
    return Settings(step=float(point[0]), defocus=float(point[1]), dose=float(point[2]))


def _model_scale(points: Array) -> Array:
    return np.stack([np.log(points[:, 0]), points[:, 1], np.log(points[:, 2])], axis=1)
