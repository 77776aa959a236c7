"""A Dask cluster in the place of the pool's processes: results, refusals, and a worker that is lost in the middle of a job.

Part of `make soak-serve`.
"""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
from pathlib import Path

import pytest
from distributed import LocalCluster

from agent.config import ScoreChoice
from agent.errors import StoppedError
from agent.processing.child import ProcessingError
from agent.processing.dask_workers import DaskWorkers
from agent.processing.process import ProcessingJob
from agent.reconstruction_choice import ReconstructionChoice
from instrument.models import Rectangle

BEHAVIOUR = '''
"""What a job does is told by the name of its acquisition."""
import os, signal, time
from agent.errors import StoppedError
from agent.processing.process import ProcessingResult
from agent.records import Score

def process(job, on_progress):
    first_time = job.output.parent / "first time"
    if job.acquisition.stem == "die once" and not first_time.exists():
        first_time.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    if job.acquisition.stem == "wait":
        (job.output.parent / "begun").touch()
        while not (job.output.parent / "go on").exists():
            time.sleep(0.01)
    if job.acquisition.stem == "raise":
        raise ValueError("makes no sense")
    if job.acquisition.stem == "full":
        raise StoppedError("the disk is full")
    on_progress("first", 0.5)
    score = Score(value=job.seed, sd=0.1)
    return ProcessingResult(
        score=score, defocus_measured=1.0, deviance=1.0, passes=1, device=str(os.getpid()), seconds={"all": 0.1}
    )
'''


def job(folder: Path, name: str, seed: int = 0) -> ProcessingJob:
    return ProcessingJob(
        acquisition=folder / f"{name}.h5",
        output=folder / "out.h5",
        column_output=folder / "column.json",
        scored=Rectangle(y=0, x=0, height=1, width=1),
        reconstruction=ReconstructionChoice(),
        score=ScoreChoice(),
        seed=seed,
    )


async def main(folder: Path) -> None:
    """Play it.

    Args:
        folder: for its files.
    """
    cluster = LocalCluster(
        n_workers=1, threads_per_worker=1, dashboard_address=None, asynchronous=True, silence_logs=50
    )
    async with asyncio.timeout(300), cluster as running:
        workers = await DaskWorkers.connected(running.scheduler_address)
        try:
            result = await workers.run("behaviour:process", job(folder, "die once", 7))
            assert result.score is not None
            assert result.score.value == 7
            assert result.device != str(os.getpid())
            with pytest.raises(ProcessingError, match="ValueError: makes no sense"):
                await workers.run("behaviour:process", job(folder, "raise"))
            with pytest.raises(StoppedError, match="disk is full"):
                await workers.run("behaviour:process", job(folder, "full"))
            assert workers.busy == 0
            await workers.acknowledge(job(folder, "wait"))  # nothing is computed
            work = asyncio.create_task(workers.run("behaviour:process", job(folder, "wait")))
            while not (folder / "begun").exists():
                await asyncio.sleep(0.01)
            await workers.acknowledge(job(folder, "wait"))  # its process answers meanwhile
            assert not work.done()
            (folder / "go on").touch()
            await work
        finally:
            await workers.close()
    print(
        "Dask: a job whose worker was killed was repeated; what fails on the cluster fails here; a pause is acknowledged"
    )


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        (Path(name) / "behaviour.py").write_text(BEHAVIOUR)
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (name, os.environ.get("PYTHONPATH", ""))))
        sys.path.insert(0, name)
        asyncio.run(main(Path(name)))
