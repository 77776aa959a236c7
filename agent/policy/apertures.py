"""The legal settings where the instrument offers apertures: the convergence semi-angle is a fourth, discrete setting.

Window, overlap, electrons per pattern and what a scan takes besides its dose depend on the aperture. So the space is made of one
`SearchSpace` for each, and a point is a row (step Å, defocus Å, dose e/Å², semi-angle mrad).
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from agent.config import CampaignConfig
from agent.errors import BadInputError
from agent.policy.coordinates import ModelCoordinates, as_points
from agent.policy.limits import SEMIANGLE, TOLERANCE, Array, Axis
from agent.policy.space import SearchSpace
from agent.records import Settings
from agent.scan_prices import Overheads
from instrument.models import Description, same_angle


def search_space(description: Description, config: CampaignConfig, overheads: Overheads | None = None) -> SearchSpace:
    """The legal settings of a campaign.

    Args:
        description: of the instrument.
        config: of the campaign.
        overheads: what scans take besides their dose, with the present aperture; None: nothing.

    Raises:
        BadInputError: no settings are legal, or an aperture is not offered.
    """
    if config.search.has_apertures(description):
        return ApertureSpace(description, config, overheads)
    config.search.through(description)
    return SearchSpace(description, config, overheads)


def with_angle(point: Array, part: SearchSpace) -> Array:
    """(4,) a point (3,) with the semi-angle of the part that it lies in."""
    return np.array([*point, part.description.semiangle], dtype=np.float64)


class ApertureSpace(SearchSpace):
    """The legal settings over several apertures. An aperture with which nothing is legal is left out."""

    dimensions = 4
    _parts: tuple[SearchSpace, ...]
    _angles: Array

    def __init__(self, description: Description, config: CampaignConfig, overheads: Overheads | None = None) -> None:
        """See SearchSpace."""
        self.description, self.config, self.overheads = description, config, overheads or Overheads()
        parts: list[SearchSpace] = []
        refused: BadInputError | None = None
        for behind in config.search.through(description):
            try:
                parts.append(SearchSpace(behind, config, self.overheads.through(description, behind.semiangle)))
            except BadInputError as error:
                refused = refused or BadInputError(f"with the aperture of {behind.semiangle:g} mrad {error}")
        if not parts:
            assert refused is not None
            raise refused
        self._parts = tuple(parts)
        self._angles = np.array([part.description.semiangle for part in parts])
        whole = Axis("semiangle", "mrad", float(self._angles[0]), float(self._angles[-1]), self._angles)
        self.axes = (*parts[0].axes, whole)
        self.final_doses = parts[0].final_doses
        self.coordinates = ModelCoordinates(self.axes)
        self.variables = self.coordinates.names
        self.largest_defocus = max(part.largest_defocus for part in parts)
        lowest = np.stack([with_angle(part.lowest_dose_trial, part) for part in parts])
        self.lowest_dose_trial = lowest[np.argmin(self.charge(lowest))]

    @property
    def parts(self) -> tuple[SearchSpace, ...]:
        """See SearchSpace."""
        return self._parts

    def at(self, point: Array) -> SearchSpace:
        """See SearchSpace; of an aperture that may not be chosen, the nearest one's."""
        return self._parts[int(self._which(point[None])[0])]

    def split(self, points: Array) -> list[tuple[SearchSpace, NDArray[np.bool_]]]:
        """See SearchSpace."""
        which = self._which(points)
        return [(part, which == number) for number, part in enumerate(self._parts)]

    def points(self, settings: Iterable[Settings]) -> Array:
        """See SearchSpace."""
        return as_points(settings, self.description.semiangle)

    def why_illegal(self, settings: Settings, *, final: bool = False) -> str | None:
        """See SearchSpace."""
        angle = settings.semiangle or self.description.semiangle
        for part in self._parts:
            if same_angle(angle, part.description.semiangle):
                return part.why_illegal(settings, final=final)
        return f"semiangle: {angle:g} mrad, must be one of {self.axes[SEMIANGLE].legal()}"

    def is_legal(self, points: Array, *, final: bool = False, any_dwell: bool = False) -> NDArray[np.bool_]:
        """See SearchSpace."""
        away = np.abs(points[:, SEMIANGLE, None] / self._angles - 1).min(axis=1)
        legal: NDArray[np.bool_] = away <= TOLERANCE
        for part, inside in self.split(points):
            legal[inside] &= part.is_legal(points[inside], final=final, any_dwell=any_dwell)
        return legal

    def active_constraint(self, settings: Settings, *, final: bool = False) -> str | None:
        """See SearchSpace."""
        return self.at(self.points([settings])[0]).active_constraint(settings, final=final)

    def charge(self, points: Array) -> Array:
        """See SearchSpace."""
        total = np.zeros(len(points))
        for part, inside in self.split(points):
            total[inside] = part.charge(points[inside])
        return total

    @property
    def dose_is_discrete(self) -> bool:
        """See SearchSpace."""
        return any(part.dose_is_discrete for part in self._parts)

    def draw(self, cube: Array, *, dose_min: float = 0.0, dose_max: float = math.inf) -> Array:
        """See SearchSpace. A cube (n, 3) that leaves the aperture open gives points with the present one."""
        wanted = np.full(len(cube), self.description.semiangle)
        if cube.shape[1] > SEMIANGLE:
            number = np.minimum((cube[:, SEMIANGLE] * len(self._parts)).astype(int), len(self._parts) - 1)
            wanted = self._angles[number]
        points = np.full((len(cube), 4), np.nan)
        points[:, SEMIANGLE] = wanted
        for part, inside in self.split(points):
            rows = np.flatnonzero(inside)
            found, kept = part.drawn(cube[rows, :SEMIANGLE], dose_min=dose_min, dose_max=dose_max)
            points[rows[kept], :SEMIANGLE], points[rows, SEMIANGLE] = found, part.description.semiangle
        legal: Array = points[np.isfinite(points).all(axis=1)]
        if not len(legal) and self.dose_is_discrete and self.smallest_dose <= dose_max:
            return self.lowest_dose_trial[None]
        return legal

    def nearest(self, point: Array, *, dose_max: float = math.inf) -> Array:
        """See SearchSpace; with the aperture of the point (4,), or the present one where it names none (3,)."""
        wanted = point if len(point) > SEMIANGLE else np.append(point, self.description.semiangle)
        part = self.at(wanted)
        return with_angle(part.nearest(wanted[:SEMIANGLE], dose_max=dose_max), part)

    def _which(self, points: Array) -> NDArray[np.int64]:
        """(n,) number of the part whose semi-angle is nearest to that of each point (n, 4)."""
        nearest: NDArray[np.int64] = np.argmin(np.abs(points[:, SEMIANGLE, None] - self._angles), axis=1)
        return nearest
