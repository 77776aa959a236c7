"""What becomes of a campaign whose process has ended, and what `serve` does when it is told to stop."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, closing
from pathlib import Path

import pytest
from small_campaign import config

from agent.errors import BadInputError
from agent.facility.jobs import JobState
from agent.facility.process import CampaignProcess, unused_folder
from agent.facility.queue import CAMPAIGNS, Queue
from agent.facility.serve import MOST_RESTARTS, Facility, only_one
from agent.storage.journal import Journal

GOLDEN = Path(__file__).parents[3] / "integration" / "golden_campaigns" / "finished"
LIMIT = 30.0


@pytest.fixture
def queue(tmp_path: Path) -> Iterator[Queue]:
    with Queue(tmp_path / "facility", create=True) as opened:
        opened.set_instruments({"titan": "tcp://127.0.0.1:5555", "arm": "tcp://127.0.0.1:5556"})
        yield opened


def put(queue: Queue, instrument: str = "titan") -> int:
    return queue.add(config(), instrument=instrument, directory=queue.folder).number


def program(text: str) -> tuple[str, ...]:
    """A process in the place of a campaign's."""
    return (sys.executable, "-S", "-c", text)


@asynccontextmanager
async def serving(queue: Queue, text: str) -> AsyncIterator[Facility]:
    facility = Facility(queue, launch=program(text), restart_pause=0.0)
    running = asyncio.create_task(facility.run())
    yield facility
    async with asyncio.timeout(LIMIT):
        await facility.stop()
        await facility.stop()
        await running


async def until(true: Callable[[], object]) -> None:
    async with asyncio.timeout(LIMIT):
        while not true():
            await asyncio.sleep(0.01)


@pytest.mark.parametrize(
    ("state", "reason", "becomes"),
    [
        ("done", "", JobState.DONE),
        ("failed", "three trials in a row have failed", JobState.FAILED),
        ("running", "", JobState.INTERRUPTED),
        ("stopped", "stopped by SIGTERM", JobState.INTERRUPTED),
        ("stopped", "no instrument answers at tcp://127.0.0.1:5555 (tried for 60 s)", JobState.INTERRUPTED),
        ("stopped", "stopped by Ruska (ctl): the specimen moves", JobState.HELD),
        ("stopped", "the instrument is in SAFE", JobState.HELD),
    ],
)
def test_what_nobody_decided_goes_on_by_itself_and_the_rest_waits_for_a_person(
    queue: Queue, state: str, reason: str, becomes: JobState
) -> None:
    job = queue.change(put(queue), JobState.RUNNING, folder="c-0001")
    shutil.copytree(GOLDEN, queue.folder / CAMPAIGNS / "c-0001")
    with Journal.open(queue.folder / CAMPAIGNS / "c-0001") as journal:
        journal.write(state=state, reason=reason)  # type: ignore[typeddict-item]
    found, why = CampaignProcess(queue.folder, job).outcome()
    assert found is becomes
    assert why.startswith(reason)


def test_a_journal_that_cannot_be_read_is_never_begun_anew(queue: Queue) -> None:
    job = queue.change(put(queue), JobState.RUNNING, folder="c-0001")
    shutil.copytree(GOLDEN, queue.folder / CAMPAIGNS / "c-0001")
    with closing(sqlite3.connect(queue.folder / CAMPAIGNS / "c-0001" / "journal.sqlite")) as connection:
        connection.execute("PRAGMA user_version = 99")
    assert CampaignProcess(queue.folder, job).outcome()[0] is JobState.HELD, (
        "what it has exposed is for a person to see"
    )


async def test_a_campaign_that_is_refused_fails_with_its_reason_and_the_next_one_has_its_turn(queue: Queue) -> None:
    first, second = put(queue), put(queue)
    refusal = "import sys; sys.exit('ptychopilot: area: overlaps a region that was exposed before')"
    async with serving(queue, refusal):
        await until(lambda: queue.job(second).state is JobState.FAILED)
    assert queue.job(first).reason == "area: overlaps a region that was exposed before"
    assert [state for _, state, _ in queue.history(first)] == ["queued", "running", "failed"]


async def test_a_campaign_that_dies_again_and_again_is_held(queue: Queue) -> None:
    number = put(queue)
    async with serving(queue, "import os; os.abort()"):
        await until(lambda: queue.job(number).state is JobState.HELD)
    assert queue.job(number).restarts == MOST_RESTARTS + 1
    assert queue.next_job("titan") is None


async def test_instruments_run_side_by_side_and_a_running_job_is_cancelled(queue: Queue) -> None:
    one, other = put(queue), put(queue, "arm")
    async with serving(queue, "import time; time.sleep(600)"):
        await until(lambda: queue.job(one).pid and queue.job(other).pid)
        queue.cancel(one, "no specimen")
        await until(lambda: queue.job(one).state is JobState.CANCELLED)
        assert queue.job(other).state is JobState.RUNNING
    assert queue.job(one).reason == "no specimen"
    assert queue.job(other).state is JobState.INTERRUPTED, "serve was stopped, nobody has cancelled it"


def test_nobody_else_serves_the_same_queue(queue: Queue) -> None:
    with (
        only_one(queue.folder),
        pytest.raises(BadInputError, match="another `ptychopilot serve`"),
        only_one(queue.folder),
    ):
        pass


def test_a_folder_without_a_journal_is_left_alone(queue: Queue) -> None:
    job = queue.job(put(queue))
    (queue.folder / CAMPAIGNS / "c-0001").mkdir()
    assert unused_folder(queue.folder, job) == "c-0001"
    (queue.folder / CAMPAIGNS / "c-0001" / "journal.lock").touch()
    assert unused_folder(queue.folder, job) == "c-0001-2"
