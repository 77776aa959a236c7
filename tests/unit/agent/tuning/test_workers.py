"""Workers in processes and on a Dask cluster: the same results, and a death that costs one trial."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Iterator

import phantom
import pytest

from agent.config import ScoreChoice
from agent.errors import BadInputError
from agent.reconstruction import ReconstructionSettings
from agent.tuning.records import Stage
from agent.tuning.space import space_of
from agent.tuning.trial import Task
from agent.tuning.workers import HereAndNow, LocalWorkers, LostWorkerError, Request
from instrument.models import Rectangle


@pytest.fixture(scope="module")
def task() -> Task:
    data = phantom.experiment(dose=1e3, positions=phantom.raster(2.0, 14.0), shape=(32, 32), angular_pixel=3.0)
    base = ReconstructionSettings(max_passes=8, stop_early=False)
    space = space_of(data, base, ["loss", "momentum"], own_quantities=True)
    ladder = (Stage(positions=1.0, passes=1.0),)
    return Task(data, base, space, ladder, (Rectangle(y=2, x=2, height=8, width=8),), ScoreChoice(), 0, False)


def test_a_worker_that_dies_costs_its_trial_only(task: Task) -> None:
    workers = LocalWorkers(task, 1)
    try:
        request = Request(dict(task.space.start), 0)
        first = workers.submit(request).result(timeout=120)
        long = workers.submit(Request({**task.space.start, "passes": 10**5}, 0))
        after = workers.submit(request)
        for child in multiprocessing.active_children():
            os.kill(child.pid or 0, signal.SIGKILL)
        with pytest.raises(LostWorkerError):
            long.result(timeout=120)
        assert after.result(timeout=120).judged is not None
        here = HereAndNow(task).submit(request).result()
        assert first.judged is not None
        assert here.judged is not None
        assert first.judged.blocks == pytest.approx(here.judged.blocks, rel=1e-4)
    finally:
        workers.close()


@pytest.fixture
def cluster() -> Iterator[str]:
    distributed = pytest.importorskip("distributed", reason="Dask's scheduler is not installed")
    options = {"n_workers": 1, "threads_per_worker": 1, "processes": False, "dashboard_address": None}
    with distributed.LocalCluster(protocol="tcp", **options) as local:
        yield local.scheduler_address


def test_a_dask_cluster_carries_trials_out(task: Task, cluster: str) -> None:
    from agent.tuning.cluster import DaskWorkers

    workers = DaskWorkers.at(task, cluster)
    try:
        request = Request({**task.space.start, "loss": "amplitude"}, 0)
        found = workers.submit(request).result(timeout=60)
        here = HereAndNow(task).submit(request).result()
        assert found.judged is not None
        assert here.judged is not None
        assert found.judged.blocks == pytest.approx(here.judged.blocks, rel=1e-4)
        wrong = workers.submit(Request({**task.space.start, "loss": "none"}, 0)).result(timeout=60)
        assert wrong.error is not None
    finally:
        workers.close()


def test_a_scheduler_that_is_not_there_is_told_in_one_sentence(task: Task) -> None:
    pytest.importorskip("distributed", reason="Dask's scheduler is not installed")
    from agent.tuning.cluster import DaskWorkers

    with pytest.raises(BadInputError, match="no scheduler answers there; start one by `dask scheduler`"):
        DaskWorkers.at(task, "tcp://127.0.0.1:9", patience=0.3)
