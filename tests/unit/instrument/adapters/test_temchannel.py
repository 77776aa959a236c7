"""A column behind DE-TEM-Channel: sign and unit of the defocus, a blanker that insists, and its health."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator

import pytest
from examples import between
from fake_temchannel import FakeTemChannel

from instrument.adapters import temchannel
from instrument.adapters.parts import NotConfirmedError
from instrument.adapters.temchannel import TemChannelColumn, TemChannelError


@pytest.fixture
def channel() -> Iterator[FakeTemChannel]:
    with FakeTemChannel() as fake:
        yield fake


def column(fake: FakeTemChannel, **options: float) -> TemChannelColumn:
    return TemChannelColumn(fake.url, semiangle=20.0, beam_current=20.0, defocus=between(-1000, 1000), **options)


async def test_underfocus_in_angstrom_is_written_as_micrometres_of_overfocus(channel: FakeTemChannel):
    with column(channel, focus=20.0) as driven:
        assert driven.voltage == 8e4
        await driven.set_defocus(150.0)
        assert channel.values["DeFocusValue"] == pytest.approx(-0.017)


async def test_a_lens_that_is_stuck_is_said_to_be(channel: FakeTemChannel, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(temchannel, "TIMEOUT", 0.05)
    channel.stuck = 0.9
    with column(channel) as driven, pytest.raises(NotConfirmedError, match="set to 100, read back as 90"):
        await driven.set_defocus(100.0)


async def test_the_beam_is_off_from_the_start_and_after_blank_whatever_happens_between(channel: FakeTemChannel):
    with column(channel) as driven:
        assert (await driven.health()).blanked
        await driven.unblank()
        assert not (await driven.health()).blanked
        channel.deaf.set()
        began = time.monotonic()
        driven.blank()
        assert time.monotonic() - began < 2.0  # who waits for the microscope's answer waits for 5 s
        assert channel.values["BeamBlankState"] == 0
        channel.deaf.clear()
        async with asyncio.timeout(5):
            while channel.values["BeamBlankState"] != 1:
                await asyncio.sleep(0.005)
        assert (await driven.health()).blanked


async def test_a_beam_that_cannot_be_unblanked_is_said_to_be(channel: FakeTemChannel):
    with column(channel) as driven:
        assert (await driven.health()).blanked
        channel.refuses.add("setBeamBlank")
        with pytest.raises(TemChannelError, match="setBeamBlank blank 0 was refused"):
            await driven.unblank()
        channel.refuses.clear()


async def test_closed_valves_and_a_channel_that_is_gone_are_not_well(channel: FakeTemChannel):
    with column(channel) as driven:
        channel.values["ColumnValveStatus"] = 0.0
        closed = await driven.health()
        assert [each.complaint(tripped=False) for each in closed.conditions] == ["column valves: closed", ""]
        channel.values["ColumnValveStatus"] = 1.0
        channel.deaf.set()
        gone = await driven.health()
        assert not gone.ok
        assert "getColumnValveStatus: refused with 500" in gone.message
        channel.deaf.clear()
