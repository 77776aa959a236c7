"""A Thermo Fisher column behind temscript: units and sign, a blanker that insists, valves, and a server that stays at home."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from examples import between
from fake_temscript import FakeTemscript

from instrument.adapters import temscript
from instrument.adapters.parts import NotConfirmedError
from instrument.adapters.temscript import TemscriptColumn, TemscriptError
from instrument.errors import BadInputError


@pytest.fixture
def server() -> Iterator[FakeTemscript]:
    with FakeTemscript() as fake:
        yield fake


def column(fake: FakeTemscript, **options: Any) -> TemscriptColumn:
    return TemscriptColumn(fake.address, beam_current=20.0, defocus=between(-1000, 1000), **options)


async def test_underfocus_in_angstrom_is_written_as_metres_of_overfocus(server: FakeTemscript):
    with column(server, focus=20.0) as driven:
        assert (driven.voltage, driven.semiangle) == (3e5, pytest.approx(21.4))
        await driven.set_defocus(150.0)
        assert server.values["probe_defocus"] == pytest.approx(-170e-10)
    with column(server, underfocus=1) as driven:
        await driven.set_defocus(150.0)
        assert server.values["probe_defocus"] == pytest.approx(150e-10)
    assert server.accepted == {"application/json"}


async def test_a_lens_that_is_stuck_is_said_to_be(server: FakeTemscript, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(temscript, "TIMEOUT", 0.05)
    server.stuck = 0.9
    with column(server) as driven, pytest.raises(NotConfirmedError, match="set to 100, read back as 90"):
        await driven.set_defocus(100.0)


async def test_the_beam_is_off_from_the_start_and_as_soon_as_the_column_listens_again(server: FakeTemscript):
    with column(server) as driven:
        assert (await driven.health()).blanked
        await driven.unblank()
        assert not (await driven.health()).blanked
        server.deaf.set()
        driven.blank()
        server.deaf.clear()
        async with asyncio.timeout(5):
            while server.values["beam_blanked"] is not True:
                await asyncio.sleep(0.005)
        server.refuses.add("beam_blanked")
        driven._blanker.settle()
        with pytest.raises(TemscriptError, match=r"PUT http.*/v1/beam_blanked false: refused with 500"):
            await driven.unblank()
        server.refuses.clear()


async def test_valves_are_closed_and_confirmed_and_what_is_not_well_is_said(server: FakeTemscript):
    with column(server) as driven:
        await driven.close_valves()
        assert server.values["column_valves_open"] is False
        server.values["vacuum"] |= {"status": "BUSY", "column_valves_open": False}
        server.values["screen_position"] = "DOWN"
        ill = await driven.health()
        assert [each.complaint(tripped=False) for each in ill.conditions] == [
            "vacuum: status BUSY, READY is needed",
            "column valves: closed",
            "fluorescent screen: in the beam; lift it",
            "",
        ]
        server.deaf.set()
        gone = await driven.health()
        assert (gone.ok, gone.blanked) == (False, False)
        assert "vacuum: refused with 500" in gone.message
        server.deaf.clear()


@pytest.mark.parametrize("url", ["http://192.168.1.10:8080", "https://127.0.0.1:8080", "titan:8080", "http://0.0.0.0"])
def test_a_server_on_the_network_is_refused(url: str):
    with pytest.raises(BadInputError, match=r"must not be on a network; legal: http://127\.0\.0\.1:PORT"):
        TemscriptColumn(url, beam_current=20.0, defocus=between(-1000, 1000))


def test_an_old_or_strange_server_is_named(server: FakeTemscript):
    server.values["version"] = "1.0.10"
    with pytest.raises(TemscriptError, match=r"temscript '1\.0\.10'; 2\.0 or newer is needed"), column(server):
        pass
    server.values |= {"version": "2.1.0", "voltage": None}
    with pytest.raises(TemscriptError, match="voltage is None, which is no number"), column(server):
        pass
