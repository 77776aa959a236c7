"""A column that is not well exposes nothing, and goes on by itself; frames that contradict the plan end in SAFE."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from served_stripes import PER_PATTERN, Frames, make_plan, serving, under_way
from striped_microscope import StripedMicroscope

from instrument import (
    Condition,
    Health,
    InstrumentClient,
    OutOfLimitsError,
    Reservation,
    SafeStateError,
    SuspendedError,
    health_watch,
)
from instrument.models import Description


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health_watch, "INTERVAL", 0.02)


LEAK = Condition(name="vacuum", value=3e-4, unit="Pa", high=1e-4, margin=2e-5)


async def prepared_when_well(client: InstrumentClient, name: str) -> Reservation:
    async with asyncio.timeout(5):
        while True:
            try:
                return await client.prepare(make_plan(name, dose=2.0))
            except SuspendedError:
                await asyncio.sleep(0.01)


async def refused(client: InstrumentClient, says: str) -> None:
    async with asyncio.timeout(5):
        while says not in (await client.status()).suspended:
            await asyncio.sleep(0.01)
    with pytest.raises(SuspendedError, match=says):
        await client.prepare(make_plan("a2", dose=2.0))


async def test_a_vacuum_trip_ends_the_exposure_and_holds_the_next_until_it_has_been_well_for_a_while(tmp_path: Path):
    async with under_way(tmp_path, hold=0.3) as (microscope, _, client, running):
        microscope.conditions = (LEAK,)
        outcome = await running
        assert (outcome.state, microscope.beam_on) == ("aborted", False)
        assert outcome.reason == "suspended: vacuum: 0.0003 Pa, at most 0.0001 Pa are right"
        assert not (await client.health()).ok
        assert (await client.status()).phase == "idle", "nobody has to release it"
        microscope.conditions = (LEAK.model_copy(update={"value": 9e-5}),)
        await refused(client, "at most 8e-05 Pa")
        microscope.conditions = (LEAK.model_copy(update={"value": 5e-5}),)
        await refused(client, "well again, exposures are allowed in")
        microscope.held_at = None
        await prepared_when_well(client, "a2")
        assert (await client.acquire("a2", Frames())).state == "done"


class Unwell(StripedMicroscope):
    answer = "not at all"

    async def health(self) -> Health:
        match self.answer:
            case "not at all":
                await asyncio.sleep(3600)
            case "error":
                raise OSError("the column's server is gone")
            case "beam on":
                return Health(blanked=False)
            case "not ok":
                return Health(blanked=True, ok=False, message="emission off")
        return Health(blanked=True)


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        ("not at all", "health: has not answered for 0.1 s"),
        ("error", "the column's server is gone"),
        ("beam on", "calls its beam on although it has been blanked"),
        ("not ok", "microscope: emission off"),
    ],
)
async def test_a_microscope_that_does_not_say_that_it_is_well_exposes_nothing(
    tmp_path: Path, answer: str, says: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(health_watch, "ANSWER_LIMIT", 0.1)
    microscope = Unwell()
    microscope.answer = answer
    async with serving(tmp_path, microscope, hold=0.05) as (_, client), client.lease():
        await refused(client, says)
        microscope.answer = "well"
        if answer != "not at all":
            await prepared_when_well(client, "a2")


async def test_ten_times_the_counts_that_the_plan_implies_lead_to_safe_and_are_booked(tmp_path: Path):
    microscope = StripedMicroscope()
    microscope.counts_per_electron = 1.0  # 32,000 counts where 100 are asked for
    async with serving(tmp_path, microscope) as (_, client), client.lease():
        reserved = (await client.prepare(make_plan())).check.electrons
        outcome = await client.acquire("a1", Frames())
        assert (outcome.state, outcome.frames) == ("aborted", 16)
        assert "counts in the mean, the plan implies 100: the beam is not what the description says" in outcome.reason
        assert outcome.electrons > 16 * 100 * PER_PATTERN, "what the counts say, although less was reserved"
        assert outcome.electrons > reserved
        assert (await client.status()).phase == "safe"
        with pytest.raises(SafeStateError, match="check beam current"):
            await client.prepare(make_plan("a2"))


class Protected(StripedMicroscope):
    async def describe(self) -> Description:
        described = await super().describe()
        detector = described.detector.model_copy(update={"count_rate_limit": 1e6})
        return described.model_copy(update={"exposure_limit": 5000.0, "detector": detector})


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"dose": 100.0}, "takes 10010 electrons; a single one may take 5000"),
        ({"dose": 20.0}, r"give a pixel .* counts/s; the detector bears 1e\+06"),
    ],
)
async def test_an_exposure_beyond_the_largest_or_beyond_the_detector_is_refused(
    tmp_path: Path, changes: dict[str, float], says: str
):
    async with serving(tmp_path, Protected()) as (_, client), client.lease():
        with pytest.raises(OutOfLimitsError, match=says):
            await client.prepare(make_plan(**changes))
