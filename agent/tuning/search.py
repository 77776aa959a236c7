"""The search: rounds of stages, of which each is chosen from what the round before the last one came to."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

from agent.errors import NoResultError
from agent.tuning.records import Plan, TuningTrial
from agent.tuning.searcher import Searcher
from agent.tuning.standing import gains, promoted, ranked
from agent.tuning.trial import Task
from agent.tuning.workers import Answer, LostWorkerError, Request, Workers

LAST = 0.1
"""Part of the budget that is kept for the best trials that are not whole when the rounds end."""
Keep = Callable[[Sequence[TuningTrial]], None]
"""Called with trials that have changed."""


@dataclass
class Search:
    """Where a search stands.

    Which stages are begun depends on plan, seed and results only, not on the number of workers nor on which of them is first.

    Attributes:
        task: what is reconstructed.
        plan: how it is conducted.
        searcher: that proposes values.
        workers: that carry stages out.
        keep: called with trials that have changed.
        tell: called with a sentence on where it stands.
        trials: so far, the start first.
        seconds: that earlier parts of a search that is resumed have taken.
    """

    task: Task
    plan: Plan
    searcher: Searcher
    workers: Workers
    keep: Keep = lambda trials: None
    tell: Callable[[str], None] = lambda sentence: None
    trials: list[TuningTrial] = field(default_factory=list)
    seconds: float = 0.0
    _started: float = field(default_factory=time.perf_counter)

    @property
    def stages(self) -> int:
        """Of the ladder."""
        return len(self.plan.ladder)

    @property
    def spent(self) -> float:
        """Whole reconstructions."""
        stages = sum(stage.cost for trial in self.trials for stage in trial.stages)
        return stages + sum(trial.score_cost for trial in self.trials)

    @property
    def elapsed(self) -> float:
        """Seconds of the whole search."""
        return self.seconds + time.perf_counter() - self._started

    def run(self) -> None:
        """Search until reconstructions or minutes are used up, then score the best.

        Raises:
            NoResultError: not even the start can be reconstructed.
        """
        self._judge_start()
        reserve = self._reserve()
        jobs = self._chosen(reserve, 0.0)
        while jobs:
            futures = self._begin(jobs)
            # the next round is chosen while this one goes on; its stages count as begun
            going = sum(self.task.cost(self.trials[number].values, stage) for number, stage in jobs)
            now = {number for number, _ in jobs}
            following = self._chosen(reserve, going, now) if self._time_left() else []
            self._collect(futures)
            jobs = [job for job in following if self._may_go_on(job)]
        self._promote_last(reserve)
        self._score()

    def _may_go_on(self, job: tuple[int, int]) -> bool:
        trial = self.trials[job[0]]
        return trial.error is None and trial.stage < job[1]

    def _judge_start(self) -> None:
        """The start at every stage: everything is compared with it."""
        if not self.trials:
            self.trials.append(TuningTrial(number=0, values=dict(self.task.space.start), origin="start"))
        missing = [stage for stage in range(self.stages) if self.trials[0].at(stage) is None]
        self._collect(self._begin([(0, stage) for stage in missing]))
        if self.trials[0].error is not None or len(self.trials[0].stages) < self.stages:
            msg = f"the data cannot be reconstructed with the settings where the search begins: {self.trials[0].error}"
            raise NoResultError(msg)

    def _reserve(self) -> float:
        """Whole reconstructions that are set aside for the last promotions and for scores."""
        if self.plan.finalists == 0:
            return 0.0
        return self.task.score_cost(self.task.space.start) * (self.plan.finalists + 1)

    def _time_left(self) -> bool:
        return self.plan.minutes is None or self.elapsed < 60 * self.plan.minutes

    def _chosen(
        self, reserve: float, going: float, begun: set[int] | frozenset[int] = frozenset()
    ) -> list[tuple[int, int]]:
        """(trial, stage) of the next round: promotions first, then new trials, as far as the budget goes."""
        left = self.plan.reconstructions - reserve - self.spent - going - LAST * self.plan.reconstructions
        jobs: list[tuple[int, int]] = []
        wanted = [job for job in promoted(self.trials, self.stages, self.plan.kept) if job[0] not in begun]
        unfinished = [(t.number, 0) for t in self.trials if t.stage < 0 and t.error is None and t.number not in begun]
        for number, stage in (unfinished + wanted)[: self.plan.together]:
            cost = self.task.cost(self.trials[number].values, stage)
            if cost <= left:
                jobs.append((number, stage))
                left -= cost
        room = self.plan.together - len(jobs)
        enough = left > self.task.cost(self.task.space.start, 0)
        proposed = self.searcher.propose(self.trials, room) if room and enough else []
        for values, origin, why in proposed:
            cost = self.task.cost(values, 0)
            if cost > left:
                break
            trial = TuningTrial(number=len(self.trials), values=values, origin=origin, why=why)
            self.trials.append(trial)
            self.keep([trial])
            jobs.append((trial.number, 0))
            left -= cost
        # the longest first, so that nobody waits for it at the end of the round
        return sorted(jobs, key=lambda job: -self.task.cost(self.trials[job[0]].values, job[1]))

    def _begin(self, jobs: Sequence[tuple[int, int | None]]) -> list[tuple[int, Future[Answer]]]:
        return [(n, self.workers.submit(Request(dict(self.trials[n].values), stage))) for n, stage in jobs]

    def _collect(self, futures: Sequence[tuple[int, Future[Answer]]]) -> None:
        """Wait for answers and write each down."""
        for number, future in futures:
            trial = self.trials[number]
            try:
                answer = future.result()
            except LostWorkerError as error:
                answer = Answer(error=str(error))
            if answer.judged is not None:
                stages = tuple(sorted((*trial.stages, answer.judged), key=lambda each: each.stage))
                trial = trial.model_copy(update={"stages": stages})
            elif answer.score is not None:
                cost = self.task.score_cost(trial.values)
                found = {"score": answer.score, "score_cost": cost, "score_seconds": answer.seconds}
                trial = trial.model_copy(update=found)
            else:
                trial = trial.model_copy(update={"error": answer.error})
            self.trials[number] = trial
            self.keep([trial])
        self._say()

    def _say(self) -> None:
        at = gains(self.trials, self.stages - 1)
        best = max((each.relative for each in at.values()), default=0.0)
        self.tell(
            f"{self.spent:.1f} of {self.plan.reconstructions:g} reconstructions, {len(self.trials)} trials, "
            f"{len(at)} of them whole; held-out counts better by {best:.2%}"
        )

    def _promote_last(self, reserve: float) -> None:
        """What is left after the last round goes to the best that are not whole yet."""
        while self._time_left():
            left = self.plan.reconstructions - reserve - self.spent
            order = [n for n in ranked(self.trials, self.stages) if n != 0 and self.trials[n].error is None]
            order = [n for n in order if self.trials[n].stage < self.stages - 1]
            order.sort(key=lambda n: -self._relative(n))
            jobs = []
            for number in order[: self.workers.count]:
                cost = self.task.cost(self.trials[number].values, self.trials[number].stage + 1)
                if cost <= left and self._relative(number) > 0:
                    jobs.append((number, self.trials[number].stage + 1))
                    left -= cost
            if not jobs:
                return
            self._collect(self._begin(jobs))

    def _relative(self, number: int) -> float:
        found = gains(self.trials, self.trials[number].stage).get(number)
        return -1.0 if found is None else found.relative

    def _score(self) -> None:
        """Two halves of the best trials and of the start."""
        if self.plan.finalists == 0:
            return
        top = gains(self.trials, self.stages - 1)
        best = sorted((n for n in top if n != 0 and top[n].value > 0), key=lambda n: -top[n].value)
        asked = [n for n in [0, *best[: self.plan.finalists]] if self.trials[n].score is None]
        affordable: list[int] = []
        left = self.plan.reconstructions - self.spent
        for number in asked:
            cost = self.task.score_cost(self.trials[number].values)
            if number == 0 or cost <= left or len(affordable) < 2:
                affordable.append(number)
                left -= cost
        self._collect(self._begin([(number, None) for number in affordable]))
