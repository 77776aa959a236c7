"""What is set is read back before the beam is on, tried once more, and put back in the end."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
from served_stripes import Frames, make_plan, serving, until
from striped_microscope import StripedMicroscope

from instrument import Description, SafeStateError, SettingsError


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
