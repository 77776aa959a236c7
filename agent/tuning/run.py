"""A search in its folder: begun or resumed, with settings file and report at its end, however it ends."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from pydantic import JsonValue

from agent.errors import BadInputError, StoppedError
from agent.processing.child import usable_cores
from agent.storage.atomic import atomic_write
from agent.tuning.journal import TuningJournal, read
from agent.tuning.records import Plan, TuningTrial
from agent.tuning.report import REPORT, write_report
from agent.tuning.search import Search
from agent.tuning.searcher import ModelSearcher, Searcher
from agent.tuning.settings_file import SETTINGS, settings_text
from agent.tuning.standing import taken
from agent.tuning.trial import Task
from agent.tuning.workers import HereAndNow, LocalWorkers, Workers

REPORT_EVERY = 60.0
"""Seconds from one report of a search that goes on to the next."""


@dataclass(frozen=True)
class Tuned:
    """What a search came to.

    Attributes:
        trials: all, the start first.
        number: of the one that is recommended.
        why: in words.
        spent: whole reconstructions.
        seconds: that it took.
        settings: file with the recommended settings.
        report: page about it.
        doubts: what a person should know, one sentence each.
    """

    trials: tuple[TuningTrial, ...]
    number: int
    why: str
    spent: float
    seconds: float
    settings: Path
    report: Path
    doubts: tuple[str, ...]


def tune(
    task: Task,
    plan: Plan,
    folder: Path,
    facts: dict[str, JsonValue],
    *,
    resume: bool = False,
    cores: int | None = None,
    dask: str | None = None,
    slurm: int | None = None,
    tell: Callable[[str], None] = lambda sentence: None,
    searcher: Searcher | None = None,
) -> Tuned:
    """Search, or go on with a search, and write what it came to.

    Args:
        task: what is reconstructed.
        plan: how the search is conducted.
        folder: of the search; it exists.
        facts: by which a search that is resumed is known to be the same.
        resume: whether there is one already.
        cores: processes; None: as many as this machine has cores.
        dask: address of a Dask scheduler that is used instead.
        slurm: so many jobs of SLURM instead.
        tell: called with a sentence on where it stands.
        searcher: that proposes values; None: the model.

    Raises:
        BadInputError: what is resumed is another search, or none.
        NoResultError: not even the start can be reconstructed.
        StoppedError: Ctrl-C, or the disk is full; settings and report of what was found are written.
    """
    begun: dict[str, JsonValue] = {**facts, "plan": plan.model_dump(mode="json"), "start": dict(task.space.start)}
    trials: list[TuningTrial] = []
    seconds = 0.0
    if resume:
        known, trials = read(folder)
        _check_same(folder, known, begun)
        seconds = float(str(known.get("seconds", 0.0)))
    searcher = searcher or ModelSearcher(task.space, plan.drawn, len(plan.ladder), plan.seed)
    # Workers first: where there are none, no search has begun.
    with (
        closing(_workers(task, folder, cores, dask, slurm)) as workers,
        TuningJournal(folder, None if resume else begun) as journal,
    ):
        search = Search(task, plan, searcher, workers, journal.keep, trials=trials, seconds=seconds)
        page = _Page(task, plan, folder, search, tell)
        search.tell = page.told
        try:
            search.run()
        except KeyboardInterrupt as stop:
            msg = f"stopped by Ctrl-C; go on by `ptychopilot tune … --out {folder} --resume`"
            raise StoppedError(msg) from stop
        finally:
            workers.close()
            journal.note("seconds", search.elapsed)
            result = page.write() if search.trials and search.trials[0].stages else None
    assert result is not None
    return result


class _Page:
    """Settings and report, written again from time to time."""

    def __init__(self, task: Task, plan: Plan, folder: Path, search: Search, tell: Callable[[str], None]) -> None:
        self._task, self._plan, self._folder, self._search, self._tell = task, plan, folder, search, tell
        self._written = time.perf_counter()

    def told(self, sentence: str) -> None:
        self._tell(sentence)
        if time.perf_counter() - self._written > REPORT_EVERY:
            self.write(pictures=False)

    def write(self, *, pictures: bool = True) -> Tuned:
        search = self._search
        stages = len(self._plan.ladder)
        number, why = taken(search.trials, stages)
        settings = self._folder / SETTINGS
        atomic_write(settings, settings_text(self._task, search.trials[number].values, why))
        doubts = tuple(dict.fromkeys(getattr(search.searcher, "doubts", ())))
        result = Tuned(
            tuple(search.trials), number, why, search.spent, search.elapsed, settings, self._folder / REPORT, doubts
        )
        write_report(
            self._folder, self._task, search.trials, number, why, search.spent, search.elapsed, pictures=pictures
        )
        self._written = time.perf_counter()
        return result


def _workers(task: Task, folder: Path, cores: int | None, dask: str | None, slurm: int | None) -> Workers:
    if dask is not None and slurm is not None:
        msg = "--dask and --slurm: only one of them can carry the trials out"
        raise BadInputError(msg)
    if dask is not None or slurm is not None:
        try:
            from agent.tuning.cluster import DaskWorkers
        except ImportError as error:
            option = "--slurm" if dask is None else "--dask"
            msg = f"{option} needs Dask's scheduler; install it by `pip install ptychopilot[cluster]`"
            raise BadInputError(msg) from error
        return DaskWorkers.at(task, dask) if dask is not None else DaskWorkers.on_slurm(task, slurm or 1, folder)
    count = usable_cores() if cores is None else cores
    return HereAndNow(task) if count == 0 else LocalWorkers(task, count)


def _check_same(folder: Path, known: dict[str, JsonValue], begun: dict[str, JsonValue]) -> None:
    """Raises BadInputError where the search in the folder is another one."""
    other: Sequence[str] = [name for name, value in begun.items() if known.get(name) != value and name != "plan"]
    if other:
        msg = f"the search in {folder} is of other {', '.join(other)}; resume it with what it was begun with"
        raise BadInputError(msg)
