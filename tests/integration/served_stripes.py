"""A striped microscope behind a real server, and a client of it: what the instrument tests share."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
from striped_microscope import StripedMicroscope

from instrument import (
    AcquisitionPlan,
    InstrumentClient,
    InstrumentServer,
    Rectangle,
    SeriesStart,
    decode_chunk,
)

PER_PATTERN = 100.0
OVERHEAD = 10.0


class Frames:
    """A sink that keeps what it is given."""

    def __init__(self, fail_at: int | None = None) -> None:
        self.header: SeriesStart | None = None
        self.patterns: dict[int, np.ndarray] = {}
        self.fail_at = fail_at

    def start(self, header: SeriesStart) -> None:
        self.header = header

    def frame(self, index: int, chunk: bytes, pattern_shape: tuple[int, int], dtype: np.dtype[Any]) -> None:
        if index == self.fail_at:
            raise OSError(28, "No space left on device")
        self.patterns[index] = decode_chunk(chunk, pattern_shape, dtype)


def make_plan(name: str = "a1", size: float = 10.0, dose: float = PER_PATTERN, **changes: Any) -> AcquisitionPlan:
    fields = {
        "id": name,
        "campaign": "c",
        "region": "r1",
        "field": Rectangle(y=20, x=30, height=size, width=size),
        "step": 1.0,
        "defocus": 50.0,
        "dose": dose,
    }
    return AcquisitionPlan(**{**fields, **changes})


@asynccontextmanager
async def serving(
    folder: Path, microscope: StripedMicroscope, budget: float = 1e6, **options: Any
) -> AsyncIterator[tuple[InstrumentServer, InstrumentClient]]:
    async with (
        InstrumentServer(microscope, state_dir=folder / "state", **options) as server,
        InstrumentClient(server.control, timeout=5.0, request_timeout=5.0) as client,
    ):
        await client.open_campaign("c", budget)
        yield server, client


async def until(condition: Callable[[], Any], limit: float = 5.0) -> None:
    async with asyncio.timeout(limit):
        while not condition():
            await asyncio.sleep(0.005)


async def until_phase(client: InstrumentClient, phase: str, limit: float = 5.0) -> None:
    async with asyncio.timeout(limit):
        while (await client.status()).phase != phase:
            await asyncio.sleep(0.005)
