"""Adapters are tried against what `Microscope` promises: ours keep it, and a broken promise is named."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from striped_microscope import StripedMicroscope
from test_instrument_readme import adapter

from instrument import AcquisitionPlan, BlankedError, Frame, Health
from instrument.__main__ import main
from instrument.conformance import PROMISES, try_promises
from sim_instrument import Column, SimulatedMicroscope, SpecimenOptions

QUICK = 0.0005
"""s from frame to frame: not nothing, or a scan would be over before it is blanked."""


async def broken(microscope: Any) -> dict[str, str]:
    """The promises that were not kept, with what happened instead."""
    found = await try_promises(microscope)
    assert [each.promise for each in found] == [promise for promise, _ in PROMISES]
    return {each.promise: each.failure for each in found if each.failure}


async def test_the_adapters_of_the_tests_and_of_the_readme_keep_the_promises():
    assert await broken(StripedMicroscope(frame_interval=QUICK)) == {}
    assert await broken(adapter()) == {}


async def test_the_simulated_microscope_keeps_the_promises(tmp_path: Path):
    microscope = SimulatedMicroscope(
        SpecimenOptions(material="vacuum"), Column(detector_pixels=64, angular_pixel=2.192), beam_file=tmp_path / "beam"
    )
    try:
        assert await broken(microscope) == {}
        assert (tmp_path / "beam").read_text() == "off\n"
    finally:
        microscope.close()


async def test_a_beam_that_stays_on_while_a_frame_is_held_is_named():
    class KeepsOn(StripedMicroscope):
        def _set_beam(self, on: bool) -> None:
            pass

    (failure,) = (await broken(KeepsOn(frame_interval=QUICK))).items()
    assert failure == (
        "the beam is off while a frame is being held",
        "health says that the beam is on although a frame has been held for more than 0.5 s",
    )


async def test_an_adapter_may_give_a_scan_up_that_is_held():
    class GivesUp(StripedMicroscope):
        def _set_beam(self, on: bool) -> None:
            if not on:
                self.blank()

    assert await broken(GivesUp(frame_interval=QUICK)) == {}


async def test_what_else_may_be_broken_is_named():
    class Deaf(StripedMicroscope):
        async def acquire(self, plan: AcquisitionPlan):
            try:
                async for frame in super().acquire(plan):
                    yield frame
            except BlankedError:
                return

    assert "`blank` did not end the scan" in (await broken(Deaf(frame_interval=QUICK)))["blank ends a running scan"]

    class Slow(StripedMicroscope):
        def blank(self) -> None:
            time.sleep(0.05)
            super().blank()

    promise = "blank may be called from any thread, again and again, and takes milliseconds"
    assert "at most 10 ms" in (await broken(Slow(frame_interval=QUICK)))[promise]

    class Blocks(StripedMicroscope):
        async def acquire(self, plan: AcquisitionPlan):
            async for frame in super().acquire(plan):
                if frame.index == 7:
                    time.sleep(0.5)  # noqa: ASYNC251
                yield frame

    assert "stood still" in (await broken(Blocks()))["the event loop is left alone"]

    class Repeats(StripedMicroscope):
        async def acquire(self, plan: AcquisitionPlan):
            async for frame in super().acquire(plan):
                yield Frame(0, frame.pattern)

    promise = "every frame comes once, as described, and the beam is off at the end"
    assert "1 different" in (await broken(Repeats()))[promise]

    class StaysOn(StripedMicroscope):
        async def health(self) -> Health:
            return Health(blanked=False)

    assert "closing the iterator turns the beam off" in await broken(StaysOn())


def test_the_command_says_ok_or_failed_and_its_exit_code_means_it(capsys: pytest.CaptureFixture[str]):
    assert main(["conformance", "striped_microscope:make_quick"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(PROMISES)
    assert all(line.startswith("ok ") for line in lines)
    assert main(["conformance", "no_such_module:make"]) == 2
