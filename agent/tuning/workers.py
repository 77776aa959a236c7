"""Who carries out trials: this process, or processes of this machine, each replaced where it dies. `cluster` has others."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from typing import Protocol

from agent.errors import AgentError, BadInputError
from agent.records import Score
from agent.tuning.records import Judged
from agent.tuning.space import Value
from agent.tuning.trial import Bench, Task


class LostWorkerError(AgentError):
    """The process that carried a trial out has died; the trial is lost, the search is not."""


@dataclass(frozen=True)
class Request:
    """A stage of a trial to judge; `stage` None: its score."""

    values: dict[str, Value]
    stage: int | None


@dataclass(frozen=True)
class Answer:
    """What came of a request: one of the two, or why nothing did."""

    judged: Judged | None = None
    score: Score | None = None
    seconds: float = 0.0
    error: str | None = None


class Workers(Protocol):
    """Whoever carries requests out."""

    count: int

    def submit(self, request: Request) -> Future[Answer]:
        """Carry out a request; its future raises LostWorkerError where the worker died."""
        ...

    def close(self) -> None:
        """End all workers at once; what they were doing is lost. A second time does nothing."""
        ...


def carried_out(bench: Bench, request: Request, check: Callable[[], None] = lambda: None) -> Answer:
    """Carry out a request; what the trial itself is to blame for is told, not raised.

    Args:
        bench: the task.
        request: what to do.
        check: called after each pass; what it raises ends the trial.
    """
    try:
        if request.stage is None:
            score, seconds = bench.score(request.values, lambda fraction: check())
            return Answer(score=score, seconds=seconds)
        return Answer(judged=bench.judge(request.values, request.stage, check))
    except (BadInputError, ArithmeticError, MemoryError, ValueError) as error:
        return Answer(error=" ".join(str(error).split()) or type(error).__name__)


class HereAndNow:
    """No worker at all: each request is carried out where it is submitted. For tests and single cores."""

    count = 1

    def __init__(self, task: Task) -> None:
        self._bench = Bench(task)

    def submit(self, request: Request) -> Future[Answer]:
        """See Workers."""
        done: Future[Answer] = Future()
        done.set_result(carried_out(self._bench, request))
        return done

    def close(self) -> None:
        """See Workers."""


_BENCH: Bench | None = None
"""Of this worker process."""


def _begin(task: Task, leash: Connection) -> None:
    """Ready a worker process: Ctrl-C is its parent's, and it ends with its parent, or when it is told to."""
    global _BENCH
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with, args=(leash,), daemon=True).start()
    _BENCH = Bench(task)


def _end_with(leash: Connection) -> None:
    """End this process once nobody holds the other end of a pipe: its parent has let go, or has died."""
    leash.poll(None)
    os._exit(1)


def _in_process(request: Request) -> Answer:
    assert _BENCH is not None
    return carried_out(_BENCH, request)


class LocalWorkers:
    """Processes of this machine, a thread each.

    Args:
        task: that all work on.
        count: of processes.
    """

    def __init__(self, task: Task, count: int) -> None:
        self.count = count
        self._task, self._context = task, multiprocessing.get_context("spawn")
        self._leash, self._hand = self._context.Pipe(duplex=False)
        self._closed = False
        self._slots = [self._started() for _ in range(count)]
        self._free = list(range(count))
        self._waiting: list[tuple[Request, Future[Answer]]] = []
        self._guard = threading.RLock()

    def submit(self, request: Request) -> Future[Answer]:
        """See Workers."""
        outer: Future[Answer] = Future()
        with self._guard:
            self._waiting.append((request, outer))
            self._assign()
        return outer

    def close(self) -> None:
        """See Workers."""
        with self._guard:
            self._waiting.clear()
            self._closed = True
            self._hand.close()
        for slot in self._slots:
            slot.shutdown(wait=True, cancel_futures=True)
        self._leash.close()

    def _started(self) -> ProcessPoolExecutor:
        one_thread = {"NUMBA_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        for name, value in one_thread.items():
            os.environ.setdefault(name, value)
        return ProcessPoolExecutor(1, mp_context=self._context, initializer=_begin, initargs=(self._task, self._leash))

    def _assign(self) -> None:
        while self._free and self._waiting:
            number = self._free.pop()
            request, outer = self._waiting.pop(0)
            try:
                inner = self._slots[number].submit(_in_process, request)
            except BrokenProcessPool:  # it died while it had nothing to do
                self._slots[number] = self._started()
                inner = self._slots[number].submit(_in_process, request)
            inner.add_done_callback(partial(self._done, number, outer))

    def _done(self, number: int, outer: Future[Answer], inner: Future[Answer]) -> None:
        with self._guard:
            if self._closed:
                return
            error = inner.exception()
            if isinstance(error, BrokenProcessPool):
                self._slots[number] = self._started()
                error = LostWorkerError("the process that carried it out has died")
            self._free.append(number)
            self._assign()
        if error is None:
            outer.set_result(inner.result())
        else:
            outer.set_exception(error)
