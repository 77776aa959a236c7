"""A bounded number of reconstruction processes that several campaigns share.

`ptychopilot serve` owns the pool. A campaign leases a process for one job at a time: a connection on the loopback interface
is a job, one line of JSON in (`Request`), the lines of `agent.processing.child` out. A further line in asks whether its process
is alive. Port and secret stand in `pool.json`, which this user alone can read. A campaign that goes away takes its job with it;
a pool that goes away is asked again.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
import os
import secrets
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Protocol

from agent.errors import StoppedError
from agent.processing.child import (
    ALIVE,
    MAX_LINE,
    PING,
    PROCESSING,
    THREAD_VARIABLES,
    LostProcessError,
    ProcessingError,
    ReconstructionProcess,
    take_message,
    usable_cores,
)
from agent.processing.process import ProcessingJob, ProcessingResult, Progress
from agent.storage.atomic import write_private
from instrument.models import Record

POOL = "pool.json"
POOL_AWAY = "the reconstruction pool does not answer"
"""How the reason begins for which a campaign stops when its pool stays away."""
PATIENCE_S = 600.0
"""s that a campaign waits for a pool that has gone, such as one that is being restarted."""
ATTEMPTS = 3
"""At a job whose process is killed. The campaign, which does not see them, makes two of its own at whatever fails."""
STARTS = 20
"""Of processes for one job, those included that are killed before they begin it."""
_RETRY_S = 0.5
logger = logging.getLogger(__name__)


class Request(Record):
    """A job for the pool."""

    secret: str
    processing: str
    job: ProcessingJob
    timeout_s: float | None = None


class Workers(Protocol):
    """What computes for a pool: processes on this machine, or a cluster.

    Attributes:
        count: jobs that run at the same time; None: the cluster knows.
        waiting: jobs that wait for a worker.
    """

    count: int | None
    waiting: int

    @property
    def busy(self) -> int:
        """Jobs that run now."""
        ...

    async def run(
        self, processing: str, job: ProcessingJob, on_progress: Progress | None = None, timeout_s: float | None = None
    ) -> ProcessingResult:
        """As ReconstructionProcess.run, with the `module:function` that is to be called."""
        ...

    async def acknowledge(self, job: ProcessingJob) -> None:
        """Return once who computes a job has answered; at once where it waits still."""
        ...

    async def close(self) -> None:
        """End what was started."""
        ...


class LocalWorkers:
    """Child processes of this one. Each starts with its first job; one that died is replaced for the next.

    Args:
        count: at least 1. They share the processor's cores.
        gpus: numbers of the GPUs, which they share by turns; empty: whatever each of them finds.
    """

    def __init__(self, count: int, gpus: Sequence[str] = ()) -> None:
        self.count: int | None = count
        self.waiting = 0
        self._free = asyncio.Semaphore(count)
        self._at_work: dict[Path, ReconstructionProcess] = {}
        self._slots = [_Slot(_environment(number, count, gpus)) for number in range(count)]

    @property
    def busy(self) -> int:
        """Jobs that run now."""
        return sum(slot.busy for slot in self._slots)

    async def run(
        self, processing: str, job: ProcessingJob, on_progress: Progress | None = None, timeout_s: float | None = None
    ) -> ProcessingResult:
        """See Workers. First come, first served; `timeout_s` begins when the job does."""
        self.waiting += 1
        try:
            await self._free.acquire()
        finally:
            self.waiting -= 1
        idle = [slot for slot in self._slots if not slot.busy]
        slot = next((each for each in idle if each.processing == processing), idle[0])
        slot.busy = True
        try:
            process = self._at_work[job.output] = await slot.ready(processing)
            lost = starts = 0
            while True:
                try:
                    return await process.run(job, on_progress, timeout_s)
                except LostProcessError as error:
                    starts, lost = starts + 1, lost + error.begun
                    if lost == ATTEMPTS or starts == STARTS:
                        raise
        finally:
            slot.busy = False
            self._at_work.pop(job.output, None)
            self._free.release()

    async def acknowledge(self, job: ProcessingJob) -> None:
        """See Workers."""
        if (process := self._at_work.get(job.output)) is not None:
            await process.acknowledge()

    async def close(self) -> None:
        """End all of them."""
        for slot in self._slots:
            await slot.close()


class _Slot:
    """The place of one process, which is another one for another processing."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self.busy = False
        self.processing = ""
        self._environment = environment
        self._process: ReconstructionProcess | None = None

    async def ready(self, processing: str) -> ReconstructionProcess:
        if self._process is None or self.processing != processing:
            await self.close()
            self._process, self.processing = ReconstructionProcess(processing, self._environment), processing
        return self._process

    async def close(self) -> None:
        if self._process is not None:
            await self._process.close()


