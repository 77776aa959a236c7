"""Scans that are judged while they run, beside what became of them: how many are stopped rightly and wrongly, what that saves.

Each column is calibrated by a first acquisition; then a few settings, good and bad, are scanned in two passes to their end,
and what is told of each after parts of the scan is kept beside its score and its truth. Stopping is played afterwards, in all
orders.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from pydantic import Field

from agent.config import ScoreChoice
from agent.errors import StoppedError
from agent.processing.column import measure_column
from agent.processing.column_state import ColumnState
from agent.processing.process import cleaned_data
from agent.reconstruction_choice import ReconstructionChoice
from agent.records import Score
from agent.scoring.halves import judge
from agent.scoring.hopeless import LiveScore, Rival, winner
from agent.scoring.regions import crop, tiles
from agent.scoring.so_far import CHECKPOINTS, first_of, score_so_far
from agent.scoring.truth import true_information
from agent.storage.acquisition_file import Acquisition
from agent.study.calibration import calibrated
from agent.study.exposures import ExposureError, Simulator, StudyColumn, Truth
from agent.study.plans import SCORED, Planned, Wanted, legal_defocus, score_plans
from instrument.models import Description, Record

SETTINGS = ((1.3, 0.15), (1.3, 0.5), (2.2, 0.3), (2.2, 0.9))
"""Steps, Å, and parts of the legal window of defocus."""
DOSE = 1e3
"""e/Å²."""
GIVEN = ReconstructionChoice.model_validate({"model": "given"})


class LiveRecord(Record):
    """One acquisition: what was told of it while it was scanned, and what it came to."""

    name: str = Field(description="of the column")
    seed: int = Field(description="of the column")
    step: float
    defocus: float
    dose: float
    score: Score | None = Field(default=None, description="of the whole acquisition")
    truth: float | None = Field(default=None, description="information in its picture")
    parts: tuple[float, ...] = Field(default=(), description="of the scan, after which it was judged")
    live: tuple[Score, ...] = Field(default=(), description="the score expected then")
    seconds: float = Field(default=0.0, description="that judging it took")
    error: str | None = None

    @property
    def key(self) -> tuple[str, int, float, float]:
        """What tells it from others."""
        return self.name, self.seed, self.step, round(self.defocus, 3)


@dataclass(frozen=True)
class Played:
    """What stopping comes to, over all orders of the settings of every column.

    Attributes:
        scans: that had a rival.
        stopped: of them.
        wins: scans that would have been the best so far, by their score in the end.
        false: stopped ones among those.
        false_by_truth: stopped ones that would have been better by their truth.
        saved: part of the electrons of all scans.
        regret: truth lost by taking the best, relative, mean, with stopping less without.
    """

    scans: int
    stopped: int
    wins: int
    false: int
    false_by_truth: int
    saved: float
    regret: float


def live_records(simulator: Simulator, done: Collection[tuple[str, int, float, float]]) -> Iterator[LiveRecord]:
    """One record for each setting of each column that has none yet.

    Args:
        simulator: of the columns.
        done: keys of the records that are there.
    """
    for column in simulator.columns:
        try:
            description = simulator.describe(column)
            planned = _planned(column, description)
            left = [each for each in planned[1:] if _asked(column, each).key not in done]
            if not left:
                continue
            state = calibrated(simulator.expose(column, planned[0])[0]).state
        except StoppedError:
            raise
        except Exception as error:  # one column that fails must not end a study
            yield LiveRecord(name=column.name, seed=column.seed, step=0, defocus=0, dose=0, error=_said(error))
            continue
        for each in left:
            record = _asked(column, each)
            try:
                acquisition, truth = simulator.expose(column, each)
                yield _judged(record, each, acquisition, truth, state)
            except (ExposureError, ValueError, ArithmeticError) as error:
                yield record.model_copy(update={"error": _said(error)})


def _planned(column: StudyColumn, description: Description) -> list[Planned]:
    """The first acquisition of a column and those that are judged."""
    largest = legal_defocus(description)
    plans: list[Planned] = []
    for step, part in SETTINGS:
        wanted = Wanted(doses=(DOSE,), steps=(step,), defoci=(part * largest,))
        made = score_plans(column.number, description, wanted)
        plans += [*made[: 1 if not plans else 0], next(p for p in made if p.scored and p.plan.passes == 2)]
    return plans


def _asked(column: StudyColumn, planned: Planned) -> LiveRecord:
    plan = planned.plan
    return LiveRecord(name=column.name, seed=column.seed, step=plan.step, defocus=plan.defocus, dose=plan.dose)


def _judged(
    record: LiveRecord, planned: Planned, acquisition: Acquisition, truth: Truth, state: ColumnState
) -> LiveRecord:
    """The whole acquisition scored as a campaign does, and its beginnings as the live process does."""
    assert planned.scored is not None
    assert truth.phase is not None
    choice, settings, scored = ScoreChoice(field=SCORED), GIVEN.settings(), planned.scored
    data = measure_column(
        cleaned_data(acquisition).data,
        acquisition.description,
        raster=None,
        known=state,
        enabled=False,
        on_progress=lambda fraction: None,
    ).data
    whole = judge(data, settings, tiles(scored, SCORED), choice, record.seed)
    picture = whole.reconstruction
    image = crop(picture.phase, picture.origin, picture.pixel_size, scored)
    started = time.perf_counter()
    number, live = len(data.positions), list[Score]()
    for part in CHECKPOINTS:
        live.append(score_so_far(first_of(data, part, number), settings, tiles(scored, SCORED), choice, record.seed))
    return record.model_copy(
        update={
            "score": whole.score,
            "truth": true_information(image, picture.pixel_size, truth.phase, truth.pixel, choice),
            "parts": CHECKPOINTS,
            "live": tuple(live),
            "seconds": round(time.perf_counter() - started, 3),
        }
    )


def play(records: Sequence[LiveRecord]) -> Played:
    """Let every column's settings be tried in every order, and stop what the rule stops.

    Args:
        records: of whole acquisitions; vetoed scores count as none, as in a campaign.
    """
    columns: dict[tuple[str, int], list[LiveRecord]] = {}
    for record in records:
        if record.score is not None and record.truth is not None:
            columns.setdefault((record.name, record.seed), []).append(record)
    counts = np.zeros(5, dtype=np.int64)
    saved, scanned, regrets = 0.0, 0, list[float]()
    for group in columns.values():
        for order in itertools.permutations(group):
            told, electrons, lost = _campaign(order)
            counts += told
            saved, scanned = saved + electrons, scanned + len(order)
            regrets.append(lost)
    scans, stopped, wins, false, by_truth = (int(n) for n in counts)
    regret = float(np.mean(regrets)) if regrets else 0.0
    return Played(scans, stopped, wins, false, by_truth, saved / max(scanned, 1), regret)


def _campaign(order: Sequence[LiveRecord]) -> tuple[tuple[int, int, int, int, int], float, float]:
    """(scans with a rival, stopped, wins, false, false by truth), scans' worth of electrons saved, truth lost by stopping."""
    rivals: list[tuple[Rival, LiveRecord]] = []
    scans = stopped = wins = false = by_truth = 0
    saved = 0.0
    for record in order:
        assert record.score is not None
        trusted = record.score.veto is None
        part = stop_at(record, [rival for rival, _ in rivals])
        if rivals:
            best = max(rivals, key=lambda each: each[0].score.value)[1]
            won = trusted and record.score.value > (best.score.value if best.score is not None else 0.0)
            scans, wins, stopped = scans + 1, wins + won, stopped + (part is not None)
            false += won and part is not None
            by_truth += part is not None and (record.truth or 0.0) > (best.truth or 0.0)
        if part is not None:
            saved += 1 - part
        elif trusted:
            rivals.append((Rival(len(rivals), record.score, record.dose), record))
    taken = max(rivals, key=lambda each: each[0].score.value)[1] if rivals else None
    whole = [record for record in order if record.score is not None and record.score.veto is None]
    without = max(whole, key=lambda record: record.score.value if record.score is not None else 0.0, default=None)
    lost = 0.0
    if taken is not None and without is not None and without.truth:
        lost = 1 - (taken.truth or 0.0) / without.truth
    return (scans, stopped, wins, false, by_truth), saved, lost


def stop_at(record: LiveRecord, rivals: Sequence[Rival]) -> float | None:
    """The part of the scan after which the rule stops it; None: it does not.

    Args:
        record: of the scan.
        rivals: trials that are scored.
    """
    for part, score in zip(record.parts, record.live, strict=True):
        if winner(LiveScore(score, part), record.dose, rivals) is not None:
            return part
    return None


def _said(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
