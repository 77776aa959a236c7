"""A pool of reconstruction processes: bounded, shared, and a job is neither lost with its worker nor with the pool."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from pathlib import Path

import psutil
import pytest

from agent.config import ScoreChoice
from agent.errors import StoppedError
from agent.processing.child import ProcessingError
from agent.processing.pool import POOL, LeasedProcess, LocalWorkers, lending
from agent.processing.process import ProcessingJob
from agent.reconstruction_choice import ReconstructionChoice
from instrument.models import Rectangle

LIMIT = 120.0
BEHAVIOUR = '''
"""What a job does is told by the name of its acquisition."""
import os, signal, time
from agent.processing.process import ProcessingResult
from agent.records import Score

def process(job, on_progress):
    lives = job.output.with_name("lives")
    if job.acquisition.stem == "die" and len(lives.read_text()) > 0:
        lives.write_text(lives.read_text()[1:])
        os.kill(os.getpid(), signal.SIGKILL)
    if job.acquisition.stem == "hang":
        time.sleep(600)
    on_progress("first", 0.5)
    score = Score(value=job.seed, sd=0.1)
    return ProcessingResult(
        score=score, defocus_measured=1.0, deviance=1.0, passes=1, device=str(os.getpid()), seconds={"all": 0.1}
    )
'''


def job(name: str, seed: int = 0, folder: Path = Path("/data")) -> ProcessingJob:
    return ProcessingJob(
        acquisition=Path(f"/data/{name}.h5"),
        output=folder / "out.h5",
        column_output=Path("/data/column.json"),
        scored=Rectangle(y=0, x=0, height=1, width=1),
        reconstruction=ReconstructionChoice(),
        score=ScoreChoice(),
        seed=seed,
    )


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "behaviour.py").write_text(BEHAVIOUR)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


async def test_campaigns_share_one_process_and_a_lost_one_is_replaced(folder: Path) -> None:
    workers = LocalWorkers(1)
    told: list[tuple[str, float]] = []
    one, other = (LeasedProcess(folder, "behaviour:process") for _ in range(2))
    async with lending(workers, folder):
        assert oct((folder / POOL).stat().st_mode & 0o777) == "0o600"
        first, second = await asyncio.gather(
            one.run(job("good", 1), lambda phase, part: told.append((phase, part))), other.run(job("good", 2))
        )
        assert (first.score.value, second.score.value) == (1, 2)
        assert first.device == second.device != str(os.getpid()), "one process, one after the other"
        assert told == [("first", 0.5)]
        (folder / "lives").write_text("x")
        assert (await one.run(job("die", 3, folder))).score.value == 3, "somebody killed it, the job is not to blame"
        with pytest.raises(ProcessingError, match=r"longer than 0\.2 s"):
            await other.run(job("hang"), timeout_s=0.2)
    assert workers.busy == workers.waiting == 0
    assert not (folder / POOL).exists()


async def test_a_campaign_that_goes_away_frees_its_process_and_one_whose_pool_goes_away_finds_the_next(
    folder: Path,
) -> None:
    async with asyncio.timeout(LIMIT):
        workers = LocalWorkers(1)
        async with lending(workers, folder):
            gone = asyncio.create_task(LeasedProcess(folder, "behaviour:process").run(job("hang")))
            while not workers.busy:
                await asyncio.sleep(0.01)
            waiting = asyncio.create_task(LeasedProcess(folder, "behaviour:process").run(job("good", 7)))
            while not workers.waiting:
                await asyncio.sleep(0.01)
        assert not waiting.done()
        gone.cancel()
        async with lending(LocalWorkers(1), folder):
            assert (await waiting).score.value == 7


async def test_a_process_that_is_killed_while_it_starts_costs_the_job_no_attempt(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agent.processing.pool.ATTEMPTS", 1)
    (folder / "starts.py").write_text(
        "import os, pathlib, signal\n"
        "from behaviour import process\n"
        "first = pathlib.Path(__file__).with_name('first')\n"
        "if first.exists():\n"
        "    first.unlink()\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    (folder / "first").touch()
    async with asyncio.timeout(LIMIT), lending(LocalWorkers(1), folder):
        campaign = LeasedProcess(folder, "starts:process")
        assert (await campaign.run(job("good", 4))).score.value == 4
        (folder / "lives").write_text("x")
        with pytest.raises(ProcessingError, match="SIGKILL"):
            await campaign.run(job("die", folder=folder))  # it was at work: this may be the job's fault


async def test_a_pause_is_acknowledged_by_the_process_that_computes_and_not_for_one_that_hangs(folder: Path) -> None:
    workers = LocalWorkers(1)
    campaign, waiting = (LeasedProcess(folder, "behaviour:process") for _ in range(2))
    async with asyncio.timeout(LIMIT), lending(workers, folder):
        await campaign.acknowledge()  # nothing is computed for it
        pid = int((await campaign.run(job("good"))).device)
        work = asyncio.create_task(campaign.run(job("hang", folder=folder)))
        while not workers.busy:
            await asyncio.sleep(0.01)
        await campaign.acknowledge()
        other = asyncio.create_task(waiting.run(job("good", 5)))
        while not workers.waiting:
            await asyncio.sleep(0.01)
        await waiting.acknowledge()  # it waits for a process: nobody computes for it

        os.kill(pid, signal.SIGSTOP)
        while any(
            psutil.Process(thread.id).status() != psutil.STATUS_STOPPED for thread in psutil.Process(pid).threads()
        ):
            await asyncio.sleep(0.01)
        asking = asyncio.create_task(campaign.acknowledge())
        await asyncio.wait([asking], timeout=0.3)
        assert not asking.done()
        work.cancel()  # the campaign goes away: who does not answer is ended, and its place is free
        assert (await other).score.value == 5
        await asking
        await asyncio.wait([work])


async def test_without_a_pool_the_campaign_stops_and_says_what_to_do(folder: Path) -> None:
    (folder / POOL).write_text(json.dumps({"port": 1, "secret": "x"}))
    with pytest.raises(StoppedError, match="start `ptychopilot serve"):
        await LeasedProcess(folder, patience=0.0).run(job("good"))


async def test_who_does_not_know_the_secret_is_not_answered(folder: Path) -> None:
    async with lending(LocalWorkers(1), folder):
        told = json.loads((folder / POOL).read_text())
        (folder / POOL).write_text(json.dumps(told | {"secret": "guessed"}))
        with pytest.raises(StoppedError):
            await LeasedProcess(folder, "behaviour:process", patience=0.0).run(job("good"))
