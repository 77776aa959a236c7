"""Settings at random: the least a policy has to beat."""

from __future__ import annotations

import numpy as np

from agent.policy.baseline import Baseline
from agent.policy.book import ObservationBook
from agent.policy.limits import Array


class RandomPolicy(Baseline):
    """Draws each trial independently from the legal set and keeps the best."""

    name = "random"

    def _next(self, book: ObservationBook) -> tuple[Array, str]:
        low, high = self._dose_range(book)
        generator = np.random.default_rng([self.seed, book.next_number])
        points = self.space.draw(generator.random((256, 3)), dose_min=low, dose_max=high)
        return points[0] if len(points) else self.space.frugal, "drawn at random from the legal settings"
