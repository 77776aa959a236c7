"""Acquisitions of one campaign, a setting at a time, as control systems command them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from instrument.chunks import decode_chunk
from instrument.client import InstrumentClient
from instrument.errors import ConflictError, InstrumentError, OutOfLimitsError
from instrument.models import AcquisitionPlan, Description, Rectangle

FIELD = ("y", "x", "height", "width")
SETTINGS = (*FIELD, "step", "defocus", "dose")
"""Å; dose in e/Å². y and x are the corner of the field."""


@dataclass
class StepResult:
    """What an acquisition brought.

    Attributes:
        id: of the acquisition.
        frames: that arrived.
        electrons: that it cost.
        counts: mean of a pattern.
        picture: (detector_y, detector_x), sum of all patterns.
    """

    id: str
    frames: int
    electrons: float
    counts: float
    picture: NDArray[np.float64]


@dataclass
class _Sum:
    """Takes frames and keeps their sum."""

    picture: NDArray[np.float64]
    frames: int = 0

    def start(self, header: object) -> None: ...

    def frame(self, index: int, chunk: bytes, shape: tuple[int, int], dtype: np.dtype[Any]) -> None:
        self.picture += decode_chunk(chunk, shape, dtype)
        self.frames += 1


@dataclass
class AcquisitionSteps:
    """Settings that are checked one by one, and acquisitions with them.

    Args:
        client: connected.
        campaign: whose electrons are spent.
        electrons: of the campaign.

    Attributes:
        description: of the instrument.
        values: setting -> value, SETTINGS.
        left: electrons that the campaign still has.
    """

    client: InstrumentClient
    campaign: str
    electrons: float
    values: dict[str, float] = field(default_factory=dict)
    left: float = 0.0

    async def open(self) -> None:
        """Ask the instrument what is legal, open the campaign, and set what is possible in the middle of the area."""
        self.description: Description = await self.client.describe()
        told = self.description
        account = await self.client.open_campaign(self.campaign, self.electrons)
        self.left = account.left
        self._count = len(await self.client.exposures(self.campaign))
        self._busy = asyncio.Lock()
        step = told.step.bounds[0]
        size = min(10 * step, told.area.height, told.area.width)
        low, high = (each / step**2 for each in told.electrons_per_pattern)
        foci = told.defocus.values or tuple(sorted((*told.defocus.bounds, 0.0)))[1:2]
        self.values = {
            "y": told.area.y + (told.area.height - size) / 2,
            "x": told.area.x + (told.area.width - size) / 2,
            "height": size,
            "width": size,
            "step": step,
            "defocus": min(foci, key=abs),
            "dose": min(max(4 * low, told.dose.bounds[0]), high, told.dose.bounds[1]),
        }

    def limits(self, name: str) -> tuple[float, float]:
        """Smallest and largest legal value.

        Args:
            name: of the setting.
        """
        area = self.description.area
        if name in ("y", "x"):
            low = getattr(area, name)
            return low, low + (area.height if name == "y" else area.width)
        if name in FIELD:
            return self.description.step.bounds[0], getattr(area, name)
        bounds: tuple[float, float] = getattr(self.description, name).bounds
        return bounds

    def set(self, name: str, value: float) -> None:
        """Set one setting; nothing is moved before the next acquisition.

        Args:
            name: of it.
            value: Å, or e/Å².

        Raises:
            OutOfLimitsError: it is not legal; the message says what is.
        """
        if name in FIELD:
            low, high = self.limits(name)
            if not low <= value <= high:
                msg = f"{name} of {value:g} Å is not possible here; legal: {low:g} … {high:g} Å"
                raise OutOfLimitsError(msg, parameter=name, value=value, minimum=low, maximum=high)
        else:
            getattr(self.description, name).check(name, value)
        self.values[name] = value

    async def acquire(self, on_begin: Callable[[str], Awaitable[None]] | None = None) -> StepResult:
        """Expose with the settings as they are; the lease is held for as long as it takes.

        Args:
            on_begin: told the acquisition's id.

        Raises:
            InstrumentError: why it was refused, or did not come to its end.
        """
        if self._busy.locked():
            raise ConflictError("an acquisition runs; wait for its end, or blank")
        async with self._busy:
            plan = self._plan()
            if on_begin is not None:
                await on_begin(plan.id)
            sink = _Sum(np.zeros(self.description.detector.shape))
            async with self.client.lease():
                await self.client.prepare(plan)
                outcome = await self.client.acquire(plan.id, sink)
            self.left = (await self.client.open_campaign(self.campaign, self.electrons)).left
            if outcome.state != "done":
                raise InstrumentError(f"acquisition {plan.id} was {outcome.state}: {outcome.reason}")
            counts = float(sink.picture.sum()) / max(1, sink.frames)
            return StepResult(plan.id, sink.frames, outcome.electrons, counts, sink.picture)

    def _plan(self) -> AcquisitionPlan:
        self._count += 1
        try:
            return AcquisitionPlan(
                id=f"{self.campaign}-{self._count}",
                campaign=self.campaign,
                region=self.campaign,
                field=Rectangle(**{name: self.values[name] for name in FIELD}),
                **{name: self.values[name] for name in SETTINGS if name not in FIELD},
            )
        except ValidationError as error:
            raise OutOfLimitsError("; ".join(each["msg"] for each in error.errors())) from error
