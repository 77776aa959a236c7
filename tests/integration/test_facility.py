"""A facility's day: campaigns wait for their instrument, share the reconstruction processes, and survive what is killed."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import psutil
import pytest
from facility_soak import campaign, check
from served_small_world import Server, ledger

from agent.facility.jobs import JobState
from agent.facility.queue import CAMPAIGNS, Queue
from agent.facility.serve import Facility
from agent.processing.pool import LocalWorkers, lending
from agent.storage.journal import load_campaign

HERE = Path(__file__).parent
LAUNCH = (sys.executable, str(HERE / "facility_campaign.py"))
LIMIT = 120.0


@asynccontextmanager
async def serving(queue: Queue) -> AsyncIterator[LocalWorkers]:
    """What `ptychopilot serve` does; leaving the block is its death, and the campaigns are left alone."""
    facility = Facility(queue, options=["--wait", "20"], launch=LAUNCH, restart_pause=0.2)
    workers = LocalWorkers(1)
    async with lending(workers, queue.folder):
        running = asyncio.create_task(facility.run())
        try:
            yield workers
        finally:
            running.cancel()
            await asyncio.wait([running])
            assert running.cancelled() or running.exception() is None


async def until(true: Callable[[], object]) -> None:
    async with asyncio.timeout(LIMIT):
        while not true():
            await asyncio.sleep(0.02)


def worker_processes() -> list[psutil.Process]:
    return [each for each in psutil.Process().children() if "agent.processing.child" in each.cmdline()]


@pytest.fixture
def queue(server: Server, tmp_path: Path) -> Queue:
    opened = Queue(tmp_path / "facility", create=True)
    opened.set_instruments({"i0": server.endpoint})
    return opened


def states(queue: Queue) -> list[JobState]:
    return [job.state for job in sorted(queue.jobs(), key=lambda job: job.number)]


@pytest.mark.usefixtures("world")
async def test_a_campaign_ends_although_a_worker_and_then_serve_itself_are_killed(queue: Queue, server: Server) -> None:
    later, first = (
        queue.add(campaign(number, None), instrument="i0", directory=HERE, priority=number).number
        for number in range(2)
    )
    async with serving(queue) as workers:
        await until(lambda: workers.busy and worker_processes())
        worker_processes()[0].kill()
        await until(lambda: not workers.busy)
    assert states(queue) == [JobState.QUEUED, JobState.RUNNING], "the higher priority first, and one at a time"
    queue.cancel(later)
    async with serving(queue):
        await until(lambda: queue.job(first).state is JobState.DONE)
    record = load_campaign(queue.folder / CAMPAIGNS / "c1-0002")
    assert all(trial.state == "done" for trial in record.trials), "a lost worker costs a retry, a lost pool nothing"
    check(queue, {"i0": await ledger(server.endpoint)})
