"""The map of the books: what was exposed is found by place, and the dose where it piles up, also after very many exposures."""

from __future__ import annotations

import sqlite3
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from examples import check, plan, square
from hypothesis import given, settings
from hypothesis import strategies as st
from large_ledger import fill

from instrument import dose_map
from instrument.dose_map import peak_dose
from instrument.errors import BudgetError
from instrument.ledger import Ledger
from instrument.ledger_file import _SCHEMA, FILE_NAME
from instrument.models import Rectangle


def booked(rectangles: list[tuple[float, float, float, float, float]]) -> np.ndarray:
    """Rows as the map gives them, of (y, x, height, width, dose)."""
    return np.array([(0, y, x, y + h, x + w, dose) for y, x, h, w, dose in rectangles], np.float64).reshape(-1, 6)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.tuples(*[st.integers(0, 6)] * 2, *[st.integers(1, 5)] * 2, st.floats(0.5, 9.0)), min_size=0, max_size=12
    )
)
def test_the_peak_is_the_highest_sum_at_any_point(rectangles: list[tuple[float, float, float, float, float]]):
    area = Rectangle(y=2, x=3, height=4, width=5)
    y, x = np.meshgrid(np.arange(2, 6) + 0.5, np.arange(3, 8) + 0.5, indexing="ij")
    dose = np.zeros(y.shape)
    for top, left, height, width, value in rectangles:
        dose[(y > top) & (y < top + height) & (x > left) & (x < left + width)] += value
    overlapping = [r for r in rectangles if Rectangle(y=r[0], x=r[1], height=r[2], width=r[3]).overlaps(area)]
    assert peak_dose(booked(overlapping), area) == pytest.approx(dose.max(), abs=1e-9)


def test_rectangles_that_share_an_edge_do_not_add_up():
    rows = booked([(0, 0, 10, 10, 5.0), (10, 0, 10, 10, 5.0), (0, 10, 10, 10, 5.0), (10 - 1e-9, 10, 10, 10, 5.0)])
    assert peak_dose(rows, square(20.0)) == 5.0


def test_the_limit_of_a_region_is_checked_in_no_time_among_800_overlaps(tmp_path: Path):
    ledger = Ledger(tmp_path)
    ledger.open_campaign("c", 1e12)
    rng = np.random.default_rng(0)
    for number in range(800):
        scan = plan(f"a{number}", 10.0, *rng.uniform(0, 9, 2), dose=1.0)
        ledger.reserve(scan, check(scan), None)
    scan = plan("more", 10.0, 0.0, 0.0)
    began = time.process_time()
    with pytest.raises(BudgetError, match="at most 100 are allowed"):
        ledger.reserve(scan, check(scan), 100.0)
    assert time.process_time() - began < 5.0  # once 47 s
    ledger.close()


@pytest.mark.parametrize("has_rtree", [True, False])
def test_what_is_exposed_is_found_by_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_rtree: bool):
    ledger = _ledger(tmp_path, monkeypatch, has_rtree)
    for number in range(20):
        scan = plan(f"a{number}", 10.0, 20.0 * number, 0.0)
        ledger.reserve(scan, check(scan, margin=1.0), None)
    ledger.finish("a2", "done", frames=100, electrons=1e4)
    ledger.cancel("a3")
    area = Rectangle(y=40.0, x=0.0, height=41.0, width=5.0)
    found = ledger.overlapping(area)
    assert found[:, 0].tolist() == [3, 5]
    assert found[0, 1:5].tolist() == [39.0, -1.0, 51.0, 11.0]
    assert ledger.overlapping(area, after=3)[:, 0].tolist() == [5]
    assert ledger.overlapping(area, limit=1)[:, 0].tolist() == [3]
    # An edge that is touched is not overlapped.
    assert len(ledger.overlapping(Rectangle(y=51.0, x=0.0, height=8.0, width=5.0))) == 0
    ledger.close()


