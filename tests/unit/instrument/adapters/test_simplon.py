"""A DECTRIS detector behind its REST interface and its stream: order of commands, frames, what goes wrong."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from examples import plan
from fake_parts import FakeColumn, FakeScan
from fake_simplon import SHAPE, FakeSimplon, image_of

from instrument import AcquisitionPlan, stream
from instrument.adapters.composed import ComposedMicroscope
from instrument.adapters.simplon import SimplonCamera, SimplonError
from instrument.errors import BadInputError, StreamError


@pytest.fixture
async def detector() -> AsyncIterator[FakeSimplon]:
    with FakeSimplon() as fake:
        yield fake


def camera(fake: FakeSimplon) -> SimplonCamera:
    if fake.legacy:
        return SimplonCamera(fake.rest, fake.frames, angular_pixel=2.0, legacy=True, api="1.6.0")
    return SimplonCamera(fake.rest, fake.frames, angular_pixel=2.0)


@pytest.mark.parametrize("legacy", [False, True])
async def test_a_scan_of_a_series_arrives_bit_for_bit_whatever_is_left_of_the_last(detector: FakeSimplon, legacy: bool):
    detector.legacy = legacy

    class Scan(FakeScan):
        async def start(self, plan: AcquisitionPlan, dwell: float) -> None:
            detector.send_image(3, series=detector.series - 1)
            for number in range(plan.n_positions):
                detector.send_image(number)

        def stop(self) -> None: ...

    async with camera(detector) as dectris:
        assert (dectris.detector.shape, dectris.detector.dtype, dectris.fastest) == (SHAPE, "uint16", 1e-4)
        microscope = ComposedMicroscope("arina", FakeColumn(), Scan(None), dectris)
        wanted = plan(size=4.0, dose=2e5)
        for _ in range(2):
            patterns = {frame.index: frame.pattern async for frame in microscope.acquire(wanted)}
            assert len(patterns) == 16
            assert all((pattern == image_of(index)).all() for index, pattern in patterns.items())
            assert microscope.gaps is not None
            assert microscope.gaps.foreign == 1
    armed = detector.asked.index("command/arm")
    assert "config/ntrigger=16" in detector.asked[:armed]
    assert detector.asked[armed : armed + 2] == ["command/arm", "command/disarm"]
    assert ("config/format=cbor" in detector.asked) is not legacy


async def test_a_series_that_ends_early_is_aborted_and_then_disarmed(detector: FakeSimplon):
    async with camera(detector) as dectris:
        await dectris.arm(5, 1e-3)
        detector.send_image(0)
        frame = await dectris.frame(5.0)
        assert frame is not None
        assert (frame.series, frame.number) == (7, 0)
        with pytest.raises(TimeoutError):
            await dectris.frame(0.01)
    assert detector.asked[-2:] == ["command/abort", "command/disarm"]


async def test_the_start_message_tells_the_series_where_arm_does_not(detector: FakeSimplon):
    detector.honest = False
    old = stream.SeriesStart(3, "u", "uint16", *SHAPE, number_of_images=9)
    detector.stray = [stream.encode_start(old), stream.encode_end(3, "u")]
    async with camera(detector) as dectris:
        assert [await dectris.arm(5, 1e-3) for _ in range(2)] == [(7, 0), (8, 0)]


async def test_what_the_detector_refuses_is_said_with_address_and_value(detector: FakeSimplon):
    detector.refuses.add("config/count_time")
    async with camera(detector) as dectris:
        with pytest.raises(SimplonError, match=r"PUT http://.*/config/count_time 0.5: refused with 400"):
            await dectris.arm(5, 0.5)


async def test_a_detector_of_32_bit_is_refused_before_anything_is_armed(detector: FakeSimplon):
    detector.config["bit_depth_image"] = 32
    with pytest.raises(BadInputError, match="bit_depth_image is 32; legal: 8 or 16"):
        async with camera(detector):
            pass
    assert "command/arm" not in detector.asked


async def test_a_detector_that_is_off_is_named():
    with pytest.raises(SimplonError, match=r"no answer .* is the detector on"):
        async with SimplonCamera("http://127.0.0.1:9", "tcp://127.0.0.1:9", angular_pixel=1.0):
            pass


async def test_what_is_no_stream_message_ends_the_acquisition(detector: FakeSimplon):
    detector.stray = [b"not CBOR at all"]
    async with camera(detector) as dectris:
        with pytest.raises(StreamError):
            await dectris.arm(1, 1e-3)
