"""Server and client over real sockets: what the instrument promises, whatever the agent does."""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from examples import square
from large_ledger import fill
from served_stripes import ELECTRONS_PER_SECOND, OVERHEAD, PER_PATTERN, Frames, make_plan, serving, under_way
from striped_microscope import StripedMicroscope, pattern_of

from instrument import (
    AcquisitionPlan,
    BudgetError,
    ConflictError,
    Description,
    Detector,
    NotReservedError,
    Rectangle,
    SafeStateError,
)
from instrument.ledger import Ledger


async def test_every_frame_arrives_with_its_own_counts(tmp_path: Path):
    microscope = StripedMicroscope(shape=(16, 24))
    async with serving(tmp_path, microscope) as (_, client), client.lease():
        reservation = await client.prepare(make_plan())
        assert reservation.check.n_positions == 100
        assert reservation.electrons_left == 1e6 - 100 * PER_PATTERN - OVERHEAD
        frames, progress = Frames(), []
        outcome = await client.acquire("a1", frames, lambda *numbers: progress.append(numbers))
        assert (outcome.state, outcome.frames, outcome.electrons) == ("done", 100, 100 * PER_PATTERN + OVERHEAD)
        assert sorted(frames.patterns) == list(range(100))
        assert all(np.array_equal(frames.patterns[i], pattern_of(i, (16, 24))) for i in range(100))
        header = frames.header
        assert (header.shape, header.number_of_images, header.incident_energy) == ((16, 24), 100, 80e3)
        assert header.user_data["acquisition"] == header.series_unique_id == "a1"
        assert np.argwhere(header.pixel_mask).tolist() == [[1, 2]]
        assert progress[-1] == (100, 100)
        assert not microscope.beam_on


async def test_explicit_positions_are_acquired(tmp_path: Path):
    plan = make_plan(positions=((21.0, 31.0), (22.5, 33.25), (29.0, 31.5)))
    async with serving(tmp_path, StripedMicroscope()) as (_, client), client.lease():
        await client.prepare(plan)
        frames = Frames()
        assert (await client.acquire("a1", frames)).frames == 3
        assert sorted(frames.patterns) == [0, 1, 2]
        assert (await client.exposures())[0].plan == plan


# 1. Reserve, then expose


async def test_nothing_is_exposed_without_a_reservation(tmp_path: Path):
    microscope = StripedMicroscope()
    async with serving(tmp_path, microscope) as (_, client), client.lease():
        with pytest.raises(NotReservedError, match="prepare it first"):
            await client.acquire("a1", Frames())
        assert microscope.exposed == {}


async def test_a_released_reservation_cannot_be_started(tmp_path: Path):
    microscope = StripedMicroscope()
    async with serving(tmp_path, microscope) as (_, client), client.lease():
        await client.prepare(make_plan())
        await client.cancel("a1")
        outcome = await client.acquire("a1", Frames())
        assert (outcome.state, outcome.electrons) == ("aborted", 0.0)
        assert microscope.exposed == {}
        assert (await client.status()).electrons_reserved == 0.0


async def test_a_check_reserves_nothing(tmp_path: Path):
    async with serving(tmp_path, StripedMicroscope()) as (_, client):
        assert (await client.check(make_plan())).electrons == 100 * PER_PATTERN + OVERHEAD
        assert await client.exposures() == []


async def test_an_abort_that_overtakes_the_start_prevents_it(tmp_path: Path):
    microscope = StripedMicroscope()
    async with serving(tmp_path, microscope) as (_, client), client.lease():
        await client.prepare(make_plan())
        await client.abort("a1")
        assert (await client.acquire("a1", Frames())).state == "aborted"
        assert microscope.exposed == {}


# 2. Exactly once


async def test_a_repeated_start_returns_the_first_outcome(tmp_path: Path):
    microscope = StripedMicroscope()
    async with serving(tmp_path, microscope) as (_, client), client.lease():
        await client.prepare(make_plan())
        first = await client.acquire("a1", Frames())
        repeated, frames = await client.prepare(make_plan()), Frames()
        assert repeated.id == "a1"
        assert await client.acquire("a1", frames) == first
        assert frames.patterns == {}
        assert microscope.exposed == {"a1": 100}


async def test_a_start_that_comes_again_after_a_restart_exposes_nothing(tmp_path: Path):
    async with serving(tmp_path, StripedMicroscope()) as (_, client), client.lease():
        await client.prepare(make_plan())
        first = await client.acquire("a1", Frames())
    microscope = StripedMicroscope()
    async with serving(tmp_path, microscope) as (_, client), client.lease():
        assert await client.outcome("a1") == first
        assert await client.acquire("a1", Frames()) == first
        assert microscope.exposed == {}


async def test_another_plan_under_a_known_id_is_a_conflict(tmp_path: Path):
    async with serving(tmp_path, StripedMicroscope()) as (_, client), client.lease():
        await client.prepare(make_plan())
        with pytest.raises(ConflictError, match="known with another plan"):
            await client.prepare(make_plan(dose=PER_PATTERN / 2))


async def test_one_acquisition_at_a_time(tmp_path: Path):
    async with under_way(tmp_path) as (microscope, _, client, running):
        await client.prepare(make_plan("a2"))
        with pytest.raises(ConflictError):
            await client._request("start", id="a2")
        await client.abort("a1")
        assert (await running).state == "aborted"
        assert "a2" not in microscope.exposed


