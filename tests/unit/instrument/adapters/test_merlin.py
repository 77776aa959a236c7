"""A Merlin camera: frames bit for bit in both conventions of length, aborts, error codes, and what else may come."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from examples import plan
from fake_merlin import SHAPE, FakeMerlin, image_of
from fake_parts import FakeColumn, FakeScan

from instrument import AcquisitionPlan
from instrument.adapters import merlin
from instrument.adapters.composed import ComposedMicroscope
from instrument.adapters.merlin import MerlinCamera, MerlinError, Trigger
from instrument.errors import BadInputError, StreamError


@pytest.fixture
async def detector() -> AsyncIterator[FakeMerlin]:
    async with FakeMerlin() as fake:
        yield fake


def camera(fake: FakeMerlin, trigger: Trigger = "rising", depth: int = 12) -> MerlinCamera:
    return MerlinCamera(
        "127.0.0.1",
        fake.control,
        fake.data,
        shape=SHAPE,
        angular_pixel=2.0,
        frame_rate=1e4,
        trigger=trigger,
        depth=depth,
    )


class Scan(FakeScan):
    """Triggers the fake camera at every position."""

    def __init__(self, fake: FakeMerlin) -> None:
        self._fake = fake

    async def start(self, plan: AcquisitionPlan, dwell: float) -> None:
        await self._fake.send(*(self._fake.frame(1 + index) for index in range(plan.n_positions)))

    def stop(self) -> None: ...


@pytest.mark.parametrize("counts_comma", [(True, True), (False, True), (True, False), (False, False)])
async def test_scans_arrive_bit_for_bit_whether_lengths_count_the_comma_or_not(counts_comma: tuple[bool, bool]):
    async with FakeMerlin(counts_comma=counts_comma) as fake, camera(fake) as driven:
        microscope = ComposedMicroscope("merlin", FakeColumn(), Scan(fake), driven)
        for _ in range(2):
            patterns = {frame.index: frame.pattern async for frame in microscope.acquire(plan(size=4.0, dose=2e5))}
            assert len(patterns) == 16
            assert all((pattern == image_of(1 + index)).all() for index, pattern in patterns.items())
            assert str(microscope.gaps) == ""
        assert fake.settings["CONTINUOUSRW"] == "1"
        assert (fake.settings["TRIGGERSTART"], fake.settings["NUMFRAMESPERTRIGGER"]) == ("1", "1")
        assert fake.settings["NUMFRAMESTOACQUIRE"] == "16"
        assert float(fake.settings["ACQUISITIONTIME"]) == pytest.approx(1e3 * 2e5 / (20e-12 / 1.602176634e-19))
        assert await driven.get("COUNTERDEPTH") == "12"
        assert "CMD,STOPACQUISITION" not in fake.asked


async def test_an_abort_stops_the_camera_and_what_is_left_of_it_belongs_to_no_later_scan(detector: FakeMerlin):
    async with camera(detector) as driven:
        await driven.arm(5, 1e-3)
        await detector.send(detector.frame(1), detector.frame(2))
        frame = await driven.frame(5.0)
        assert frame is not None
        assert (frame.series, frame.number) == (1, 1)
        await driven.disarm()
        assert detector.asked[-1] == "CMD,STOPACQUISITION"
        detector.stale = [detector.frame(2)[500:], b"MPX,00", detector.frame(3)]
        microscope = ComposedMicroscope("merlin", FakeColumn(), Scan(detector), driven)
        assert len([each async for each in microscope.acquire(plan(size=4.0, dose=2e5))]) == 16
        assert microscope.gaps is not None
        assert (microscope.gaps.foreign, microscope.gaps.missing) == (1, ())


async def test_a_series_that_somebody_else_starts_meanwhile_is_not_taken_for_ours(detector: FakeMerlin):
    async with camera(detector, "soft") as driven:
        series, first = await driven.arm(2, 1e-3)
        await driven.trigger()
        await detector.send(detector.frame(1), detector.message(b"HDR,other"), detector.frame(2))
        found = [await driven.frame(5.0) for _ in range(2)]
        assert [each and each.series == series for each in found] == [True, False]
        assert (first, detector.settings["NUMFRAMESPERTRIGGER"], detector.asked[-1]) == (1, "2", "CMD,SOFTTRIGGER")


@pytest.mark.parametrize(
    ("code", "told"), [(1, "it is busy"), (2, "it knows no such command"), (3, "the value is out of range"), (7, "'7'")]
)
async def test_what_the_camera_refuses_is_said_with_command_and_reason(detector: FakeMerlin, code: int, told: str):
    detector.codes["ACQUISITIONTIME"] = code
    async with camera(detector) as driven:
        with pytest.raises(MerlinError, match=rf"SET,ACQUISITIONTIME,500: refused, .*{told}"):
            await driven.arm(5, 0.5)
    assert "CMD,STARTACQUISITION" not in detector.asked


async def test_a_camera_that_begins_nothing_is_not_waited_for_for_ever(
    detector: FakeMerlin, monkeypatch: pytest.MonkeyPatch
):
    detector.lost_headers = 2
    monkeypatch.setattr(merlin, "BEGINNING", (0.1, 0.1))
    async with camera(detector) as driven:
        with pytest.raises(MerlinError, match=r"no acquisition header within 0\.1 s"):
            await driven.arm(5, 1e-3)
    assert detector.asked[-1] == "CMD,STOPACQUISITION"


async def test_a_header_sent_before_the_receiver_was_taken_on_costs_a_second_start(
    detector: FakeMerlin, monkeypatch: pytest.MonkeyPatch
):
    detector.lost_headers = 1
    monkeypatch.setattr(merlin, "BEGINNING", (0.1, 5.0))
    async with camera(detector) as driven:
        assert await driven.arm(1, 1e-3) == (1, 1)
        await detector.send(detector.frame(1))
        frame = await driven.frame(5.0)
        assert frame is not None
        assert (frame.series, frame.number) == (1, 1)
    assert detector.asked.count("CMD,STARTACQUISITION") == 2


async def test_frames_of_another_depth_and_what_is_no_frame_end_the_acquisition(detector: FakeMerlin):
    async with camera(detector, depth=6) as driven:
        await driven.arm(5, 1e-3)
        await detector.send(detector.frame(1))
        with pytest.raises(StreamError, match=r"uint16, where .* uint8 was expected"):
            await driven.frame(5.0)
        await detector.send(b"HTTP/1.1 400 Bad")
        with pytest.raises(StreamError, match="begins with b'HTTP"):
            await driven.frame(5.0)


async def test_a_connection_that_breaks_ends_the_series_and_silence_times_out(detector: FakeMerlin):
    async with camera(detector) as driven:
        await driven.arm(5, 1e-3)
        with pytest.raises(TimeoutError):
            await driven.frame(0.01)
        await detector.hang_up()
        assert await driven.frame(5.0) is None


async def test_a_camera_that_is_off_and_an_impossible_depth_are_named():
    with pytest.raises(MerlinError, match=r"127\.0\.0\.1:9, SET,CONTINUOUSRW,1: no answer .* does its software run"):
        async with MerlinCamera("127.0.0.1", 9, 9, angular_pixel=1.0, frame_rate=1e3):
            pass
    with pytest.raises(BadInputError, match="a counter depth of 24 bits; legal: 1, 6, 12"):
        MerlinCamera("127.0.0.1", angular_pixel=1.0, frame_rate=1e3, depth=24)