def _environment(number: int, count: int, gpus: Sequence[str]) -> dict[str, str]:
    """Of one worker among `count`: its part of the cores, its GPU."""
    threads = str(max(usable_cores() // count, 1))
    found = {name: os.environ.get(name, threads) for name in THREAD_VARIABLES}
    return found | ({"CUDA_VISIBLE_DEVICES": gpus[number % len(gpus)]} if gpus else {})


@asynccontextmanager
async def lending(workers: Workers, folder: Path) -> AsyncIterator[None]:
    """Take jobs for `workers` from the campaigns of this machine's user while the block lasts.

    Args:
        workers: what computes.
        folder: gets `pool.json`.
    """
    secret = secrets.token_urlsafe(32)
    conversations: set[asyncio.Task[Any]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        conversations.add(task)
        try:
            await _lend(reader, writer, secret, workers)
        except (OSError, ValueError) as error:
            logger.info("a job was not taken: %s", error)
        finally:
            conversations.discard(task)
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, limit=MAX_LINE)
    told = {"port": server.sockets[0].getsockname()[1], "secret": secret}
    write_private(folder / POOL, json.dumps(told))
    try:
        yield
    finally:
        (folder / POOL).unlink(missing_ok=True)
        server.close()
        for task in tuple(conversations):
            task.cancel()
        await asyncio.gather(*conversations, return_exceptions=True)
        await workers.close()


async def _lend(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, secret: str, workers: Workers) -> None:
    """One job, from its request to its result; given up when the campaign goes away."""
    request = Request.model_validate_json(await reader.readline())
    if not hmac.compare_digest(request.secret.encode(), secret.encode()):
        return

    def say(**message: Any) -> None:
        if not writer.is_closing():
            writer.write(json.dumps(message).encode() + b"\n")

    def on_progress(phase: str, fraction: float) -> None:
        say(progress=[phase, fraction])

    async def answer() -> None:
        await workers.acknowledge(request.job)
        say(alive=True)

    async def listen() -> None:
        async with asyncio.TaskGroup() as answers:
            while await reader.readline() == PING:
                answers.create_task(answer())
            raise ConnectionResetError  # who does not answer keeps nobody who has gone

    gone = asyncio.ensure_future(listen())
    work = asyncio.ensure_future(workers.run(request.processing, request.job, on_progress, request.timeout_s))
    try:
        await asyncio.wait({gone, work}, return_when=asyncio.FIRST_COMPLETED)
        if not work.done():
            return
        try:
            say(result=work.result().model_dump(mode="json"))
        except ProcessingError as error:
            say(error=str(error))
        except StoppedError as error:
            say(stopped=str(error))
        except Exception as error:  # the campaign is to hear of it, not to ask again
            logger.exception("the pool failed")
            say(error=f"the pool failed: {type(error).__name__}: {error}")
        await writer.drain()
    finally:
        for each in (gone, work):
            each.cancel()
        await asyncio.gather(gone, work, return_exceptions=True)


class LeasedProcess:
    """A process of a pool, leased anew for each job. The counterpart of `ReconstructionProcess`.

    Args:
        folder: of the facility, with `pool.json`.
        processing: see ReconstructionProcess.
        patience: s to wait for a pool that has gone.
    """

    def __init__(self, folder: Path, processing: str = PROCESSING, patience: float = PATIENCE_S) -> None:
        self._folder = folder
        self._processing = processing
        self._patience = patience
        self._asked: dict[asyncio.StreamWriter, asyncio.Event] = {}

    async def acknowledge(self) -> None:
        """Return once the process has answered that a job is leased to. One that has gone has taken its job with it."""
        asked = tuple(self._asked.items())
        for writer, answered in asked:
            answered.clear()
            writer.write(PING)
        for _, answered in asked:
            await answered.wait()

    async def run(
        self, job: ProcessingJob, on_progress: Progress | None = None, timeout_s: float | None = None
    ) -> ProcessingResult:
        """See ReconstructionProcess.run. A job whose pool goes away is given to the one that comes back.

        Raises:
            ProcessingError: the processing raised, hung or died.
            StoppedError: the disk is full, or there has been no pool for too long.
        """
        clock = asyncio.get_running_loop().time
        lost = clock()
        while True:
            asked = clock()
            try:
                return await self._ask(job, on_progress, timeout_s)
            except (OSError, ValueError, KeyError) as error:
                if clock() - asked > _RETRY_S:  # it had taken the job, and has gone since
                    lost = clock()
                if clock() - lost > self._patience:
                    msg = f"{POOL_AWAY} ({self._folder}); start `ptychopilot serve {self._folder}` and resume"
                    raise StoppedError(msg) from error
                await asyncio.sleep(_RETRY_S)

    async def _ask(self, job: ProcessingJob, on_progress: Progress | None, timeout_s: float | None) -> ProcessingResult:
        """Raises ConnectionError, or another OSError, where there is no pool, or it goes before it has answered."""
        told = json.loads((self._folder / POOL).read_text(encoding="utf-8"))
        request = Request(secret=told["secret"], processing=self._processing, job=job, timeout_s=timeout_s)
        reader, writer = await asyncio.open_connection("127.0.0.1", int(told["port"]), limit=MAX_LINE)
        answered = self._asked[writer] = asyncio.Event()
        try:
            writer.write(request.model_dump_json().encode() + b"\n")
            while line := await reader.readline():
                if line.startswith(ALIVE):
                    answered.set()
                elif (result := take_message(line, on_progress)) is not None:
                    return result
            raise ConnectionResetError("the pool has gone")
        finally:
            del self._asked[writer]
            answered.set()
            writer.close()
