"""For all tests: a core for each of several pytest workers, and no test that leaves something running behind."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import inspect
import os
import threading
import time
from collections.abc import AsyncIterator, Generator, Iterator
from pathlib import Path
from typing import Any
from weakref import WeakSet

import psutil
import pytest
import zmq
from zmq.utils import garbage

KEPT_THREADS = ("reconstruct", "asyncio_", "IO loop", "Profile", "Dask-", "TCP-Executor")
"""Threads that live as long as the process or the event loop: the kernels', the loop's and Dask's. (pyzmq's collector too.)"""

GRACE = 2.0
"""s in which what a test has told to end must have ended."""

_reported: set[int] = set()
"""Child processes that a test was failed for."""


def pytest_configure() -> None:
    """Let processes that tests start find `examples`, and keep a worker of pytest-xdist and its processes to their own cores.

    Otherwise each of them would start a thread for each core. No result depends on the number of threads. Those of BLAS wait
    for each other by turning round and round, which takes ten times the work where they share a core.
    """
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # for the workers: this process has its threads already
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(Path(__file__).parent), os.environ.get("PYTHONPATH"))))
    worker = os.environ.get("PYTEST_XDIST_WORKER", "")
    if worker and hasattr(os, "sched_setaffinity"):
        number, workers = int(worker.removeprefix("gw")), int(os.environ["PYTEST_XDIST_WORKER_COUNT"])
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, set(cores[number::workers]) or {cores[number % len(cores)]})


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, Any, Any]:
    """What modules and test items are made of lasts as long as the process: the garbage collector need not look at it again."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()
        gc.freeze()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """For `-n auto`: two workers for each core, since a third of the time a test waits; at most eight, each takes up to 1 GB."""
    return min(8, 2 * (len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1))


@pytest.fixture(autouse=True)
def nothing_is_left_running(request: pytest.FixtureRequest, _sockets: WeakSet[zmq.Socket[Any]]) -> Iterator[None]:
    """Fail a test that leaves an asyncio task, a thread, a ZeroMQ socket or a child process behind."""
    if inspect.iscoroutinefunction(getattr(request.node, "obj", None)):
        request.getfixturevalue("_no_task_is_left")
    threads = set(threading.enumerate())
    yield
    give_up = time.monotonic() + GRACE
    while left := [
        *(thread.name for thread in set(threading.enumerate()) - threads if not _is_kept(thread)),
        *(repr(socket) for socket in list(_sockets) if not (socket.closed or socket.context is garbage.gc.context)),
        *(command for number, command in _children().items() if number not in _reported),
    ]:
        if time.monotonic() > give_up:
            for socket in list(_sockets):  # so that only the test that left them fails
                if socket.context is not garbage.gc.context:  # a thread of pyzmq waits on that one, and would abort
                    socket.close(linger=0)
            _reported.update(_children())
            pytest.fail(f"left behind: {', '.join(left)}")
        time.sleep(0.01)


@pytest.fixture
async def _no_task_is_left() -> AsyncIterator[None]:
    before = asyncio.all_tasks()
    yield
    left = asyncio.all_tasks() - before - {asyncio.current_task()}
    assert not left, f"tasks left behind: {left}"


@pytest.fixture(scope="session")
def _sockets() -> Iterator[WeakSet[zmq.Socket[Any]]]:
    """The ZeroMQ sockets of this process."""
    opened: WeakSet[zmq.Socket[Any]] = WeakSet()
    original = zmq.Socket.__init__

    def noted(self: zmq.Socket[Any], *arguments: Any, **options: Any) -> None:
        original(self, *arguments, **options)
        opened.add(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(zmq.Socket, "__init__", noted)
        yield opened


def _is_kept(thread: threading.Thread) -> bool:
    return thread.name.startswith(KEPT_THREADS) or isinstance(thread, garbage.GarbageCollectorThread)


def _children() -> dict[int, str]:
    """The child processes, their commands by number; one that has ended but was not waited for is still there."""
    found = {}
    for child in _child_processes():
        with contextlib.suppress(psutil.NoSuchProcess):
            command = " ".join(child.cmdline()[:6]) or child.name()
            if "multiprocessing.resource_tracker" not in command:  # the library's own, which ends with this process
                found[child.pid] = f"process {child.pid} {command}"
    return found


def _child_processes() -> list[psutil.Process]:
    """As psutil finds them by looking at all processes, 5 ms; Linux says it in a hundredth of that, and every test asks."""
    numbers: list[str] = []
    try:
        for thread in os.listdir("/proc/self/task"):
            with contextlib.suppress(ProcessLookupError):  # the thread has ended meanwhile
                numbers += Path("/proc/self/task", thread, "children").read_text().split()
    except FileNotFoundError:  # another system, or a kernel without it
        return psutil.Process().children()
    found = []
    for number in numbers:
        with contextlib.suppress(psutil.NoSuchProcess):
            found.append(psutil.Process(int(number)))
    return found
