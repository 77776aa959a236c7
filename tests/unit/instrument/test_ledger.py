"""The books: nobody overdraws them, a crash makes them err on the safe side, and they survive the process."""

from __future__ import annotations

import itertools
import sqlite3
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from examples import check, plan
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from instrument.errors import BudgetError, ConflictError, InstrumentError, NotReservedError
from instrument.ledger import Ledger
from instrument.ledger_file import FILE_NAME
from instrument.models import AcquisitionPlan, Rectangle
from instrument.status import CampaignAccount


def make_plan(name: str = "a1", *, at: tuple[float, float] = (0, 0), **changes: Any) -> AcquisitionPlan:
    return plan(name, 10.0, *at, **({"dose": 10.0} | changes))


def reserve(
    ledger: Ledger, plan: AcquisitionPlan, *, overhead: float = 0.0, margin: float = 0.0, limit: float | None = None
) -> CampaignAccount:
    return ledger.reserve(plan, check(plan, overhead, margin), limit)


@pytest.fixture
def ledger(tmp_path: Path):
    ticks = itertools.count()
    ledger = Ledger(tmp_path, now=lambda: datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=next(ticks)))
    ledger.open_campaign("c", 5000.0)
    yield ledger
    ledger.close()


def test_a_reservation_is_set_aside_and_then_spent(ledger: Ledger):
    account = reserve(ledger, make_plan(), overhead=7.0)
    assert (account.reserved, account.spent, account.left) == (1007.0, 0.0, 3993.0)
    ledger.mark_running("a1")
    outcome = ledger.finish("a1", "done", frames=100, electrons=1007.0)
    assert (outcome.state, outcome.frames, outcome.electrons) == ("done", 100, 1007.0)
    account = ledger.account("c")
    assert (account.reserved, account.spent, account.left) == (0.0, 1007.0, 3993.0)


def test_more_than_is_left_is_refused_and_changes_nothing(ledger: Ledger):
    reserve(ledger, make_plan("a1", dose=40.0))
    with pytest.raises(BudgetError, match=r"needs 1001 electrons, campaign c has 1000 of 5000 left") as caught:
        reserve(ledger, make_plan("a2", dose=10.01))
    assert caught.value.detail == {"needed": 1001.0, "left": 1000.0, "budget": 5000.0}
    assert ledger.outcome("a2") is None
    assert reserve(ledger, make_plan("a2", dose=10.0)).left == 0.0


def test_a_campaign_without_budget_has_nothing(ledger: Ledger):
    with pytest.raises(BudgetError, match="no budget"):
        reserve(ledger, make_plan(campaign="other"))


def test_the_budget_of_a_known_campaign_cannot_be_changed(ledger: Ledger):
    assert ledger.open_campaign("c", 5000.0).budget == 5000.0
    with pytest.raises(ConflictError, match="opened with a budget of 5000 electrons, not 6000"):
        ledger.open_campaign("c", 6000.0)
    assert ledger.account("c").budget == 5000.0


def test_the_same_plan_is_reserved_once_and_another_under_its_id_never(ledger: Ledger):
    reserve(ledger, make_plan())
    assert reserve(ledger, make_plan()).reserved == 1000.0
    with pytest.raises(ConflictError, match="known with another plan"):
        reserve(ledger, make_plan(dose=9.0))
    assert ledger.account("c").reserved == 1000.0


def test_a_released_reservation_gives_its_electrons_back_for_good(ledger: Ledger):
    reserve(ledger, make_plan())
    assert ledger.cancel("a1").state == "aborted"
    assert ledger.account("c").left == 5000.0
    with pytest.raises(NotReservedError):
        ledger.mark_running("a1")


def test_a_finished_acquisition_cannot_be_released(ledger: Ledger):
    reserve(ledger, make_plan())
    ledger.mark_running("a1")
    ledger.finish("a1", "done", frames=100, electrons=1000.0)
    assert ledger.cancel("a1").state == "done"
    assert ledger.account("c").spent == 1000.0
    with pytest.raises(NotReservedError):
        ledger.cancel("never heard of")


def test_a_second_start_or_end_changes_nothing(ledger: Ledger):
    reserve(ledger, make_plan())
    ledger.mark_running("a1")
    with pytest.raises(NotReservedError):
        ledger.mark_running("a1")
    ledger.finish("a1", "aborted", frames=10, electrons=110.0, reason="first")
    outcome = ledger.finish("a1", "done", frames=100, electrons=1.0)
    assert (outcome.state, outcome.electrons, outcome.reason) == ("aborted", 110.0, "first")


def test_an_unclean_end_counts_what_ran_as_spent_and_keeps_what_was_reserved(tmp_path: Path):
    ledger = Ledger(tmp_path)
    ledger.open_campaign("c", 5000.0)
    reserve(ledger, make_plan("ran"), overhead=7.0)
    reserve(ledger, make_plan("waited", at=(50, 50)))
    ledger.mark_running("ran")
    fence = ledger.next_fence()
    ledger.close()

    ledger = Ledger(tmp_path)
    assert ledger.interrupted == ("ran",)
    assert ledger.outcome("ran").state == "failed"
    assert ledger.outcome("waited").state == "reserved"
    account = ledger.account("c")
    assert (account.spent, account.reserved) == (1007.0, 1000.0)
    assert ledger.next_fence() > fence
    ledger.close()

    ledger = Ledger(tmp_path)
    assert ledger.interrupted == ()
    ledger.close()