def _ledger(folder: Path, monkeypatch: pytest.MonkeyPatch, has_rtree: bool) -> Ledger:
    if not has_rtree:
        monkeypatch.setattr(dose_map.DoseMap, "_open_rtree", lambda self: False)
    ledger = Ledger(folder)
    assert ledger._map.has_rtree is has_rtree
    ledger.open_campaign("c", 1e12)
    return ledger


def test_the_map_is_mended_after_a_server_without_r_tree(tmp_path: Path):
    with pytest.MonkeyPatch.context() as patch:
        ledger = _ledger(tmp_path, patch, has_rtree=False)
        scan = plan("a1", 10.0)
        ledger.reserve(scan, check(scan), None)
        ledger.close()
    ledger = Ledger(tmp_path)
    assert ledger._map.has_rtree
    assert len(ledger.overlapping(scan.field)) == 1
    ledger.close()


def test_pages_of_lines_are_bounded_and_lose_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("instrument.ledger.PAGE_BYTES", 5000)
    ledger = Ledger(tmp_path)
    for campaign in ("c", "other"):
        ledger.open_campaign(campaign, 1e12)
    for number in range(30):
        scan = plan(f"a{number}", 10.0, campaign="other" if number % 3 else "c")
        ledger.reserve(scan, check(scan), None)
    for campaign, count in ((None, 30), ("c", 10), ("other", 20), ("nobody", 0)):
        lines: list[Any] = []
        while page := ledger.exposures(campaign, lines[-1].series if lines else 0):
            assert len(page) < 8
            lines += page
        assert len({line.id for line in lines}) == len(lines) == count
    ledger.close()


def test_a_ledger_of_the_first_version_is_brought_up_to_date(tmp_path: Path):
    old = sqlite3.connect(tmp_path / FILE_NAME)
    old.executescript(_SCHEMA)
    old.execute("INSERT INTO campaigns VALUES ('c', 1e6, 'then')")
    for name, state, electrons, dose in (
        ("done", "done", 1000.0, 10.0),
        ("waits", "reserved", 500.0, 5.0),
        ("ran", "running", 300.0, 3.0),
        ("cancelled", "aborted", 0.0, 0.0),
    ):
        scan = plan(name, 10, 20, 30)
        cost = check(scan, margin=1.0)
        old.execute(
            "INSERT INTO acquisitions (id, campaign, region, state, plan, plan_check, electrons, dose, reserved_at) "
            "VALUES (?, 'c', 'r', ?, ?, ?, ?, ?, 'then')",
            (name, state, scan.model_dump_json(), cost.model_dump_json(), electrons, dose),
        )
    old.execute("PRAGMA user_version=1")
    old.commit()
    old.close()
    ledger = Ledger(tmp_path)
    assert ledger.interrupted == ("ran",)
    account = ledger.account("c")
    assert (account.spent, account.reserved) == (1300.0, 500.0)
    assert ledger.totals() == (500.0, 1300.0)
    assert ledger.overlapping(square(100.0))[:, 1:].tolist() == [
        [19.0, 29.0, 31.0, 41.0, dose] for dose in (10.0, 5.0, 3.0)
    ]
    ledger.close()
    again = Ledger(tmp_path)
    assert again.account("c").spent == 1300.0
    again.close()


@pytest.mark.parametrize("has_rtree", [True, False])
def test_a_long_history_is_answered_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_rtree: bool):
    ledger = _ledger(tmp_path, monkeypatch, has_rtree)
    fill(ledger, 30_000)
    ledger.close()
    ledger = Ledger(tmp_path)
    area = square(500.0, 3000.0, 3000.0)
    questions = {
        "area": lambda: ledger.overlapping(area),
        "account": lambda: ledger.account("c"),
        "totals": ledger.totals,
        "page": lambda: ledger.exposures(after=15_000),
        "outcome": lambda: ledger.outcome("old-777"),
    }
    for name, ask in questions.items():
        took = []
        for _ in range(5):
            began = time.process_time()
            ask()
            took.append(time.process_time() - began)
        assert min(took) < 0.2, name
    assert 0 < len(ledger.overlapping(area)) < 300
    ledger.close()
