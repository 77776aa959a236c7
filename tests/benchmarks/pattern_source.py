"""A Microscope as fast as its server: 128 × 128 uint16 patterns with Poisson noise, made once and dealt out again and again."""

from __future__ import annotations

from collections.abc import AsyncIterator

import numpy as np

from instrument import AcquisitionPlan, Description, Detector, Frame, Health, Parameter, PlanCheck, Rectangle

SHAPE = (128, 128)


class PatternSource:
    """A disc of 12.5 electrons per pixel over half of the width, 1 % of it elsewhere."""

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        y, x = np.indices(SHAPE) - 64
        mean = np.where(np.hypot(y, x) < 32, 12.5, 0.125)
        self._patterns = rng.poisson(mean, (64, *SHAPE)).astype(np.uint16)

    async def describe(self) -> Description:
        return Description(
            name="pattern source",
            voltage=80e3,
            semiangle=21.4,
            detector=Detector(shape=SHAPE, angular_pixel=0.67, dtype="uint16", saturation=65535),
            step=Parameter(kind="fixed", unit="Å", values=(1.0,)),
            defocus=Parameter(kind="fixed", unit="Å", values=(0.0,)),
            dose=Parameter(kind="continuous", unit="e/Å²", minimum=1.0, maximum=1e6),
            electrons_per_pattern=(1.0, 1e6),
            area=Rectangle(y=0, x=0, height=1e4, width=1e4),
        )

    async def check(self, plan: AcquisitionPlan) -> PlanCheck:
        return PlanCheck(
            n_positions=plan.n_positions,
            shape=plan.shape,
            dwell_time=0.0,
            electrons=plan.electrons,
            duration=0.0,
            bytes=plan.n_positions * 2 * SHAPE[0] * SHAPE[1],
            illuminated=plan.field,
        )

    async def acquire(self, plan: AcquisitionPlan) -> AsyncIterator[Frame]:
        for index in range(plan.n_positions):
            yield Frame(index, self._patterns[index % 64])

    def blank(self) -> None:
        """There is no beam."""

    async def health(self) -> Health:
        return Health(blanked=True)
