"""A microscope made of a column, a scan engine and a camera: frames by number, gaps masked, and the promises kept."""

from __future__ import annotations

import importlib
import pkgutil
from pathlib import Path

import numpy as np
import pytest
from examples import plan
from fake_parts import FakeCamera, FakeColumn, FakeScan, Frames, counts_of

import instrument.adapters
from instrument import InstrumentClient, InstrumentServer, StreamError
from instrument.adapters import composed
from instrument.adapters.composed import ComposedMicroscope
from instrument.adapters.joining import GapsError
from instrument.adapters.parts import CameraFrame, NotConfirmedError, confirm
from instrument.conformance import try_promises

DOSE = 2e4
"""e/Å², of which the dwell time is longer than the camera's shortest."""


def compose(fault: object = None) -> ComposedMicroscope:
    camera, column = FakeCamera(), FakeColumn()
    scan = FakeScan(camera, column=column) if fault is None else FakeScan(camera, fault, column)
    return ComposedMicroscope("composed", column, scan, camera)


async def scanned(microscope: ComposedMicroscope, size: float = 10.0) -> dict[int, np.ndarray]:
    return {frame.index: frame.pattern async for frame in microscope.acquire(plan(size=size, dose=DOSE))}


async def test_frames_that_arrive_in_disorder_are_joined_to_their_positions():
    microscope = compose(lambda frames: list(reversed(frames)))
    patterns = await scanned(microscope)
    assert len(patterns) == 100
    assert all((pattern == counts_of(index)).all() for index, pattern in patterns.items())


async def test_a_few_gaps_are_masked_and_accounted_for():
    def fault(frames: Frames) -> Frames:
        stale = CameraFrame(0, 5, counts_of(99))
        return [stale, *frames[:40], frames[3], *frames[42:]]

    microscope = compose(fault)
    patterns = await scanned(microscope)
    assert sorted(set(range(100)) - set(patterns)) == [40, 41]
    assert (patterns[4] == counts_of(4)).all()
    assert microscope.gaps is not None
    assert (microscope.gaps.missing, microscope.gaps.duplicate, microscope.gaps.foreign) == ((40, 41), 1, 1)
    assert microscope.lost_frames() == 2


async def test_more_gaps_than_are_good_fail_the_acquisition_with_the_beam_off():
    microscope = compose(lambda frames: frames[::2])
    with pytest.raises(GapsError, match="50 of 100 frames are missing"):
        await scanned(microscope)
    assert (await microscope.health()).blanked


async def test_a_camera_that_never_ends_its_series_is_not_waited_for_for_ever(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(composed, "PATIENCE", 0.1)
    microscope = compose(lambda frames: frames[:-1])
    microscope._scan.ends = False
    assert len(await scanned(microscope)) == 99


async def test_behind_a_server_gaps_reach_the_agent_as_gaps(tmp_path: Path):
    microscope = compose(lambda frames: [*frames[:7], *frames[8:]])
    received: set[int] = set()

    class Sink:
        def start(self, header: object) -> None: ...

        def frame(self, index: int, *rest: object) -> None:
            received.add(index)

    async with (
        InstrumentServer(microscope, state_dir=tmp_path) as server,
        InstrumentClient(server.control, timeout=5.0) as client,
    ):
        await client.open_campaign("c", 1e8)
        async with client.lease():
            await client.prepare(plan(dose=DOSE))
            with pytest.raises(StreamError, match=r"1 of 100 frames of a1 are missing \(indices 7"):
                await client.acquire("a1", Sink())
            outcome = await client.outcome("a1")
    assert outcome is not None
    assert (outcome.state, outcome.frames, outcome.reason) == ("done", 99, "the microscope delivered 99 of 100 frames")
    assert received == set(range(100)) - {7}


async def test_it_keeps_the_promises():
    found = await try_promises(compose(), dose=DOSE, beam=False)
    assert not [each for each in found if each.failure]


async def test_a_setting_that_is_not_read_back_is_an_error():
    written: list[float] = []

    async def write(value: float) -> None:
        written.append(value)

    async def read() -> float:
        return 0.9 * written[-1]

    await confirm(write, read, 50.0, what="defocus, Å", tolerance=6.0, limit=0.0)
    with pytest.raises(NotConfirmedError, match="defocus, Å: set to 100, read back as 90; within 6 is needed"):
        await confirm(write, read, 100.0, what="defocus, Å", tolerance=6.0, limit=0.0)
    assert written == [50.0, 100.0, 100.0]


def test_adapters_need_no_vendors_package_to_be_imported():
    for each in pkgutil.iter_modules(instrument.adapters.__path__):
        importlib.import_module(f"instrument.adapters.{each.name}")
