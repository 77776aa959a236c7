"""Reconstruction in a child process, so that a crash, a lack of memory or a hang costs one trial and never the campaign.

The child is a plain interpreter, `python -m agent.processing.child MODULE:FUNCTION DESCRIPTOR`. It imports the processing
once and then takes one job after another: JSON lines in on stdin, JSON lines out on a pipe of its own, so that what a
library prints cannot break the protocol. It ends when its parent does.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import queue
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any, Protocol, Self, TypeVar

from agent.errors import AgentError, BadInputError, StoppedError
from agent.plugins import load_attribute
from agent.processing.process import ProcessingJob, ProcessingResult, Progress
from agent.storage.atomic import part_of
from instrument.models import Record

logger = logging.getLogger(__name__)

PROCESSING = "agent.processing:process"
"""The function that turns an acquisition into a score and a reconstruction file, unless a campaign brings its own."""
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
PING = b"alive?\n"
"""A line that is no job: the child's reader answers it, whatever is being computed."""
ALIVE = b'{"alive"'
_BEGUN = b'{"begun"'
_LOOK_AGAIN_S = 0.2
MAX_LINE = 16 * 2**20
"""Bytes of one message; a score with its rings is some ten thousand."""

T = TypeVar("T")


class ProcessingError(AgentError):
    """A reconstruction failed, hung or died; the trial is lost, the campaign is not."""


class LostProcessError(ProcessingError):
    """The process died of a signal: somebody or the lack of memory has killed it, the job need not be to blame.

    Attributes:
        begun: whether it had begun the job. Otherwise the job is surely not to blame.
    """

    begun = False


class JobRunner(Protocol):
    """Whoever processes the jobs of a campaign: a child process of its own, or a pool that others use as well."""

    async def run(
        self, job: ProcessingJob, on_progress: Progress | None = None, timeout_s: float | None = None
    ) -> ProcessingResult:
        """See ReconstructionProcess.run."""
        ...

    async def acknowledge(self) -> None:
        """Return once whoever computes for the campaign now has answered."""
        ...


class ReconstructionProcess:
    """The child process, seen from its parent.

    >>> async with ReconstructionProcess() as child:                    # doctest: +SKIP
    ...     result = await child.run(job, on_progress=print)

    Jobs run one at a time, in the order in which `run` was called. A child that died is replaced for the next job.

    Args:
        processing: `module:function` that the child calls with a ProcessingJob and a Progress.
        environment: variables for the child, above those of this process.
        idle: whether the child gets only what time no other process wants.
    """

    def __init__(
        self, processing: str = PROCESSING, environment: Mapping[str, str] | None = None, *, idle: bool = False
    ) -> None:
        self._processing = processing
        self._environment = dict(environment or {})
        self._idle = idle
        self._process: asyncio.subprocess.Process | None = None
        self._replies: asyncio.StreamReader | None = None
        self._transport: asyncio.ReadTransport | None = None
        self._chatter: IO[bytes] | None = None
        self._one_at_a_time = asyncio.Lock()
        self._answered = asyncio.Event()

    async def __aenter__(self) -> Self:
        await self._start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """End the process; another `run` would start it again."""
        await self._stop()

    async def run(
        self, job: ProcessingJob, on_progress: Progress | None = None, timeout_s: float | None = None
    ) -> ProcessingResult:
        """Process a job.

        Args:
            job: what to do.
            on_progress: called from the event loop with a phase's name and the fraction done.
            timeout_s: s after which the child is killed; None: never.

        Raises:
            ProcessingError: the processing raised, hung or died; the message says why.
            StoppedError: the disk is full.
        """
        try:
            return await self.converse(job, lambda line: take_message(line, on_progress), timeout_s)
        finally:
            # Where the child was ended in the middle of writing, nothing half-written stays behind.
            part_of(job.output).unlink(missing_ok=True)

    async def converse(self, job: Record, take: Callable[[bytes], T | None], timeout_s: float | None = None) -> T:
        """Give a job of any kind and listen to what the child says until it is done.

        Args:
            job: what to do; of the type that the child's function expects.
            take: called from the event loop with each line; its answer, where it has one, is the result.
            timeout_s: s after which the child is killed; None: never.

        Raises:
            ProcessingError: the child hung or died.
        """
        async with self._one_at_a_time:
            if self._process is None or self._process.returncode is not None:
                await self._stop()
                await self._start()
            try:
                async with asyncio.timeout(timeout_s):
                    return await self._converse(job, take)
            except (TimeoutError, asyncio.CancelledError) as error:
                await self._stop()
                if isinstance(error, asyncio.CancelledError):
                    raise
                msg = f"the reconstruction took longer than {timeout_s:g} s and was stopped"
                raise ProcessingError(msg) from error

    async def acknowledge(self) -> None:
        """Return once the child has answered. One that has no job has nothing to acknowledge."""
        process = self._process
        if process is None or process.stdin is None or not self._one_at_a_time.locked():
            return
        self._answered.clear()
        process.stdin.write(PING)
        await process.stdin.drain()
        while self._one_at_a_time.locked() and not self._answered.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_AGAIN_S):
                    await self._answered.wait()

    async def _converse(self, job: Record, take: Callable[[bytes], T | None]) -> T:
        assert self._process is not None
        assert self._process.stdin is not None
        assert self._replies is not None
        try:
            self._process.stdin.write(job.model_dump_json().encode() + b"\n")
            await self._process.stdin.drain()
        except ConnectionError as error:
            raise await self._death() from error
        begun = False
        while line := await self._replies.readline():
            if line.startswith(ALIVE):
                self._answered.set()
            elif line.startswith(_BEGUN):
                begun = True
            elif (result := take(line)) is not None:
                return result
        death = await self._death()
        if isinstance(death, LostProcessError):
            death.begun = begun
        raise death

    async def _death(self) -> ProcessingError:
        assert self._process is not None
        code = await self._process.wait()
        last = self._last_words()
        await self._stop()
        how = f"was killed by signal {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        kind = LostProcessError if code < 0 else ProcessingError
        return kind(f"the reconstruction process {how}" + (f": {last}" if last else ""))

    def _last_words(self) -> str:
        assert self._chatter is not None
        self._chatter.seek(0)
        lines = self._chatter.read().decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else ""

    async def _start(self) -> None:
        self._chatter = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the child
        read_end, write_end = os.pipe()
        try:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "agent.processing.child",
                self._processing,
                str(write_end),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=self._chatter,
                pass_fds=(write_end,),
                env=_child_environment() | self._environment,
                start_new_session=True,  # Ctrl-C in the terminal is the campaign's to handle
            )
        finally:
            os.close(write_end)
        if self._idle:
            give_way(self._process.pid)
        replies = asyncio.StreamReader(limit=MAX_LINE)
        self._transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(replies), os.fdopen(read_end, "rb")
        )
        self._replies = replies

    async def _stop(self) -> None:
        if self._process is not None:
            if self._process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    self._process.kill()
            await self._process.wait()
        if self._transport is not None:
            self._transport.close()
        if self._chatter is not None:
            self._chatter.close()
        self._process = self._replies = self._transport = self._chatter = None


