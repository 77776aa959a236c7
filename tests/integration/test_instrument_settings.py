"""What is set is read back before the beam is on, tried once more, and put back in the end."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from itertools import pairwise
from pathlib import Path

import pytest
from served_stripes import Frames, make_plan, serving, until, until_phase
from striped_microscope import StripedMicroscope

from instrument import AcquisitionPlan, Description, Frame, SafeStateError, SettingsError
from instrument.errors import BadInputError
from instrument.models import BeamStop, Slew


class Lens(StripedMicroscope):
    """A column with one lens, whose first movements may fail."""

    def __init__(self, failures: int = 0) -> None:
        super().__init__()
        self.defocus = -12.0
        self.failures = failures
        self.moved: list[float] = []

    async def describe(self) -> Description:
        return (await super().describe()).model_copy(update={"tolerances": {"defocus": 1.0}})

    async def set(self, settings: Mapping[str, float]) -> None:
        assert not self.beam_on
        self.moved.append(settings["defocus"])
        if self.failures:
            self.failures -= 1
        else:
            self.defocus = settings["defocus"] + 0.5

    async def read_back(self) -> Mapping[str, float]:
        return {"defocus": self.defocus, "stigmator": 0.1}


async def test_a_lens_is_set_once_more_and_put_back_when_nobody_commands(tmp_path: Path):
    lens = Lens(failures=1)
    async with serving(tmp_path, lens) as (_, client):
        async with client.lease():
            await client.prepare(make_plan())
            assert (await client.acquire("a1", Frames())).state == "done"
            assert lens.moved == [50.0, 50.0]
        await until(lambda: len(lens.moved) == 3)
        assert lens.moved[-1] == -12.0


async def test_a_lens_that_does_not_become_what_it_is_set_to_exposes_nothing(tmp_path: Path):
    lens = Lens(failures=9)
    async with serving(tmp_path, lens) as (_, client), client.lease():
        await client.prepare(make_plan())
        with pytest.raises(SettingsError, match="defocus was set to 50 and is -12, although 1 is the most"):
            await client.acquire("a1", Frames())
        assert lens.exposed == {}
        assert (await client.outcome("a1")).state == "reserved"
        with pytest.raises(SafeStateError, match="defocus was set to 50"):
            await client.prepare(make_plan("a2"))


class SlowLens(Lens):
    """Its lens may change by 10 Å at once, and it has a beam stop."""

    slew = Slew(step=10.0, settle=0.001)
    stop_works = True

    def __init__(self) -> None:
        super().__init__()
        self.beam_stop = 0.0
        self.stop_while_lit: set[float] = set()
        self.rate = 1e15

    async def describe(self) -> Description:
        changes = {"slews": {"defocus": self.slew}, "beam_stop": BeamStop(needed_above=self.rate)}
        return (await super().describe()).model_copy(update=changes)

    async def set(self, settings: Mapping[str, float]) -> None:
        if "beam_stop" in settings and self.stop_works:
            self.beam_stop = settings["beam_stop"]
        if "defocus" in settings:
            await super().set(settings)

    async def read_back(self) -> Mapping[str, float]:
        return {**(await super().read_back()), "beam_stop": self.beam_stop}

    async def acquire(self, plan: AcquisitionPlan) -> AsyncIterator[Frame]:
        self.stop_while_lit.add(self.beam_stop)
        async for frame in super().acquire(plan):
            yield frame


async def test_a_lens_is_walked_in_portions_that_it_bears(tmp_path: Path):
    lens = SlowLens()
    async with serving(tmp_path, lens) as (_, client):
        async with client.lease():
            await client.prepare(make_plan())
            assert (await client.acquire("a1", Frames())).state == "done"
            assert lens.moved[-1] == 50.0
        await until(lambda: lens.defocus == -11.5)
    places = [-12.0, *lens.moved]
    assert max(abs(after - before) for before, after in pairwise(places)) <= 10.0
    assert len(lens.moved) == 14


async def test_a_beam_stop_is_in_unless_an_exposure_wants_it_out(tmp_path: Path):
    lens = SlowLens()
    async with serving(tmp_path, lens) as (_, client), client.lease():
        await until(lambda: lens.beam_stop == 1.0)
        assert not (await client.prepare(make_plan())).check.beam_stop
        assert (await client.acquire("a1", Frames())).state == "done"
        assert lens.stop_while_lit == {0.0}
        await until(lambda: lens.beam_stop == 1.0)


async def test_a_beam_stop_is_in_while_the_beam_is_too_bright_for_the_detector(tmp_path: Path):
    lens = SlowLens()
    lens.rate = 1.0
    async with serving(tmp_path, lens) as (_, client), client.lease():
        assert (await client.prepare(make_plan())).check.beam_stop
        assert (await client.acquire("a1", Frames())).state == "done"
        assert lens.stop_while_lit == {1.0}


async def test_a_beam_stop_that_does_not_go_in_leads_to_safe(tmp_path: Path):
    lens = SlowLens()
    lens.stop_works = False
    async with serving(tmp_path, lens) as (_, client), client.lease():
        await until_phase(client, "safe")
        with pytest.raises(SafeStateError, match="beam_stop was set to 1 and is 0"):
            await client.prepare(make_plan())
    assert lens.exposed == {}


async def test_what_nobody_can_keep_is_not_served(tmp_path: Path):
    class Promising(StripedMicroscope):
        async def describe(self) -> Description:
            return (await super().describe()).model_copy(update={"slews": {"defocus": Slew(rate=10.0)}})

    with pytest.raises(
        BadInputError, match="striped: defocus cannot be seen to, because the adapter has no set and read_back"
    ):
        async with serving(tmp_path, Promising()):
            pass
    lens = SlowLens()
    lens.slew = Slew(rate=10.0)
    with pytest.raises(BadInputError, match="defocus would take 200 s for its whole range"):
        async with serving(tmp_path, lens):
            pass
