"""Whatever happens in the reconstruction process, the campaign gets an answer and the next job a working process."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from agent.config import ScoreChoice
from agent.errors import StoppedError
from agent.processing.child import ProcessingError, ReconstructionProcess, give_way
from agent.processing.process import ProcessingJob
from agent.reconstruction_choice import ReconstructionChoice
from instrument.models import Rectangle

BEHAVIOUR = '''
"""What a job does is told by the name of its acquisition."""
import os, signal, sys, time
from agent.errors import StoppedError
from agent.processing.process import ProcessingResult
from agent.records import Score

def process(job, on_progress):
    name = job.acquisition.stem
    print("chatter on stdout must not disturb the conversation")
    if name == "die":
        job.output.with_name(job.output.name + ".part").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    if name == "exit":
        print("out of memory", file=sys.stderr, flush=True)
        os._exit(3)
    if name == "raise":
        raise ValueError("makes no sense")
    if name == "full":
        raise StoppedError("the disk is full")
    if name == "hang":
        time.sleep(600)
    on_progress("first", 0.5)
    on_progress("first", 1.0)
    score = Score(value=job.seed, sd=0.1, frequency=tuple(range(20000)))
    return ProcessingResult(
        score=score, defocus_measured=1.0, deviance=1.0, passes=1, device=str(os.getpid()), seconds={"all": 0.1}
    )
'''


@pytest.fixture
async def child(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[ReconstructionProcess]:
    (tmp_path / "behaviour.py").write_text(BEHAVIOUR)
    monkeypatch.syspath_prepend(str(tmp_path))
    async with ReconstructionProcess("behaviour:process") as running:
        yield running


def job(name: str, seed: int = 0) -> ProcessingJob:
    return ProcessingJob(
        acquisition=Path(f"/data/{name}.h5"),
        output=Path("/data/out.h5"),
        column_output=Path("/data/column.json"),
        scored=Rectangle(y=0, x=0, height=1, width=1),
        reconstruction=ReconstructionChoice(),
        score=ScoreChoice(),
        seed=seed,
    )


async def test_results_and_progress_come_back_and_the_process_stays_warm(child: ReconstructionProcess) -> None:
    progress: list[tuple[str, float]] = []
    first = await child.run(job("good", 1), lambda phase, part: progress.append((phase, part)))
    second = await child.run(job("good", 2))
    assert (first.score.value, second.score.value) == (1, 2)
    assert progress == [("first", 0.5), ("first", 1.0)]
    assert first.device == second.device != str(os.getpid())


@pytest.mark.parametrize(
    ("name", "message"),
    [("die", "SIGKILL"), ("exit", "exit code 3: out of memory"), ("raise", "ValueError: makes no sense")],
)
async def test_a_lost_job_is_a_typed_error_and_the_next_one_works(
    child: ReconstructionProcess, tmp_path: Path, name: str, message: str
) -> None:
    with pytest.raises(ProcessingError, match=message):
        await child.run(job(name).model_copy(update={"output": tmp_path / "out.h5"}))
    assert "out.h5.part" not in os.listdir(tmp_path), "nothing half-written stays behind"
    assert (await child.run(job("good", 7))).score.value == 7


async def test_a_full_disk_stops_the_campaign_rather_than_costing_it_trial_after_trial(
    child: ReconstructionProcess,
) -> None:
    with pytest.raises(StoppedError, match="disk is full"):
        await child.run(job("full"))


async def test_a_hanging_job_is_ended(child: ReconstructionProcess) -> None:
    await child.run(job("good"))
    with pytest.raises(ProcessingError, match=r"longer than 0\.2 s"):
        await child.run(job("hang"), timeout_s=0.2)
    assert (await child.run(job("good", 7))).score.value == 7


async def test_a_processing_that_cannot_be_loaded_is_said_by_the_job() -> None:
    async with ReconstructionProcess("no_such_module:process") as child:
        with pytest.raises(ProcessingError, match="no_such_module"):
            await child.run(job("good"))


ORPHAN = """
import asyncio, os, signal, sys
sys.path.insert(0, {path!r})
from agent.processing.child import ReconstructionProcess
async def main():
    async with ReconstructionProcess("behaviour:process") as child:
        print(child._process.pid, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
asyncio.run(main())
"""


def test_the_process_ends_when_its_parent_is_killed(tmp_path: Path) -> None:
    (tmp_path / "behaviour.py").write_text(BEHAVIOUR)
    parent = subprocess.Popen(
        [sys.executable, "-c", ORPHAN.format(path=str(tmp_path))], stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    parent.wait()
    parent.stdout.close()
    descriptor = os.pidfd_open(pid) if _alive(pid) else None
    if descriptor is not None:
        import select

        ended, _, _ = select.select([descriptor], [], [], 20)
        os.close(descriptor)
        assert ended


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def stopped(process: int) -> bool:
    """Whether all threads of a process are."""
    threads = Path(f"/proc/{process}/task").iterdir()
    return all(each.joinpath("stat").read_text().split(")")[1].split()[0] == "T" for each in threads)


async def test_a_child_at_work_answers_and_one_that_is_stopped_does_not(child: ReconstructionProcess) -> None:
    done = await child.run(job("idle"))
    await child.acknowledge()
    work = asyncio.ensure_future(child.run(job("hang")))
    await asyncio.sleep(0)
    await child.acknowledge()
    os.kill(int(done.device), signal.SIGSTOP)
    while not stopped(int(done.device)):
        await asyncio.sleep(0.01)  # a stop reaches one thread after the other
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.3):
            await child.acknowledge()
    os.kill(int(done.device), signal.SIGCONT)
    await child.acknowledge()
    work.cancel()
    await asyncio.wait([work])
    assert (await child.run(job("idle", seed=2))).score.value == 2


@pytest.mark.skipif(not hasattr(os, "SCHED_IDLE"), reason="Linux knows processes that run on idle cores only")
def test_a_process_that_gives_way_runs_on_idle_cores_only() -> None:
    with subprocess.Popen(["sleep", "60"], start_new_session=True) as process:
        try:
            give_way(process.pid)
            assert os.getpriority(os.PRIO_PROCESS, process.pid) == 19
            assert os.sched_getscheduler(process.pid) == os.SCHED_IDLE
            session = Path(f"/proc/{process.pid}/autogroup")
            assert not session.exists() or session.read_text().split()[-1] == "19"
        finally:
            process.kill()
    give_way(process.pid)  # it has ended: nothing to do
