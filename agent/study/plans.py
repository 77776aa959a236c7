"""Which settings a study tries on a column, from what the column's microscope says of itself, and where on the specimen."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Literal

from agent.search_choice import Search
from instrument import optics
from instrument.models import AcquisitionPlan, Description, Rectangle

FIRST_WINDOW = 1 / 3
"""Part of the window 1/Δk that the probe disc of a first acquisition fills."""
FIRST_STEP, STEPS = 0.18, (0.4, 2.0)
"""Step of a first acquisition: part of its probe disc, within so many Å."""
FIRST_DOSE = 1e4
"""e/Å²."""
FIRST_FIELD, FIRST_POSITIONS = 24.0, 21
"""Edge of a first acquisition's field: at least so many Å, and so many steps."""
SCORED = 18.0
"""Edge of the scored square, Å, three quarters of the field as in a campaign."""
FIELD = 24.0
MARGIN = 2.5
"""Å of truth beside the scored square, within which a picture may be shifted."""
GRID = {
    False: ((0.6, 1.3, 3.0), (-1.0, -0.4, 0.1, 0.4, 1.0), (1e3, 1e4)),
    True: ((0.9, 2.4), (-0.5, 0.15, 0.8), (1e3,)),
}
"""Quick or not -> steps, Å; parts of the legal window of defocus; doses, e/Å²."""


@dataclass(frozen=True)
class Wanted:
    """What is asked for on the command line. None: the study's own.

    Attributes:
        doses: e/Å².
        steps: Å.
        defoci: nominal, Å, positive for underfocus.
        quick: fewer settings.
    """

    doses: tuple[float, ...] | None = None
    steps: tuple[float, ...] | None = None
    defoci: tuple[float, ...] | None = None
    quick: bool = False


@dataclass(frozen=True)
class Planned:
    """An acquisition of a study.

    Attributes:
        plan: of the acquisition.
        scored: square, Å; None: it only calibrates.
        cell: number of its settings in the grid.
        final: whether its patterns are gone over until held-out counts gain no more, as for a campaign's final picture.
    """

    plan: AcquisitionPlan
    scored: Rectangle | None = None
    cell: int = 0
    final: bool = False

    @property
    def truth(self) -> Rectangle | None:
        """The part of the specimen whose true phase is needed."""
        return None if self.scored is None else self.scored.grown(MARGIN)


def legal_defocus(description: Description) -> float:
    """The largest |defocus|, Å, that a campaign may choose: the instrument's, within the window 1/Δk of one pattern."""
    low, high = description.defocus.bounds
    return min(-low, high, Search().largest_defocus(description))


def first_settings(description: Description) -> tuple[float, float]:
    """Step and defocus, Å, with which a careful operator begins: a third of the window, much overlap."""
    detector = description.detector
    window = optics.largest_defocus(description.semiangle, detector.angular_pixel, description.voltage)
    defocus = min(FIRST_WINDOW * window, description.defocus.bounds[1])
    disc = optics.probe_diameter(description.semiangle, defocus, description.voltage)
    return min(max(FIRST_STEP * disc, STEPS[0]), STEPS[1]), defocus


def calibration_plans(number: int, description: Description, wanted: Wanted) -> list[Planned]:
    """First acquisitions of a column, one for each combination that is wanted.

    Args:
        number: of the column.
        description: of its microscope.
        wanted: what takes the place of a careful operator's choice.
    """
    step, defocus = first_settings(description)
    settings = list(product(wanted.steps or (step,), wanted.defoci or (defocus,), wanted.doses or (FIRST_DOSE,)))
    edge = max(_first_edge(step) for step, _, _ in settings)
    return [
        Planned(_plan(f"calibration-{number}-{cell}", place, _first_edge(step), step, defocus, dose), cell=cell)
        for cell, ((step, defocus, dose), place) in enumerate(
            zip(settings, _places(description.area, edge, len(settings)), strict=True)
        )
    ]


def score_plans(number: int, description: Description, wanted: Wanted) -> list[Planned]:
    """A first acquisition to calibrate with, then each setting in two passes and in one, at a fresh place.

    Args:
        number: of the column.
        description: of its microscope.
        wanted: what takes the place of the study's own grid.
    """
    steps, parts, doses = GRID[wanted.quick]
    defoci = wanted.defoci or tuple(part * legal_defocus(description) for part in parts)
    settings = list(product(wanted.steps or steps, defoci, wanted.doses or doses))
    step, defocus = first_settings(description)
    places = _places(description.area, FIELD, len(settings) + 1)
    planned = [Planned(_plan(f"first-{number}", places[0], _first_edge(step), step, defocus, FIRST_DOSE))]
    for cell, (place, (step, defocus, dose)) in enumerate(zip(places[1:], settings, strict=True)):
        scored = _square(place, SCORED)
        edge = math.ceil(FIELD / step - 1e-6) * step
        for passes in (2, 1):
            plan = _plan(f"score-{number}-{cell}-{passes}", place, edge, step, defocus, dose, passes)
            planned.append(Planned(plan, scored, cell))
    return planned


def _first_edge(step: float) -> float:
    return max(math.ceil(FIRST_FIELD / step - 1e-6), FIRST_POSITIONS) * step


def _plan(
    id: str,
    place: tuple[float, float],
    edge: float,
    step: float,
    defocus: float,
    dose: float,
    passes: Literal[1, 2] = 1,
) -> AcquisitionPlan:
    field = _square(place, edge)
    return AcquisitionPlan(
        id=id, campaign="study", region=id, field=field, step=step, defocus=defocus, dose=dose, passes=passes
    )


def _square(middle: tuple[float, float], edge: float) -> Rectangle:
    return Rectangle(y=middle[0] - edge / 2, x=middle[1] - edge / 2, height=edge, width=edge)


def _places(area: Rectangle, edge: float, count: int) -> Sequence[tuple[float, float]]:
    """Middles, (y, x), of fields on a raster over the area; the fields overlap where it is too small for all.

    The simulated specimen stays pristine, so that only their atoms are the same then, not their electrons.
    """
    side = math.ceil(math.sqrt(count))

    def along(start: float, length: float) -> list[float]:
        room = max(length - edge, 0.0)
        return [start + length / 2 + room * ((i + 0.5) / side - 0.5) for i in range(side)]

    return list(product(along(area.y, area.height), along(area.x, area.width)))[:count]
