"""Frames that contradict the plan: a beam many times too strong, or a detector that is drowned in it.

Either means that the specimen or the detector gets what nobody has asked for. A recording has neither, and is not watched.
"""

from __future__ import annotations

from collections import deque

import numpy as np
from numpy.typing import NDArray

from instrument.models import AcquisitionPlan, Description, PlanCheck

TOO_MANY = 10.0
"""Times the counts that the plan implies."""
FRAMES = 16
"""In a row, before anybody is alarmed."""
DARK_COUNTS = 0.02
"""Of a pixel, allowed for besides those that the detector is known to have."""
DISC_SATURATED = 0.5
"""Part of the bright-field disc that may be saturated in every frame."""


class FrameWatch:
    """Watches the frames of one acquisition.

    Args:
        plan: that is being exposed.
        check: its cost.
        description: of the instrument.

    Attributes:
        electrons: that the counts so far stand for, where they have given alarm; 0 before.
    """

    def __init__(self, plan: AcquisitionPlan, check: PlanCheck, description: Description) -> None:
        detector = description.detector
        pixels = detector.shape[0] * detector.shape[1]
        self._per_electron = detector.counts_per_electron or 1.0
        self._expected = plan.electrons_per_pattern * self._per_electron
        self._limit = TOO_MANY * self._expected + pixels * (2 * detector.dark_counts + DARK_COUNTS)
        # A hot pixel counts for no more than a small part of what is alarming.
        self._cap = max(1, int(self._limit / max(2.0, min(FRAMES, description.disc_pixels / 4))))
        self._saturation = detector.saturation
        self._drowned = max(0.01 * pixels, DISC_SATURATED * description.disc_pixels)
        self._rate_limit = detector.count_rate_limit
        self._dwell = check.dwell_time
        self._plan = plan
        self._sums: deque[float] = deque(maxlen=FRAMES)
        self._total = 0.0
        self._saturated = 0
        self._fast = 0
        self._watched = not (description.repeatable or description.consumable)
        self.electrons = 0.0

    def look(self, pattern: NDArray[np.uint8] | NDArray[np.uint16]) -> str:
        """Why there has to be an alarm; "" where everything is as it should be.

        Args:
            pattern: (detector_y, detector_x) counts.
        """
        if not self._watched:
            return ""
        total, highest = float(np.sum(pattern, dtype=np.uint32)), int(pattern.max())
        self._total += total
        if total > self._limit:
            cap = min(self._cap, int(np.iinfo(pattern.dtype).max))
            total = float(np.minimum(pattern, cap).sum(dtype=np.uint32))
        self._sums.append(total)
        if len(self._sums) == FRAMES and (mean := sum(self._sums) / FRAMES) > self._limit:
            self.electrons = self._total / self._per_electron
            return (
                f"{FRAMES} patterns have {mean:.4g} counts in the mean, the plan implies {self._expected:.4g}: the beam is not "
                "what the description says; check beam current, dwell time and detector"
            )
        full = highest >= self._saturation and np.count_nonzero(pattern >= self._saturation) > self._drowned
        self._saturated = self._saturated + 1 if full else 0
        if self._saturated >= FRAMES:
            return (
                f"{FRAMES} patterns in a row have at least {self._drowned:.0f} saturated pixels: the beam is too strong for the "
                "detector; check beam current and dwell time"
            )
        return self._alarm_of_rate(pattern, highest)

    def _alarm_of_rate(self, pattern: NDArray[np.uint8] | NDArray[np.uint16], highest: int) -> str:
        """Where a whole hundredth of the disc is above what the detector bears: a single pixel may be hot."""
        if self._rate_limit is None or self._dwell <= 0:
            return ""
        most = self._rate_limit * self._dwell
        fast = highest > most and np.count_nonzero(pattern > most) > max(4.0, 0.02 * self._drowned)
        self._fast = self._fast + 1 if fast else 0
        if self._fast < FRAMES:
            return ""
        return (
            f"{FRAMES} patterns in a row have more than {self._rate_limit:g} counts/s in many pixels, which the detector does "
            "not bear; lower the beam current"
        )