# 4. A ledger nobody can overdraw


async def test_the_budget_is_the_limit(tmp_path: Path):
    microscope = StripedMicroscope()
    budget = 2 * (100 * PER_PATTERN + OVERHEAD) + 1
    async with serving(tmp_path, microscope, budget=budget) as (_, client), client.lease():
        for name in ("a1", "a2"):
            await client.prepare(make_plan(name))
        with pytest.raises(BudgetError, match="lower dose or field"):
            await client.prepare(make_plan("a3"))
        await client.acquire("a1", Frames())
        account = await client.open_campaign("c", budget)
        assert (account.spent, account.reserved, account.left) == (10010.0, 10010.0, 1.0)


async def test_the_dose_of_a_region_is_limited_across_campaigns(tmp_path: Path):
    async with serving(tmp_path, StripedMicroscope(region_dose_limit=150.0)) as (_, client), client.lease():
        await client.prepare(make_plan("a1"))
        await client.acquire("a1", Frames())
        await client.open_campaign("other", 1e6)
        with pytest.raises(BudgetError, match="move the field to a fresh place"):
            await client.prepare(make_plan("a2", campaign="other"))
        fresh = Rectangle(y=20, x=44.5, height=10, width=10)
        assert await client.prepare(make_plan("a3", campaign="other", field=fresh))


async def test_a_long_history_can_be_read_and_keeps_nobody_from_starting(tmp_path: Path):
    ledger = Ledger(tmp_path / "state")
    fill(ledger, 6000)
    ledger.close()
    async with serving(tmp_path, StripedMicroscope(), budget=1e12) as (_, client), client.lease():
        assert len(await client.exposures()) == 6001
        assert 0 < len(await client.illuminated(square(500.0, 3000.0, 3000.0))) < 100
        await client.prepare(make_plan())
        assert (await client.acquire("a1", Frames())).state == "done"
        assert square(14.0, 18.0, 28.0) in await client.illuminated(make_plan().field)


async def test_the_largest_plans_do_not_fill_the_books(tmp_path: Path):
    positions = tuple((20 + 1e-4 * (n % 100_000), 30.123456789 + 1e-5 * n) for n in range(70_000))
    async with serving(tmp_path, StripedMicroscope(), budget=1e12) as (_, client), client.lease():
        plans = [make_plan(name, positions=positions) for name in ("a1", "a2", "a3")]
        for scan in plans:
            await client.prepare(scan)
        assert [line.plan for line in await client.exposures()] == plans
        assert await client.illuminated(square(100.0)) == [square(14.0, 18.0, 28.0)]


async def test_a_microscope_that_fails_is_charged_for_what_it_exposed(tmp_path: Path):
    class Failing(StripedMicroscope):
        async def acquire(self, plan: AcquisitionPlan):
            async for frame in super().acquire(plan):
                if frame.index == 7:
                    raise RuntimeError("detector readout")
                yield frame

    async with serving(tmp_path, Failing()) as (_, client), client.lease():
        await client.prepare(make_plan())
        outcome = await client.acquire("a1", Frames())
        assert (outcome.state, outcome.frames) == ("failed", 7)
        assert "detector readout" in outcome.reason
        assert 0 < outcome.electrons < 5 * ELECTRONS_PER_SECOND
        assert (await client.status()).electrons_spent == outcome.electrons
        assert (await client.acquire("a1", Frames())) == outcome


async def test_a_ledger_that_cannot_be_written_holds_exposures_and_loses_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    finish, full = Ledger.finish, True

    def unwritable(self: Ledger, *args: Any, **changes: Any) -> Any:
        if full:
            raise sqlite3.OperationalError("database or disk is full")
        return finish(self, *args, **changes)

    monkeypatch.setattr(Ledger, "finish", unwritable)
    async with serving(tmp_path, StripedMicroscope()) as (_, client), client.lease():
        await client.prepare(make_plan())
        assert (await client.acquire("a1", Frames())).state == "done", "the frames are here, and are kept"
        with pytest.raises(SafeStateError, match=r"the ledger cannot be written .*disk is full"):
            await client.prepare(make_plan("a2"))
        assert (await client.exposures())[0].state == "running", "as a crash would have to find it"
        full = False
        async with asyncio.timeout(5):
            while (await client.exposures())[0].state != "done":
                await asyncio.sleep(0.01)
        await client.resume("Ada", "made room")
        assert (await client.prepare(make_plan("a2"))).id == "a2"


class FromTheFuture(StripedMicroscope):
    """Its server says more than this client knows, at every level."""

    async def describe(self) -> Any:
        class Later(Description):
            colour: str = "red"

        class LaterDetector(Detector):
            cooled: bool = True

        described = (await super().describe()).model_dump()
        described["detector"] = LaterDetector(**described["detector"])
        return Later(**described)


async def test_a_client_goes_on_with_a_server_that_says_more(tmp_path: Path):
    async with serving(tmp_path, FromTheFuture()) as (_, client), client.lease():
        assert (await client._request("describe"))["colour"] == "red"
        assert (await client.describe()).name == "striped"
        await client.prepare(make_plan())
        assert (await client.acquire("a1", Frames())).state == "done"
