"""What an agent asks of a ledger with a million exposures, over real sockets."""

from __future__ import annotations

import statistics
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from examples import square
from large_ledger import fill
from served_stripes import Frames, make_plan
from striped_microscope import StripedMicroscope

from instrument import InstrumentClient, InstrumentServer
from instrument.ledger import Ledger

EXPOSURES = 1_000_000
LIMIT = 0.05


async def median(ask: Callable[[], Awaitable[Any]]) -> float:
    took = []
    for _ in range(9):
        began = time.perf_counter()
        await ask()
        took.append(time.perf_counter() - began)
    return statistics.median(took)


@pytest.mark.timeout(900)
async def test_a_million_exposures_are_no_burden(tmp_path: Path):
    ledger = Ledger(tmp_path)
    fill(ledger, EXPOSURES, whole_trail=True)
    ledger.close()
    Ledger(tmp_path).close()  # makes the map
    began = time.perf_counter()
    async with (
        InstrumentServer(StripedMicroscope(region_dose_limit=1e9), state_dir=tmp_path) as server,
        InstrumentClient(server.control) as client,
        client.lease(),
    ):
        print(f"\nstart of the server: {time.perf_counter() - began:.2f} s")
        await client.open_campaign("new", 1e9)
        number = 0

        async def prepare() -> None:
            nonlocal number
            number += 1
            await client.prepare(make_plan(f"new-{number}", campaign="new"))

        questions = {
            "describe": client.describe,
            "illuminated rectangles of the area": lambda: client.illuminated(square(500.0, 5000.0, 5000.0)),
            "account": lambda: client.open_campaign("new", 1e9),
            "prepare": prepare,
            "outcome": lambda: client.outcome("old-77777"),
        }
        times = {name: await median(ask) for name, ask in questions.items()}
        for name, seconds in times.items():
            print(f"{name:40s}{1e3 * seconds:8.1f} ms")
        assert (await client.acquire("new-1", Frames())).state == "done"
        # `prepare` waits for the disk as well.
        assert max(seconds for name, seconds in times.items() if name != "prepare") < LIMIT
        assert times["prepare"] < 10 * LIMIT
