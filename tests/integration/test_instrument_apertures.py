"""The aperture that a plan names is put in, read back before the beam is on, and taken out again in the end."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
from served_stripes import ELECTRONS_PER_SECOND, OVERHEAD, Frames, make_plan, serving, until
from striped_microscope import StripedMicroscope

from instrument import Aperture, Description, OutOfLimitsError, SafeStateError, SettingsError
from instrument.errors import BadInputError
from instrument.models import Slew

OFFERED = (Aperture(semiangle=10.7), Aperture(semiangle=21.4), Aperture(semiangle=42.8))


class Drive(StripedMicroscope):
    """A column with three apertures, one of which may be stuck."""

    changes: Mapping[str, object] = {}

    def __init__(self, *, stuck: bool = False) -> None:
        super().__init__()
        self.now = {"defocus": 0.0, "semiangle": 21.4}
        self.stuck = stuck
        self.put_in: list[float] = []

    async def describe(self) -> Description:
        told = {"apertures": OFFERED, "tolerances": {"semiangle": 0.1}, **self.changes}
        return (await super().describe()).model_copy(update=told)

    async def set(self, settings: Mapping[str, float]) -> None:
        assert not self.beam_on
        if "semiangle" in settings:
            self.put_in.append(settings["semiangle"])
        self.now |= {name: value for name, value in settings.items() if not (self.stuck and name == "semiangle")}

    async def read_back(self) -> Mapping[str, float]:
        return dict(self.now)


async def test_the_aperture_is_in_before_the_beam_is_on_and_out_when_nobody_commands(tmp_path: Path):
    drive = Drive()
    async with serving(tmp_path, drive) as (_, client):
        async with client.lease():
            await client.prepare(make_plan("a1", semiangle=10.7))
            sink = Frames()
            assert (await client.acquire("a1", sink)).state == "done"
            assert sink.header is not None
            assert sink.header.user_data["semiangle"] == 10.7
            # A plan that names none is for the aperture that was in at the beginning, whichever is in now.
            await client.prepare(make_plan("a2"))
            assert (await client.acquire("a2", Frames())).state == "done"
            await client.prepare(make_plan("a3", semiangle=42.8))
            assert (await client.acquire("a3", Frames())).state == "done"
            assert drive.put_in == [10.7, 21.4, 42.8]
        await until(lambda: drive.now["semiangle"] == 21.4)
        lines = await client.exposures("c")
        assert [line.plan.semiangle for line in lines] == [10.7, None, 42.8]


async def test_an_aperture_that_does_not_come_exposes_nothing(tmp_path: Path):
    drive = Drive(stuck=True)
    async with serving(tmp_path, drive) as (_, client), client.lease():
        await client.prepare(make_plan("a1", semiangle=42.8))
        with pytest.raises(SettingsError, match=r"semiangle was set to 42\.8 and is 21\.4.*nothing was exposed"):
            await client.acquire("a1", Frames())
        assert drive.exposed == {}
        with pytest.raises(SafeStateError, match="semiangle"):
            await client.prepare(make_plan("a2"))


async def test_an_aborted_scan_costs_what_the_current_of_its_aperture_gave(tmp_path: Path):
    drive = Drive()
    drive.held_at = 3
    async with serving(tmp_path, drive) as (_, client), client.lease():
        await client.prepare(make_plan("a1", semiangle=42.8))

        def stop(received: int, expected: int) -> None:
            drive.blank()

        outcome = await client.acquire("a1", Frames(), stop)
        assert outcome.state == "failed"
        seconds = outcome.electrons / (4 * ELECTRONS_PER_SECOND)
        assert 0 < seconds < 5
        assert outcome.electrons > OVERHEAD


async def test_a_semi_angle_that_is_not_offered_is_refused_and_moves_nothing(tmp_path: Path):
    drive = Drive()
    async with serving(tmp_path, drive) as (_, client), client.lease():
        with pytest.raises(
            OutOfLimitsError, match=r"semiangle of 30 mrad is not possible here; legal: 10\.7, 21\.4, 42\.8"
        ):
            await client.prepare(make_plan("a1", semiangle=30.0))
        assert drive.put_in == []


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"tolerances": {}}, "tolerances do not say by how much semiangle may differ"),
        ({"tolerances": {"semiangle": 6.0}}, r"less than 5\.35 mrad is legal"),
        ({"slews": {"semiangle": Slew(step=1.0)}}, "nothing between two apertures"),
    ],
)
async def test_apertures_that_nobody_can_confirm_are_not_served(tmp_path: Path, changes: dict, sentence: str):
    drive = Drive()
    drive.changes = changes
    with pytest.raises(BadInputError, match=sentence):
        async with serving(tmp_path, drive):
            pass