def test_a_second_server_on_the_same_books_is_refused(ledger: Ledger, tmp_path: Path):
    with pytest.raises(ConflictError, match="in use by another server"):
        Ledger(tmp_path)
    assert ledger.account("c").budget == 5000.0


def test_a_file_that_is_no_ledger_is_refused_and_left_alone(tmp_path: Path):
    (tmp_path / FILE_NAME).write_bytes(b"my thesis " * 1000)
    with pytest.raises(InstrumentError, match="is not a ledger"):
        Ledger(tmp_path)
    assert (tmp_path / FILE_NAME).read_bytes() == b"my thesis " * 1000


def test_safe_lasts_until_somebody_resumes(tmp_path: Path):
    ledger = Ledger(tmp_path)
    assert ledger.safe_reason() == ""
    ledger.record_event("safe", "lease lapsed")
    ledger.close()
    ledger = Ledger(tmp_path)
    assert ledger.safe_reason() == "lease lapsed"
    ledger.record_event("resume", "looked at it", "Ada")
    assert ledger.safe_reason() == ""
    assert [(e.kind, e.operator, e.reason) for e in ledger.events()] == [
        ("safe", "", "lease lapsed"),
        ("resume", "Ada", "looked at it"),
    ]
    ledger.close()


def test_dose_adds_up_where_illuminated_areas_overlap(ledger: Ledger):
    reserve(ledger, make_plan("a1", dose=10.0, at=(0, 0)), margin=1.0)
    reserve(ledger, make_plan("a2", dose=20.0, at=(5, 5)), margin=1.0)
    reserve(ledger, make_plan("a3", dose=4.0, at=(40, 40)), margin=1.0)
    assert ledger.accumulated_dose(Rectangle(y=0, x=0, height=1, width=1)) == 10.0
    assert ledger.accumulated_dose(Rectangle(y=0, x=0, height=20, width=20)) == 30.0
    assert ledger.accumulated_dose(Rectangle(y=10.5, x=10.5, height=1, width=1)) == 30.0
    assert ledger.accumulated_dose(Rectangle(y=11.5, x=0, height=9, width=9)) == 20.0
    assert ledger.accumulated_dose(Rectangle(y=20, x=20, height=5, width=5)) == 0.0


def test_a_region_gets_no_more_than_its_limit_however_the_dose_is_dealt_out(ledger: Ledger):
    reserve(ledger, make_plan("a1", dose=10.0), margin=1.0, limit=25.0)
    with pytest.raises(BudgetError, match=r"region r would get 30 e/Å² with the 10 it already has; at most 25"):
        reserve(ledger, make_plan("a2", dose=20.0, at=(10.5, 0)), margin=1.0, limit=25.0)
    reserve(ledger, make_plan("a2", dose=20.0, at=(12, 0)), margin=1.0, limit=25.0)
    ledger.cancel("a1")
    reserve(ledger, make_plan("a3", dose=5.0, at=(2, 0)), margin=0.0, limit=25.0)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    steps=st.lists(
        st.tuples(
            st.sampled_from(["reserve", "start", "done", "aborted", "failed", "cancel", "restart"]),
            st.integers(0, 4),
            st.floats(1.0, 30.0),
        ),
        max_size=30,
    )
)
def test_no_sequence_of_events_overdraws_or_forgets(tmp_path_factory: pytest.TempPathFactory, steps):
    folder = tmp_path_factory.mktemp("books")
    ledger = Ledger(folder)
    ledger.open_campaign("c", 5000.0)
    exposed: dict[str, float] = {}
    for action, number, dose in steps:
        name = f"a{number}"
        try:
            if action == "reserve":
                reserve(ledger, make_plan(name, dose=dose))
            elif action == "start":
                ledger.mark_running(name)
                exposed[name] = ledger.exposure(name).electrons
            elif action == "cancel":
                ledger.cancel(name)
            elif action == "restart":
                ledger.close()
                ledger = Ledger(folder)
            elif ledger.outcome(name) is not None and ledger.outcome(name).state == "running":
                exposed[name] *= 1.0 if action == "done" else 0.5
                ledger.finish(name, action, frames=1, electrons=exposed[name])
        except (BudgetError, ConflictError, NotReservedError):
            pass
        account = ledger.account("c")
        assert account.spent + account.reserved <= account.budget
        assert account.spent + account.reserved >= sum(exposed.values()) * (1 - 1e-12)
    ledger.close()


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE acquisitions SET electrons = electrons / 2",
        "UPDATE campaigns SET spent = 0",
        "UPDATE acquisitions SET state = 'reserved'",
        "UPDATE acquisitions SET dose = 0",
        "DELETE FROM acquisitions",
        "PRAGMA foreign_keys=OFF; UPDATE acquisitions SET campaign = 'nobody'",
    ],
)
def test_books_that_contradict_themselves_are_not_opened(tmp_path: Path, damage: str):
    ledger = Ledger(tmp_path)
    ledger.open_campaign("c", 1e6)
    reserve(ledger, make_plan("a1"))
    ledger.mark_running("a1")
    ledger.finish("a1", "done", frames=100, electrons=1000.0)
    ledger.close()
    Ledger(tmp_path).close()
    with sqlite3.connect(tmp_path / FILE_NAME) as database:
        database.executescript(damage)
    database.close()
    with pytest.raises(InstrumentError, match=r"is damaged .* restore a copy"):
        Ledger(tmp_path)
