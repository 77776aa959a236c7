"""A Microscope as fast as its server: 128 × 128 uint16 patterns with Poisson noise, made once and dealt out again and again."""

from __future__ import annotations

from collections.abc import AsyncIterator

import numpy as np
from examples import between, check, description, detector, one_of, square

from instrument import AcquisitionPlan, Description, Frame, Health, PlanCheck

SHAPE = (128, 128)


class PatternSource:
    """A disc of 12.5 electrons per pixel over half of the width, 1 % of it elsewhere."""

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        y, x = np.indices(SHAPE) - 64
        mean = np.where(np.hypot(y, x) < 32, 12.5, 0.125)
        self._patterns = rng.poisson(mean, (64, *SHAPE)).astype(np.uint16)

    async def describe(self) -> Description:
        return description(
            name="pattern source",
            beam_current=None,
            detector=detector(SHAPE[0], 0.67),
            step=one_of(1.0),
            defocus=one_of(0.0),
            dose=between(1.0, 1e6, "e/Å²"),
            electrons_per_pattern=(1.0, 1e6),
            area=square(1e4),
        )

    async def check(self, plan: AcquisitionPlan) -> PlanCheck:
        return check(plan, dwell_time=0.0, bytes=plan.n_positions * 2 * SHAPE[0] * SHAPE[1])

    async def acquire(self, plan: AcquisitionPlan) -> AsyncIterator[Frame]:
        for index in range(plan.n_positions):
            yield Frame(index, self._patterns[index % 64])

    def blank(self) -> None:
        """There is no beam."""

    async def health(self) -> Health:
        return Health(blanked=True)
