"""An instrument server of the small world in a process of its own, a campaign for it, and an agent that can be killed."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import combinations
from pathlib import Path
from typing import Any

from agent.config import CampaignConfig
from agent.records import CampaignRecord
from instrument import InstrumentClient
from instrument.status import LedgerEntry

HERE = Path(__file__).parent
SERVE = (sys.executable, "-m", "instrument", "serve")
PROCESSING = "small_world:process"

CAMPAIGN: dict[str, Any] = {
    "name": "small",
    "electrons": 2e6,
    "area": {"height": 24, "width": 24},
    "exploration": {"trials": 3, "height": 16, "width": 16, "initial": 3},
    "search": {"step": [0.8, 2.0], "defocus": [50, 150], "dose": [50, 1000]},
    "policy": "random",
    "score": {"field": 12},
}
"""Five acquisitions with the expert's, a second or two."""


class Server:
    """An instrument server process whose state survives it."""

    def __init__(self, state: Path, interval: float = 0.0, factory: str = "make") -> None:
        self.state = state
        self.adapter = f"small_world:{factory}"
        self.interval = interval
        self.endpoint = "tcp://127.0.0.1:*"
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen(
            [*SERVE, self.adapter, "--control", self.endpoint, "--state-dir", str(self.state), "--hold", "0.1"],
            stdout=subprocess.PIPE,
            env={**os.environ, "SMALL_WORLD_INTERVAL": str(self.interval)},
        )
        assert self.process.stdout is not None
        self.endpoint = json.loads(self.process.stdout.readline())["control"]

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def close(self) -> None:
        self.process.terminate()
        self.process.wait(10)
        assert self.process.stdout is not None
        self.process.stdout.close()


@contextmanager
def serving(tmp_path: Path, interval: float = 0.0, factory: str = "make") -> Iterator[Server]:
    server = Server(tmp_path / "instrument", interval, factory)
    try:
        yield server
    finally:
        server.close()


def config(**changes: Any) -> CampaignConfig:
    values = {"metadata": {"sample": "stripes", "operator": "A. Tester"}, "expert": (1.0, 100.0), "seed": 3}
    return CampaignConfig.model_validate({**CAMPAIGN, **values, **changes})


async def ledger(endpoint: str) -> list[LedgerEntry]:
    async with InstrumentClient(endpoint, timeout=5) as client:
        return await client.exposures()


def assert_no_region_exposed_twice(exposures: list[LedgerEntry], world: Path) -> None:
    dosed = [e for e in exposures if e.dose > 0]
    for one, other in combinations(dosed, 2):
        assert not one.illuminated.overlaps(other.illuminated, 1e-4), (one.id, other.id)
    seen = [json.loads(line)["id"] for line in (world / "exposures.jsonl").read_text().splitlines()]
    assert len(seen) == len(set(seen)), "the microscope was told to expose an acquisition twice"


def outline(record: CampaignRecord) -> list[tuple[Any, ...]]:
    return [(t.number, t.role, t.state, t.settings, t.score, t.electrons) for t in record.trials]


async def agent_process(verb: str, folder: Path, endpoint: str, file: Path, moment: str) -> int:
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(HERE / "agent_process.py"), verb, str(folder), endpoint, str(file), moment
    )
    return await process.wait()
