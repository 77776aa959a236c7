"""Simulated acquisitions that studies share: each is made and processed once, and what came of it stays on disk."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from pydantic import ValidationError

from agent.reconstruction_choice import ReconstructionChoice
from agent.records import Settings
from agent.storage.atomic import atomic_write
from agent.study.exposures import Exposed, ExposureError, Simulator, StudyColumn
from agent.study.plans import FIELD, Planned, Wanted, score_plans
from agent.study.records import ScoreRecord
from agent.study.score import score_records
from instrument.models import Rectangle

VERSION = 2
"""Of what a cell of the pool means; another one leaves older files aside."""


class Pool:
    """Scores and truths of settings on the columns of a study.

    Args:
        folder: where they are kept.
        simulator: that makes what is missing.
        identity: of the list of columns: other columns have other cells.
    """

    def __init__(self, folder: Path, simulator: Simulator, identity: str) -> None:
        self._folder, self._simulator, self._identity = folder, simulator, identity
        self._wanted: Exposed | None = None
        self._processing: tuple[StudyColumn, Iterator[ScoreRecord]] | None = None
        self.made = 0

    def record(self, column: StudyColumn, settings: Settings, replica: int, *, final: bool = False) -> ScoreRecord:
        """What a campaign would find at some settings, beside the truth.

        Args:
            column: of the study.
            settings: step Å, defocus Å, dose e/Å².
            replica: number of the repetition, with noise of its own and another place of the specimen.
            final: whether it is processed as a campaign's final picture is, or as a trial.
        """
        path = self._path(column, settings, replica, final=final)
        try:
            return ScoreRecord.model_validate_json(path.read_text(encoding="utf-8"))
        except (OSError, ValidationError):
            pass
        record = self._make(column, replace(self._planned(column, settings, replica), final=final))
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic_write(path, record.model_dump_json() + "\n")
        self.made += 1
        return record

    def _path(self, column: StudyColumn, settings: Settings, replica: int, *, final: bool = False) -> Path:
        asked = [VERSION, self._identity, column.name, column.seed, replica]
        asked += [f"{value:.6g}" for value in (settings.step, settings.defocus, settings.dose)]
        if final:  # cells of before had the passes of a trial, and are left aside
            asked += ["passes", ReconstructionChoice().to_the_end().passes]
        key = hashlib.sha256(json.dumps(asked).encode()).hexdigest()[:20]
        return self._folder / column.name / f"{key}.json"

    def _make(self, column: StudyColumn, planned: Planned) -> ScoreRecord:
        try:
            acquisition, truth = self._simulator.expose(column, planned)
        except ExposureError as error:
            return ScoreRecord.asked(column, planned).failed(str(error))
        self._wanted = Exposed(column, planned, acquisition, truth)
        if self._processing is None or self._processing[0] != column:
            self._processing = (column, score_records(self._exposures(column)))
        return next(self._processing[1])

    def _exposures(self, column: StudyColumn) -> Iterator[Exposed]:
        """The first acquisition of a column, which calibrates, then whatever is wanted."""
        first = score_plans(column.number, self._simulator.describe(column), Wanted(quick=True))[0]
        try:
            acquisition, truth = self._simulator.expose(column, first)
            yield Exposed(column, first, acquisition, truth)
        except ExposureError as error:
            yield Exposed(column, first, error=str(error))
        while self._wanted is not None:
            wanted, self._wanted = self._wanted, None
            yield wanted

    def _planned(self, column: StudyColumn, settings: Settings, replica: int) -> Planned:
        """The acquisition of a score study at these settings, in two passes, at a place that belongs to the replica."""
        wanted = Wanted(doses=(settings.dose,), steps=(settings.step,), defoci=(settings.defocus,))
        description = self._simulator.describe(column)
        template = next(p for p in score_plans(column.number, description, wanted) if p.scored and p.plan.passes == 2)
        y, x = _place(description.area, replica)
        assert template.scored is not None
        plan, scored = template.plan, template.scored
        name = f"pool-{column.number}-{replica}-{settings.step:.6g}-{settings.defocus:.6g}-{settings.dose:.6g}"
        moved = plan.model_copy(update={"field": _centred(plan.field, y, x), "id": name, "region": name})
        return replace(template, plan=moved, scored=_centred(scored, y, x))


def _centred(field: Rectangle | None, y: float, x: float) -> Rectangle:
    assert field is not None
    return field.model_copy(update={"y": y - field.height / 2, "x": x - field.width / 2})


def _place(area: Rectangle, replica: int) -> tuple[float, float]:
    """Middle of a field of a replica, Å: along a golden spiral from the middle of the area."""
    angle, part = 2.399963 * replica, math.sqrt(replica % 50 / 50)
    room = [max(length - FIELD - 6, 0.0) / 2 * part for length in (area.height, area.width)]
    return (
        area.y + area.height / 2 + room[0] * math.sin(angle),
        area.x + area.width / 2 + room[1] * math.cos(angle),
    )
