"""A study that was stopped goes on where it was, and asks for nothing twice."""

from __future__ import annotations

import json
from pathlib import Path

import examples
import pytest

from agent.errors import BadInputError
from agent.study.exposures import Exposed, StudyColumn
from agent.study.plans import Planned, Wanted, calibration_plans, score_plans
from agent.study.records import CalibrationRecord, ScoreRecord
from agent.study.resume import read_records, what_is_left
from agent.study.score import score_records

COLUMN = StudyColumn(0, "c", 7)


def planned() -> list[Planned]:
    return score_plans(0, examples.description(), Wanted(quick=True))


def test_only_what_has_no_record_is_acquired_again() -> None:
    plans = planned()
    done = {ScoreRecord.asked(COLUMN, each).key for each in plans[1:5]}
    left = what_is_left(plans, COLUMN, ScoreRecord, done)
    assert left == [plans[0], *plans[5:]], "the first acquisition teaches those that are left"
    assert what_is_left(plans, StudyColumn(1, "d", 7), ScoreRecord, done) == plans


def test_a_column_that_is_done_is_not_calibrated_again() -> None:
    plans = planned()
    done = {ScoreRecord.asked(COLUMN, each).key for each in plans[1:]}
    assert what_is_left(plans, COLUMN, ScoreRecord, done) == []
    (first,) = calibration_plans(0, examples.description(), Wanted())
    calibrated = CalibrationRecord.asked(COLUMN, first)
    assert what_is_left([first], COLUMN, CalibrationRecord, {calibrated.key}) == []


def test_records_survive_the_file(tmp_path: Path) -> None:
    path = tmp_path / "out.json"
    record = ScoreRecord.asked(COLUMN, planned()[1])
    path.write_text(json.dumps([record.model_dump(mode="json")]), encoding="utf-8")
    assert [each.key for each in read_records(path, ScoreRecord)] == [record.key]
    assert read_records(tmp_path / "none.json", ScoreRecord) == []
    for content in ("{", "[1]", "3"):
        path.write_text(content, encoding="utf-8")
        with pytest.raises(BadInputError, match="leave --resume out"):
            read_records(path, ScoreRecord)
    with pytest.raises(BadInputError, match="--json"):
        read_records(None, ScoreRecord)


def test_a_setting_that_fails_has_no_score_and_says_why() -> None:
    first, two, *_ = planned()
    exposed = [
        Exposed(COLUMN, first, error="no beam"),
        Exposed(COLUMN, two, error="no beam"),
        Exposed(COLUMN, error="x"),
    ]
    setting, column = score_records(exposed)
    assert (setting.step, setting.dose, setting.halves, setting.score) == (two.plan.step, 1e3, "passes", None)
    assert setting.veto == "no score: no beam"
    assert (column.step, column.veto) == (None, "no score: x")
