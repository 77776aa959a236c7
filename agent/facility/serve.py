"""Who runs the queue: starts the campaign whose turn it is on each instrument, sees it end, and resumes what was interrupted.

Every step is in the queue before it is taken. Campaigns outlive this process, and the next one takes them over.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from agent.errors import BadInputError
from agent.facility.jobs import ALIVE, JobState
from agent.facility.process import LAUNCH, SERVE, CampaignProcess, unused_folder
from agent.facility.queue import Queue
from agent.status.commands import new_command
from agent.status.local import send
from agent.storage.journal import is_begun

LOCK = "serve.lock"
POLL_S = 0.25
"""s between two looks at the queue."""
MOST_RESTARTS = 5
"""Of a job, without a person having a look."""
RESTART_PAUSE_S = 5.0
logger = logging.getLogger(__name__)


class Facility:
    """Runs the campaigns of a queue.

    Args:
        queue: of the facility.
        options: further ones for `run` and `resume`.
        launch: the command that starts a campaign, without its verb.
        restart_pause: s before what was interrupted is resumed.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        queue: Queue,
        *,
        options: Sequence[str] = (),
        launch: Sequence[str] = LAUNCH,
        restart_pause: float = RESTART_PAUSE_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._queue = queue
        self._options = tuple(options)
        self._launch = tuple(launch)
        self._pause = restart_pause
        self._clock = clock
        self._processes: dict[int, CampaignProcess] = {}
        self._not_before: dict[int, float] = {}
        self._stops = 0

    async def run(self) -> None:
        """Until it is stopped and the last campaign has ended."""
        for job in self._queue.jobs(*ALIVE):
            self._processes[job.number] = CampaignProcess(self._queue.folder, job)
            logger.info("job %d (%s): taken over", job.number, job.name)
        while not self._stops or self._processes:
            self._reap()
            for job in self._queue.jobs(JobState.CANCELLING):
                if (process := self._processes.get(job.number)) is not None:
                    process.terminate(job.pid)
            if not self._stops:
                for instrument, endpoint in self._queue.instruments().items():
                    self._start_next(instrument, endpoint)
            await asyncio.sleep(POLL_S)

    async def stop(self) -> None:
        """First: nothing new, and each campaign ends after what it does now. Then: at once. Then: they are left alone."""
        self._stops += 1
        for number, process in tuple(self._processes.items()):
            try:
                if self._stops > 1:
                    raise BadInputError("it takes too long")
                reply = await send(process.folder, "stop", new_command(SERVE))
                if not reply.accepted:
                    raise BadInputError(reply.text)
            except BadInputError as error:
                logger.info("job %d: %s", number, error)
                process.terminate(self._queue.job(number).pid)
        if self._stops > 2:
            self._processes.clear()

    def _reap(self) -> None:
        """Write down what became of the campaigns whose process has ended."""
        for number, process in tuple(self._processes.items()):
            if process.alive():
                continue
            del self._processes[number]
            job = self._queue.job(number)
            state, reason = process.outcome()
            if job.state is JobState.CANCELLING and state is not JobState.DONE:
                state, reason = JobState.CANCELLED, job.reason
            restarts = job.restarts
            if state is JobState.INTERRUPTED and not self._stops:
                restarts += 1
                self._not_before[number] = self._clock() + self._pause
                if restarts > MOST_RESTARTS:
                    state, reason = JobState.HELD, f"interrupted {restarts} times; the last time: {reason}"
            self._queue.change(number, state, reason, pid=None, restarts=restarts)
            logger.info("job %d (%s): %s %s", number, job.name, state, reason)

    def _start_next(self, instrument: str, endpoint: str) -> None:
        job = self._queue.next_job(instrument)
        if job is None or self._not_before.get(job.number, 0.0) > self._clock():
            return
        folder = job.folder
        if not folder or not is_begun(CampaignProcess(self._queue.folder, job).folder):
            folder = unused_folder(self._queue.folder, job)
        try:
            job = self._queue.change(job.number, JobState.RUNNING, folder=folder)
        except BadInputError:  # somebody was faster, and has cancelled it
            return
        process = self._processes[job.number] = CampaignProcess(self._queue.folder, job)
        pid = process.start(endpoint, self._options, self._launch)
        self._queue.set(job.number, pid=pid, release=0)
        logger.info("job %d (%s): begun on %s, process %d", job.number, job.name, instrument, pid)


@contextmanager
def only_one(folder: Path) -> Iterator[None]:
    """Nobody else serves a facility while the block lasts.

    Args:
        folder: of the facility.

    Raises:
        BadInputError: somebody does.
    """
    lock = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            msg = f"{folder}: another `ptychopilot serve` runs this queue; stop it first"
            raise BadInputError(msg) from error
        yield
    finally:
        os.close(lock)
