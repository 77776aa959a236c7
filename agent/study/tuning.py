"""Tuning against the truth: MoSe₂/WS₂ in columns with hidden errors, reconstructed with what each search recommends.

Every search sees the same calibrated counts and may spend as many whole reconstructions; none sees the truth.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, JsonValue

from agent.config import ScoreChoice
from agent.reconstruction import Reconstruction, reconstruct
from agent.reconstruction_choice import ReconstructionChoice
from agent.scoring.regions import crop
from agent.scoring.truth import true_information
from agent.storage.acquisition_file import Acquisition
from agent.study.calibration import calibrated
from agent.study.exposures import ExposureError, Simulator, StudyColumn, Truth
from agent.study.peer_searchers import PEERS, MissingPeerError, peer
from agent.study.plans import SCORED, Planned, Wanted, calibration_plans
from agent.tuning.records import LADDER, WHOLE, Plan
from agent.tuning.search import Search
from agent.tuning.searcher import ModelSearcher, RandomSearcher, Searcher
from agent.tuning.space import Values, space_of
from agent.tuning.standing import gains, taken
from agent.tuning.trial import Task
from agent.tuning.workers import Workers
from instrument.models import Description, Record, Rectangle

SPECIMEN = "mose2-ws2"
START, TUNE, RANDOM = "start", "tune", "random"
ARMS = (START, TUNE, RANDOM, *PEERS)
PASSES = 10
"""Of a reconstruction where the search begins, as `ptychopilot reconstruct` makes them."""
BUDGET, QUICK_BUDGET = 40.0, 25.0
"""Whole reconstructions."""
ALSO_TRUE = 2
"""Whole trials of each search, the best by held-out counts, whose truth is looked at for the best known."""


class TuningRecord(Record):
    """What a search has recommended, beside the truth. Å, e/Å², bit/Å²."""

    study: str = "tune"
    policy: str
    column: str
    seed: int
    dose: float
    budget: float = Field(description="whole reconstructions allowed")
    trials: int = 0
    electrons: float = Field(default=0.0, description="of the one acquisition")
    step: float = 0.0
    defocus: float = Field(default=0.0, description="as calibrated")
    truth: float | None = Field(default=None, description="information in the picture with the recommended settings")
    oracle: float | None = Field(default=None, description="the most that any settings looked at by any search carry")
    regret: float | None = Field(default=None, description="1 − truth/oracle")
    reconstructions: float = Field(default=0.0, description="spent")
    seconds: float = 0.0
    gain: float = Field(default=0.0, description="relative, in held-out counts over the start")
    changed: dict[str, JsonValue] = Field(default={}, description="recommended values that differ from the start")
    why: str = ""
    error: str | None = None


@dataclass
class Compared:
    """The searches on one column, with what is drawn of them.

    Attributes:
        records: one for each search.
        pictures: name of the search -> (phase of the scored square, pixel size in Å).
        truth: (y, x) phase of the specimen there, and its pixel, Å.
    """

    records: list[TuningRecord]
    pictures: dict[str, tuple[NDArray[np.float64], tuple[float, float]]] = field(default_factory=dict)
    truth: tuple[NDArray[np.float64], float] | None = None


def tuning_plan(number: int, description: Description, dose: float) -> Planned:
    """The acquisition that is reconstructed: as a careful operator would begin, with the middle scored."""
    planned = calibration_plans(number, description, Wanted(doses=(dose,)))[0]
    whole = planned.plan.field
    assert whole is not None
    y, x = whole.y + whole.height / 2, whole.x + whole.width / 2
    square = Rectangle(y=y - SCORED / 2, x=x - SCORED / 2, height=SCORED, width=SCORED)
    return replace(planned, scored=square)


def task_of(acquisition: Acquisition, scored: Rectangle, seed: int) -> Task:
    """An acquisition, calibrated once, as all searches see it.

    Raises:
        BadInputError: its scan does not tell what it has to.
    """
    measured = calibrated(acquisition)
    settings = ReconstructionChoice.model_validate({"model": "given", "passes": PASSES}).settings()
    space = space_of(measured.data, settings, None, own_quantities=measured.data.counts_per_electron <= 1.5)
    choice = ScoreChoice(field=SCORED)
    return Task(measured.data, settings, space, LADDER, (scored,), choice, seed, bool(measured.state.widths))


def compared(
    simulator: Simulator,
    column: StudyColumn,
    dose: float,
    budget: float,
    arms: Sequence[str],
    workers: Callable[[Task], Workers],
    tell: Callable[[str], None] = lambda sentence: None,
) -> Compared:
    """All searches on one column.

    Args:
        simulator: that makes the acquisition.
        column: of the study.
        dose: e/Å².
        budget: whole reconstructions of each search.
        arms: names out of ARMS.
        workers: who carries trials out.
        tell: called with a sentence on where it stands.
    """
    base = TuningRecord(policy="", column=column.name, seed=column.seed, dose=dose, budget=budget)
    try:
        planned = tuning_plan(column.number, simulator.describe(column), dose)
        acquisition, truth = simulator.expose(column, planned)
        assert planned.scored is not None
        tell(f"{column.name}: calibrate")
        task = task_of(acquisition, planned.scored, column.seed)
    except (ExposureError, ValueError, ArithmeticError) as error:
        why = " ".join(str(error).split())
        return Compared([base.model_copy(update={"policy": arm, "error": why}) for arm in arms])
    known = {
        "electrons": dose * planned.scored.area,
        "step": planned.plan.step,
        "defocus": float(task.data.defocus),
    }
    base = base.model_copy(update=known)
    judge = _Judge(task, truth)
    result = Compared([], truth=None if truth.phase is None else (truth.phase, truth.pixel))
    for arm in arms:
        tell(f"{column.name}: {arm}")
        record, values = _searched(arm, task, base, judge, workers, tell)
        result.records.append(record)
        if values is not None:
            result.pictures[arm] = judge.picture(values)
    best = max(judge.truths.values(), default=None)
    result.records = [
        r if r.truth is None or not best else r.model_copy(update={"oracle": best, "regret": 1 - r.truth / best})
        for r in result.records
    ]
    return result


class _Judge:
    """The truth of pictures, each made once."""

    def __init__(self, task: Task, truth: Truth) -> None:
        self._task, self._truth = task, truth
        self._pictures: dict[str, Reconstruction] = {}
        self.truths: dict[str, float] = {}

    def picture(self, values: Values) -> tuple[NDArray[np.float64], tuple[float, float]]:
        """(y, x) phase of the scored square and its pixel, Å."""
        key = str(sorted(values.items()))
        if key not in self._pictures:
            data, settings = self._task.whole(values)
            self._pictures[key] = reconstruct(data, settings)
        found = self._pictures[key]
        return crop(found.phase, found.origin, found.pixel_size, self._task.squares[0]), found.pixel_size

    def true(self, values: Values) -> float:
        """Information that the picture with these values carries, bit/Å²."""
        key = str(sorted(values.items()))
        if key not in self.truths:
            image, pixel = self.picture(values)
            assert self._truth.phase is not None
            self.truths[key] = true_information(image, pixel, self._truth.phase, self._truth.pixel, self._task.score)
        return self.truths[key]


def _searched(
    arm: str,
    task: Task,
    base: TuningRecord,
    judge: _Judge,
    workers: Callable[[Task], Workers],
    tell: Callable[[str], None],
) -> tuple[TuningRecord, Values | None]:
    base = base.model_copy(update={"policy": arm})
    if arm == START:
        return base.model_copy(update={"truth": judge.true(task.space.start)}), task.space.start
    ours = arm == TUNE
    plan = Plan(reconstructions=base.budget, seed=base.seed)
    plan = plan if ours else plan.model_copy(update={"ladder": WHOLE, "finalists": 0, "together": 1})
    task = replace(task, ladder=plan.ladder)
    started = time.perf_counter()
    try:
        searcher = _searcher(arm, task, plan)
    except MissingPeerError as error:
        return base.model_copy(update={"error": str(error)}), None
    crew = workers(task)
    try:
        search = Search(task, plan, searcher, crew, tell=lambda told: tell(f"{base.column}: {arm}, {told}"))
        search.run()
    finally:
        crew.close()
    seconds = time.perf_counter() - started
    stages = len(plan.ladder)
    number, why = taken(search.trials, stages)
    top = gains(search.trials, stages - 1)
    values = search.trials[number].values
    for other in sorted(top, key=lambda n: -top[n].value)[:ALSO_TRUE]:
        judge.true(search.trials[other].values)
    found = {
        "truth": judge.true(values),
        "trials": len(search.trials),
        "reconstructions": round(search.spent, 2),
        "seconds": round(seconds, 1),
        "gain": top[number].relative if number in top else 0.0,
        "changed": task.space.changed(values),
        "why": why,
    }
    return base.model_copy(update=found), values


def _searcher(arm: str, task: Task, plan: Plan) -> Searcher:
    if arm == TUNE:
        return ModelSearcher(task.space, plan.drawn, len(plan.ladder), plan.seed)
    if arm == RANDOM:
        return RandomSearcher(task.space, plan.seed)
    return peer(arm, task.space, plan.seed)


def regrets(records: Sequence[TuningRecord]) -> Iterator[tuple[str, int, float, float, float, float]]:
    """For each search: columns, median regret, worst regret, median reconstructions and seconds."""
    for arm in dict.fromkeys(record.policy for record in records):
        found = [record for record in records if record.policy == arm and record.regret is not None]
        if found:
            lost = [record.regret for record in found if record.regret is not None]
            cost = float(np.median([record.reconstructions for record in found]))
            seconds = float(np.median([record.seconds for record in found]))
            yield arm, len(found), float(np.median(lost)), max(lost), cost, seconds
