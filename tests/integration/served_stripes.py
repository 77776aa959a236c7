"""A striped microscope behind a real server, and a client of it: what the instrument tests share."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from examples import plan
from striped_microscope import CURRENT, StripedMicroscope

from instrument import (
    AcquisitionPlan,
    InstrumentClient,
    InstrumentServer,
    Outcome,
    SeriesStart,
    decode_chunk,
)
from instrument.models import ELEMENTARY_CHARGE

PER_PATTERN = 100.0
OVERHEAD = 10.0
ELECTRONS_PER_SECOND = CURRENT * 1e-12 / ELEMENTARY_CHARGE


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
    return plan(name, size, 20, 30, **({"region": "r1", "defocus": 50.0, "dose": dose} | changes))


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


class UnderWay(NamedTuple):
    """What runs while an acquisition does."""

    microscope: StripedMicroscope
    server: InstrumentServer
    client: InstrumentClient
    running: asyncio.Task[Outcome]


@asynccontextmanager
async def under_way(folder: Path, sink: Frames | None = None, **options: Any) -> AsyncIterator[UnderWay]:
    """An acquisition that stays at its sixth frame, beam on, until something blanks it."""
    microscope = StripedMicroscope()
    microscope.held_at = 5
    async with serving(folder, microscope, stall_timeout=60.0, **options) as (server, client), client.lease():
        await client.prepare(make_plan())
        async with asyncio.TaskGroup() as tasks:
            running = tasks.create_task(client.acquire("a1", sink or Frames()))
            await until(lambda: microscope.exposed.get("a1") == 5)
            yield UnderWay(microscope, server, client, running)


async def until(condition: Callable[[], Any], limit: float = 5.0) -> None:
    async with asyncio.timeout(limit):
        while not condition():
            await asyncio.sleep(0.005)


async def until_phase(client: InstrumentClient, phase: str, limit: float = 5.0) -> None:
    async with asyncio.timeout(limit):
        while (await client.status()).phase != phase:
            await asyncio.sleep(0.005)
