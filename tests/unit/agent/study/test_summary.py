"""A study's figures say what a reader takes them for."""

from __future__ import annotations

from typing import Any

import pytest

from agent.study.figures import calibration_figure, score_figure
from agent.study.records import CalibrationRecord, ScoreRecord
from agent.study.summary import cells_of, summarise_calibration, summarise_score
from agent.study.tables import calibration_tables, score_tables


def calibration(error: float, **changes: Any) -> CalibrationRecord:
    values = {"name": "c", "seed": 1, "nominal_defocus": 90.0, "true_defocus": 100.0, "defocus": 100.0 + error}
    return CalibrationRecord.model_validate(values | {"defocus_sd": 2.0, "found": True, "right_hand": True} | changes)


def score(cell: int, score: float, truth: float, **changes: Any) -> ScoreRecord:
    values = {"name": "c", "seed": 1, "step": 1.0, "defocus": 50.0, "dose": 1e3, "halves": "passes"}
    return ScoreRecord.model_validate(values | {"cell": cell, "score": score, "sd": 0.1, "truth": truth} | changes)


def test_a_defocus_that_was_not_found_counts_with_the_error_of_its_set_point() -> None:
    lost = calibration(-10, defocus_sd=None, found=False)
    figures = summarise_calibration([calibration(1), calibration(-3), lost])
    assert figures.not_found == pytest.approx(1 / 3)
    assert figures.defocus_median == 3
    assert figures.pull_rms == pytest.approx((0.5 * (0.25 + 2.25)) ** 0.5)
    assert figures.pull_worst == 1.5


def test_a_column_that_failed_counts_as_not_found() -> None:
    failed = CalibrationRecord(name="d", seed=2, error="no atoms")
    figures = summarise_calibration([calibration(2), failed])
    assert figures.not_found == 0.5
    assert figures.defocus_90 == 2


def test_a_rotation_of_the_wrong_hand_is_counted_as_such_and_not_compared() -> None:
    turned = calibration(0, rotation_error=0.2, rotation_sd=0.1)
    figures = summarise_calibration([turned, calibration(0, rotation_error=170.0, right_hand=False)])
    assert figures.rotation_90 == pytest.approx(0.2)
    assert figures.wrong_hand == 1


def test_a_score_is_right_where_means_over_columns_agree() -> None:
    # 10 % too high in one column and 20 % in the other: 15 % in the mean, and the cell counts as right.
    records = [score(0, 1.1, 1.0), score(0, 1.19, 1.0, name="d"), score(1, 2.0, 1.0), score(1, 2.0, 1.0, name="d")]
    figures = summarise_score(records, "passes")
    assert figures.within == 0.5
    assert [cell.right for cell in cells_of(records, "passes").values()] == [True, False]
    assert figures.bias == pytest.approx((0.1 + 0.19 + 1 + 1) / 4)


def test_what_a_score_loses_is_told_per_column() -> None:
    good = [score(0, 3.0, 3.0), score(1, 2.0, 2.0), score(2, 1.0, 1.0)]
    bad = [score(0, 1.0, 3.0, name="d"), score(1, 2.0, 2.0, name="d"), score(2, 3.0, 1.5, name="d")]
    figures = summarise_score([*good, *bad], "passes")
    assert (figures.rank_worst, figures.rank_median) == (pytest.approx(-1), pytest.approx(0))
    assert figures.regret == pytest.approx(0.25)  # 0 in one, half of it in the other


def test_low_doses_are_not_ranked_and_other_halves_left_out() -> None:
    low = [score(n, float(n), 3.0 - n, dose=300) for n in range(3)]
    thinned = [score(n, float(n), 3.0 - n, halves="thinned") for n in range(3)]
    figures = summarise_score([*low, *thinned], "passes")
    assert figures.acquisitions == 3
    assert figures.rank_median is None
    assert summarise_score(thinned, "thinned").rank_median == pytest.approx(-1)


def test_a_veto_of_a_score_that_was_right_is_false() -> None:
    records = [score(0, 1.0, 1.0, veto="misfit"), score(1, 3.0, 1.0, veto="misfit"), score(2, 1.0, 1.0)]
    figures = summarise_score(records, "passes")
    assert (figures.vetoes, figures.false_vetoes) == (2, 1)
    assert figures.bias == 0


def test_tables_show_records_that_hold_nothing() -> None:
    rows = [table.row_count for table in calibration_tables([CalibrationRecord(name="d", seed=2, error="no atoms")])]
    assert rows[0] == 1
    rows = [
        table.row_count for table in score_tables([ScoreRecord(name="d", seed=2, error="no atoms"), score(0, 1, 1)])
    ]
    assert rows[:2] == [1, 1]


def test_figures_are_drawn_of_whatever_there_is() -> None:
    failed = CalibrationRecord(name="d", seed=2, error="no atoms")
    lost = calibration(-10, defocus_sd=None, found=False, rotation_error=1.0)
    for records in ([failed], [calibration(1), lost, failed]):
        assert calibration_figure(records).startswith(b"\x89PNG")
    for scores in (
        [ScoreRecord(name="d", seed=2, error="no atoms")],
        [score(0, 1, 1), score(1, -0.2, 1, veto="misfit")],
    ):
        assert score_figure(scores).startswith(b"\x89PNG")
