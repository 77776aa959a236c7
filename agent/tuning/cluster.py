"""Trials on the workers of a Dask cluster. Imports Dask's scheduler, which the base install does not have (extra `cluster`)."""

from __future__ import annotations

import contextlib
from concurrent.futures import Future
from pathlib import Path
from typing import Any, Self
from uuid import uuid4

from distributed import Client, Event, WorkerPlugin, get_worker

from agent.errors import BadInputError, StoppedError
from agent.processing.slurm import cluster_of
from agent.tuning.trial import Bench, Task
from agent.tuning.workers import Answer, LostWorkerError, Request, carried_out

STOP_FLAG = "ptychopilot-tune-stop"
"""Event of a Dask cluster that trials poll after each pass."""


class DaskWorkers:
    """The workers of a Dask cluster; made by `at` or `on_slurm`.

    Args:
        task: that all work on.
        client: of the cluster.
        count: of workers that are there, or are to come.
        cluster: that ends with the search; None: it goes on without.
    """

    def __init__(self, task: Task, client: Any, count: int, cluster: Any = None) -> None:
        self.count = count
        self._client, self._cluster, self._closed = client, cluster, False
        self._flag: Any = Event(STOP_FLAG, client=client)
        self._flag.clear()
        # Scattered data are gone with the workers that hold them; what is registered comes to each that comes later, too.
        self._name = f"ptychopilot-tune-{uuid4()}"
        client.register_plugin(_Delivery(task, self._name), name=self._name)

    @classmethod
    def at(cls, task: Task, address: str, patience: float = 10.0) -> Self:
        """The workers of a cluster that somebody has started.

        Args:
            task: that all work on.
            address: of the scheduler.
            patience: s until no answer is none.

        Raises:
            BadInputError: there is no scheduler, or it has no workers.
        """
        try:
            client: Any = Client(address, timeout=patience, set_as_default=False)
        except (OSError, ValueError) as error:
            msg = f"--dask {address}: no scheduler answers there; start one by `dask scheduler`"
            raise BadInputError(msg) from error
        count = len(client.nthreads())
        if count == 0:
            client.close()
            msg = f"--dask {address}: the scheduler has no workers; start some by `dask worker {address} --nthreads 1`"
            raise BadInputError(msg)
        return cls(task, client, count)

    @classmethod
    def on_slurm(cls, task: Task, jobs: int, folder: Path) -> Self:
        """Jobs of SLURM, each a worker with one core; one that ends is asked for again. See `agent.processing.slurm`.

        Args:
            task: that all work on.
            jobs: how many.
            folder: that all nodes see, for the jobs' output and their certificates.

        Raises:
            BadInputError: dask-jobqueue is not installed, or SLURM does not take the jobs.
        """
        cluster = cluster_of(jobs, folder)
        return cls(task, Client(cluster, set_as_default=False), jobs, cluster)

    def submit(self, request: Request) -> Future[Answer]:
        """See Workers."""
        outer: Future[Answer] = Future()
        inner = self._client.submit(_on_cluster, self._name, request, pure=False, retries=0)

        def done(finished: Any) -> None:
            if self._closed:
                return
            try:
                outer.set_result(finished.result())
            except Exception as error:  # of many kinds: the trial's own, and what becomes of a worker
                lost = finished.status != "error" or type(error).__name__ == "KilledWorker"
                outer.set_exception(LostWorkerError("the worker that carried it out has died") if lost else error)

        inner.add_done_callback(done)
        return outer

    def close(self) -> None:
        """See Workers."""
        self._closed = True
        with contextlib.suppress(Exception):  # a cluster that has gone has stopped
            self._flag.set()
            self._client.unregister_worker_plugin(self._name)
        self._client.close()
        if self._cluster is not None:
            self._cluster.close()


class _Delivery(WorkerPlugin):  # type: ignore[misc]
    """Brings a task to each worker of a cluster, also to one that comes later (a Dask worker plugin)."""

    def __init__(self, task: Task, name: str) -> None:
        self.name = name
        self._task = task

    def setup(self, worker: Any) -> None:
        """Called by Dask on each worker."""
        benches = worker.__dict__.setdefault("ptychopilot_benches", {})
        benches[self.name] = Bench(self._task)

    def teardown(self, worker: Any) -> None:
        """Called by Dask when the search has ended."""
        worker.ptychopilot_benches.pop(self.name, None)


def _on_cluster(name: str, request: Request) -> Answer:
    worker: Any = get_worker()
    bench = worker.ptychopilot_benches[name]
    flag: Any = Event(STOP_FLAG)

    def check() -> None:
        if flag.is_set():
            msg = "the search was stopped"
            raise StoppedError(msg)

    return carried_out(bench, request, check)