def take_message(line: bytes, on_progress: Progress | None) -> ProcessingResult | None:
    """One line of what a child says: the result of its job, or None where it is progress.

    Args:
        line: of JSON.
        on_progress: told of progress.

    Raises:
        ProcessingError: the job failed.
        StoppedError: the disk is full.
    """
    message = json.loads(line)
    if "progress" in message:
        if on_progress is not None:
            on_progress(*message["progress"])
        return None
    if "stopped" in message:
        raise StoppedError(message["stopped"])
    if "error" in message:
        raise ProcessingError(message["error"])
    return ProcessingResult.model_validate(message["result"])


def give_way(pid: int) -> None:
    """Let a process run only where no other wants to, its threads to come included.

    Args:
        pid: of a process that has no threads yet.
    """
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, pid, 19)
        if hasattr(os, "SCHED_IDLE"):
            os.sched_setscheduler(pid, os.SCHED_IDLE, os.sched_param(0))
        # Linux may weigh sessions against each other first, by a niceness of their own: sched(7), "The autogroup feature"
        Path(f"/proc/{pid}/autogroup").write_text("19")


def usable_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def worker_threads() -> int:
    """Cores that a reconstruction takes: those of this process, at most 16, or as many as the user has said."""
    said = os.environ.get("NUMBA_NUM_THREADS", "")
    return int(said) if said.isdigit() else min(usable_cores(), 16)


def _child_environment() -> dict[str, str]:
    """The environment, with as many threads as there are cores for this process unless the user has said otherwise.

    Threads wait passively: the next acquisition, perhaps a simulated one, runs meanwhile.
    """
    defaults = {name: str(min(usable_cores(), 16)) for name in THREAD_VARIABLES}
    # OpenBLAS cannot be told to wait passively; matrices are small, and one thread does
    defaults |= {"OMP_WAIT_POLICY": "PASSIVE", "OPENBLAS_NUM_THREADS": "1"}
    path = os.pathsep.join(p for p in sys.path if p)  # a policy or processing of one's own stays importable
    return {**defaults, **os.environ, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1", "PYTHONIOENCODING": "utf-8"}


def main(processing: str, reply_descriptor: int) -> None:
    """The child's life: import once, then one job after another until the parent closes stdin.

    Args:
        processing: `module:function` to call with each job.
        reply_descriptor: file descriptor of the pipe that takes the replies.
    """
    replies = os.fdopen(reply_descriptor, "w", encoding="utf-8", buffering=1)
    jobs: queue.SimpleQueue[str] = queue.SimpleQueue()
    one_at_a_time = threading.Lock()

    def say(**message: Any) -> None:
        with one_at_a_time:
            replies.write(json.dumps(message) + "\n")

    threading.Thread(target=_read_jobs, args=(jobs, say), daemon=True).start()

    def on_progress(*told: Any) -> None:
        say(progress=told)

    process: Callable[[Any, Callable[..., None]], Record] | None = None
    failure = ""
    try:
        process = load_attribute(processing)
    except Exception as error:
        failure = f"{type(error).__name__}: {error}"
    while True:
        line = jobs.get()
        if process is None:
            say(error=failure)
            continue
        say(begun=True)
        try:
            result = process(getattr(process, "job_type", ProcessingJob).model_validate_json(line), on_progress)
        except StoppedError as error:
            say(stopped=str(error))
        except Exception as error:
            logger.exception("processing failed")
            say(
                error=str(error)
                if isinstance(error, AgentError | BadInputError)
                else f"{type(error).__name__}: {error}"
            )
        else:
            say(result=result.model_dump(mode="json"))


def _read_jobs(jobs: queue.SimpleQueue[str], say: Callable[..., None]) -> None:
    for line in sys.stdin:
        if line.encode() == PING:
            say(alive=True)
        else:
            jobs.put(line)
    os._exit(0)  # the parent is gone or done; whatever is being computed has no reader


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
