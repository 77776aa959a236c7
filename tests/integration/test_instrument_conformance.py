"""Adapters are tried against what `Microscope` promises: ours keep it, and a broken promise is named."""

from __future__ import annotations

import time
from pathlib import Path

import h5py
import numpy as np
import pytest
from striped_microscope import HonestMicroscope

from instrument import AcquisitionPlan, BlankedError, Condition, Description, Frame, Health, Microscope, PlanCheck
from instrument.__main__ import main
from instrument.conformance import PROMISES, try_promises
from instrument.errors import BadInputError
from sim_instrument import Column, SimulatedMicroscope, SpecimenOptions
from sim_instrument.replay import ReplayMicroscope


async def broken(microscope: Microscope, only: str = "") -> dict[str, str]:
    """The promises that were not kept, with what happened instead."""
    found = await try_promises(microscope, only=only)
    assert [each.promise for each in found] == [each.name for each in PROMISES if only in each.name]
    return {each.promise: each.failure for each in found if each.failure}


async def complaint(microscope: Microscope, promise: str) -> str:
    """What happened instead of one promise."""
    (failure,) = (await broken(microscope, promise)).values()
    return failure


def recording(folder: Path) -> Path:
    """Poisson counts of 12 × 12 positions."""
    with h5py.File(folder / "recording.h5", "w") as file:
        file["data"] = np.random.default_rng(0).poisson(30, (24, 24, 12, 12)).astype(np.uint16)
        file.attrs.update(
            {
                "accelerating_voltage_V": 300e3,
                "semiangle_mrad": 1.0,
                "angular_pixel_mrad": 0.3,
                "scan_step_A": 20.0,
                "nominal_defocus_A": 1e4,
                "counts_per_electron": "unknown",
            }
        )
    return folder / "recording.h5"


def test_there_is_a_promise_for_everything_an_owner_would_ask():
    names = [each.name for each in PROMISES]
    assert len(set(names)) == len(names) >= 40


async def test_an_honest_microscope_keeps_the_promises():
    assert await broken(HonestMicroscope()) == {}


async def test_a_recording_keeps_the_promises(tmp_path: Path):
    microscope = ReplayMicroscope(recording(tmp_path), tmp_path / "state")
    try:
        assert await broken(microscope) == {}
    finally:
        microscope.close()


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
    class KeepsOn(HonestMicroscope):
        def _set_beam(self, on: bool) -> None:
            pass

    said = await complaint(KeepsOn(), "the beam is off while a frame is being held")
    assert said == "health says that the beam is on although a frame has been held for more than 0.5 s"


async def test_an_adapter_may_give_a_scan_up_that_is_held():
    class GivesUp(HonestMicroscope):
        def _set_beam(self, on: bool) -> None:
            if not on:
                self.blank()

    assert await broken(GivesUp(), "is being held") == {}


async def test_a_scan_that_goes_on_after_a_blank_is_named():
    class Deaf(HonestMicroscope):
        async def acquire(self, plan: AcquisitionPlan):
            try:
                async for frame in super().acquire(plan):
                    yield frame
            except BlankedError:
                return

    assert "`blank` did not end the scan" in await complaint(Deaf(), "blank ends a running scan")


async def test_what_is_too_slow_is_named():
    class Slow(HonestMicroscope):
        def blank(self) -> None:
            time.sleep(0.05)
            super().blank()

    assert "at most 10 ms" in await complaint(Slow(), "takes milliseconds")

    class Blocks(HonestMicroscope):
        async def acquire(self, plan: AcquisitionPlan):
            async for frame in super().acquire(plan):
                if frame.index == 7:
                    time.sleep(0.5)  # noqa: ASYNC251
                yield frame

    assert "stood still" in await complaint(Blocks(), "the event loop is left alone")


async def test_frames_that_are_not_what_they_should_be_are_named():
    class Repeats(HonestMicroscope):
        async def acquire(self, plan: AcquisitionPlan):
            async for frame in super().acquire(plan):
                yield Frame(0, frame.pattern)

    assert "1 different" in await complaint(Repeats(), "every frame comes once")

    class WritesOver(HonestMicroscope):
        async def acquire(self, plan: AcquisitionPlan):
            buffer = np.zeros(self.shape, np.uint16)
            async for frame in super().acquire(plan):
                buffer[:] = frame.pattern
                yield Frame(frame.index, buffer)

    assert "yield a copy" in await complaint(WritesOver(), "stays as it was")


async def test_numbers_that_contradict_each_other_are_named():
    class TooFast(HonestMicroscope):
        async def check(self, plan: AcquisitionPlan) -> PlanCheck:
            return (await super().check(plan)).model_copy(update={"dwell_time": 1e-6})

    assert "the plan asks for" in await complaint(TooFast(), "dwell time and beam current")

    class CountsSingly(HonestMicroscope):
        def __init__(self) -> None:
            super().__init__()
            self.counts_per_electron = 1.0

    assert "but the plan implies 4" in await complaint(CountsSingly(), "not more than the plan implies")

    class Gatekeeper(HonestMicroscope):
        async def describe(self) -> Description:
            return (await super().describe()).model_copy(update={"electrons_per_pattern_values": (0.5, 4.0)})

    assert "[0.5]" in await complaint(Gatekeeper(), "electrons per pattern have limits")


async def test_a_column_that_is_not_well_or_does_not_blank_is_named():
    class StaysOn(HonestMicroscope):
        async def health(self) -> Health:
            return Health(blanked=False)

    assert "closing the iterator turns the beam off" in await broken(StaysOn(), "turns the beam off")

    class Leaks(HonestMicroscope):
        async def health(self) -> Health:
            return Health(blanked=True, conditions=(Condition(name="vacuum", value=3.0, unit="Pa", high=1.0),))

    assert "vacuum: 3 Pa" in await complaint(Leaks(), "the column is well")


async def test_with_the_beam_off_nothing_is_exposed():
    microscope = HonestMicroscope()
    found = await try_promises(microscope, beam=False)
    assert microscope.exposed == {}
    assert not any(each.failure for each in found)
    assert any(each.skipped == "the beam stays off" for each in found)


async def test_scans_have_the_dose_that_was_stated():
    with pytest.raises(BadInputError, match=r"a dose of 1e\+09 .* is not possible here; legal: 1 … 1e\+06"):
        await try_promises(HonestMicroscope(), dose=1e9)

    doses: set[float] = set()

    class Notes(HonestMicroscope):
        async def acquire(self, plan: AcquisitionPlan):
            doses.add(plan.dose)
            async for frame in super().acquire(plan):
                yield frame

    await try_promises(Notes(), dose=7.0, only="every frame comes once")
    assert doses == {7.0}


def test_the_command_says_ok_or_failed_and_its_exit_code_means_it(capsys: pytest.CaptureFixture[str]):
    command = ["check", "striped_microscope:make_honest"]
    assert main([*command, "--no-beam"]) == 0
    *lines, last = capsys.readouterr().out.splitlines()
    assert len(lines) == len(PROMISES)
    assert all(line.startswith(("ok ", "- ")) for line in lines)
    assert last.endswith("0 broken, 30 not tried; nothing was exposed")
    assert main(["check", "striped_microscope:make_quick", "--only", "dwell time and beam current"]) == 1
    assert capsys.readouterr().out.startswith("FAILED  dwell time")
    assert main([*command, "--only", "no such thing"]) == 2
    assert main(["check", "no_such_module:make"]) == 2
