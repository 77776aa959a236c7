"""Quasi-random settings: Sobol's sequence over the legal set."""

from __future__ import annotations

import numpy as np

from agent.policy.baseline import Baseline
from agent.policy.book import ObservationBook
from agent.policy.limits import Array
from agent.policy.space import SearchSpace, as_points

SAME = 1e-3
"""Points nearer than this in the model's coordinates are the same settings."""


def sobol_point(space: SearchSpace, book: ObservationBook, seed: int, *, dose_min: float, dose_max: float) -> Array:
    """Point (3,) of the scrambled sequence that belongs to the next trial, or the first after it that is new.

    Scrambling: Owen (1998), as in scipy.stats.qmc. Sobol's order makes every prefix of the sequence fill the space evenly.
    """
    from scipy.stats import qmc

    index = len(book.exploration)
    cube = qmc.Sobol(3, scramble=True, rng=np.random.default_rng(seed)).random_base2(int(index + 64).bit_length())
    points = space.draw(cube, dose_min=dose_min, dose_max=dose_max)
    points = np.roll(points, -index, axis=0) if len(points) else space.frugal[None]
    known = space.to_unit(as_points(o.settings for o in book.all))
    distance = np.linalg.norm(space.to_unit(points)[:, None] - known[None], axis=-1)
    new = np.flatnonzero((distance > SAME).all(axis=1))
    return points[new[0] if new.size else 0]


class SobolPolicy(Baseline):
    """Spreads the trials evenly over the legal set and keeps the best."""

    name = "sobol"

    def _next(self, book: ObservationBook) -> tuple[Array, str]:
        low, high = self._dose_range(book)
        point = sobol_point(self.space, book, self.seed, dose_min=low, dose_max=high)
        return point, f"point {len(book.exploration) + 1} of a Sobol sequence over the legal settings"
