"""Server and client over real sockets: the beam goes off where nobody receives, and its time is what is booked."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zmq
from served_stripes import ELECTRONS_PER_SECOND, PER_PATTERN, Frames, make_plan, serving, until
from striped_microscope import StripedMicroscope, pattern_of

from instrument import AcquisitionPlan, Frame, InstrumentClient, StreamError, stream
from instrument.beam import HOLD_LIMIT, BeamTime, Hold

AGENT = """
import asyncio, sys
sys.path += sys.argv[2:]
from served_stripes import Frames, make_plan
from instrument import InstrumentClient
async def main():
    async with InstrumentClient(sys.argv[1], holder="doomed") as client:
        async with client.lease(ttl=10.0):
            await client.prepare(make_plan(size=30))
            await client.acquire("a1", Frames())
asyncio.run(main())
"""


@contextmanager
def agent_process(endpoint: str) -> Iterator[subprocess.Popen[bytes]]:
    here = Path(__file__).parent
    with subprocess.Popen([sys.executable, "-c", AGENT, endpoint, str(here), str(here.parent)]) as agent:
        try:
            yield agent
        finally:
            agent.kill()


@pytest.mark.skipif(sys.platform == "win32", reason="signals of Unix")
@pytest.mark.parametrize(("number", "within"), [(signal.SIGKILL, 2.0), (signal.SIGSTOP, 8.0)])
async def test_the_beam_goes_off_when_the_agent_is_killed_although_its_lease_is_long(
    tmp_path: Path, number: signal.Signals, within: float
):
    microscope = StripedMicroscope(frame_interval=0.02)
    async with serving(tmp_path, microscope) as (server, operator):
        with agent_process(server.control) as agent:
            await until(lambda: microscope.exposed.get("a1", 0) > 5, 60.0)
            began = time.monotonic() - 5 * 0.02
            os.kill(agent.pid, number)
            killed = time.monotonic()
            await until(lambda: not microscope.beam_on, 10.0)
            went_off = time.monotonic()
            assert went_off - killed < within
        outcome = await operator.outcome("a1", wait=5)
        assert (outcome.state, outcome.reason) == ("aborted", "the receiver of the frames has gone away")
        assert (killed - began) * 0.5 < outcome.electrons / ELECTRONS_PER_SECOND < went_off - began + 1.0
        assert (await operator.status()).electrons_spent == outcome.electrons


async def test_a_receiver_that_comes_back_at_once_was_gone_all_the_same(tmp_path: Path):
    microscope = StripedMicroscope(frame_interval=0.02)
    async with serving(tmp_path, microscope) as (server, client), client.lease():
        await client.prepare(make_plan(size=30))
        with zmq.Context() as context:
            first = context.socket(zmq.PULL)
            first.connect(server.data)
            await client._request("start", id="a1")
            await until(lambda: microscope.exposed.get("a1", 0) > 5)
            with context.socket(zmq.PULL) as second:
                first.close(linger=0)
                second.connect(server.data)
                await until(lambda: not microscope.beam_on)
                assert (await client.outcome("a1", wait=5)).reason == "the receiver of the frames has gone away"


async def test_an_end_that_comes_early_costs_a_moment_of_beam(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    sent = 0

    def end_in_the_middle(series: int, name: str, *rest: Any) -> bytes:
        nonlocal sent
        sent += 1
        return stream.encode_end(series, name) if sent == 5 else stream.encode_image(series, name, *rest)

    microscope = StripedMicroscope(frame_interval=0.02)
    async with serving(tmp_path, microscope) as (_, client), client.lease():
        await client.prepare(make_plan(size=30))
        monkeypatch.setattr("instrument.exposure.stream", _Replaced(stream, encode_image=end_in_the_middle))
        began = time.monotonic()
        outcome = await client.acquire("a1", Frames())
        assert outcome.state == "aborted"
        assert not microscope.beam_on
        assert time.monotonic() - began < 5.0


class _Replaced:
    """A module of which something is different."""

    def __init__(self, module: Any, **changes: Any) -> None:
        self.__dict__ |= vars(module) | changes


async def test_a_message_that_is_too_large_costs_a_moment_of_beam(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("instrument.stream.MAX_MESSAGE_BYTES", 4096)
    noise = pattern_of(0, (128, 128)) ^ np.random.default_rng(0).integers(0, 65535, (128, 128), "u2")

    class Noisy(StripedMicroscope):
        async def acquire(self, plan: AcquisitionPlan):
            async for frame in super().acquire(plan):
                yield Frame(frame.index, noise)

    microscope = Noisy(shape=(128, 128), frame_interval=0.02)
    async with serving(tmp_path, microscope) as (_, client), client.lease():
        await client.prepare(make_plan(size=30))
        began = time.monotonic()
        outcome = await client.acquire("a1", Frames())
        assert outcome.state == "aborted"
        assert not microscope.beam_on
        assert time.monotonic() - began < 15.0


async def test_a_microscope_that_delivers_nothing_is_blanked_after_a_frame_and_a_margin(tmp_path: Path):
    microscope = StripedMicroscope()
    microscope.held_at = 5
    async with serving(tmp_path, microscope, stall_timeout=0.3) as (_, client), client.lease():
        await client.prepare(make_plan())
        began = time.monotonic()
        outcome = await client.acquire("a1", Frames())
        assert outcome.state == "aborted"
        assert "no frame was taken or delivered for 0.3 s" in outcome.reason
        assert time.monotonic() - began < 5.0
        assert 0.2 < outcome.electrons / ELECTRONS_PER_SECOND < 5.0


async def test_a_scan_without_progress_is_blanked_while_the_event_loop_is_stuck(tmp_path: Path):
    microscope = StripedMicroscope()
    microscope.held_at = 5
    async with serving(tmp_path, microscope, stall_timeout=0.5) as (_, client), client.lease(ttl=60.0):
        await client.prepare(make_plan())
        async with asyncio.TaskGroup() as tasks:
            running = tasks.create_task(client.acquire("a1", Frames()))
            await until(lambda: microscope.exposed.get("a1") == 5)
            assert microscope.beam_on
            stuck = time.monotonic()
            while microscope.beam_on and time.monotonic() < stuck + 5.0:
                time.sleep(0.01)  # noqa: ASYNC251 - this is the stuck loop
            assert not microscope.beam_on
        assert running.result().state == "aborted"


async def test_more_electrons_than_were_reserved_are_booked_where_the_beam_was_on_for_longer(tmp_path: Path):
    microscope = StripedMicroscope()
    microscope.held_at = 5
    async with serving(tmp_path, microscope, budget=1e3, stall_timeout=1.0) as (_, client), client.lease():
        await client.prepare(make_plan(size=2.0))
        microscope.held_at = 2
        outcome = await client.acquire("a1", Frames())
        assert outcome.electrons > 4 * PER_PATTERN + 1000
        assert (await client.open_campaign("c", 1e3)).left == 0.0
        (line,) = await client.exposures()
        assert line.dose > 5 * PER_PATTERN


async def test_a_recording_without_a_current_is_charged_by_frames(tmp_path: Path):
    class Recorded(StripedMicroscope):
        async def describe(self):
            return (await super().describe()).model_copy(update={"beam_current": None})

    microscope = Recorded()
    microscope.held_at = 5
    async with serving(tmp_path, microscope, stall_timeout=0.3) as (_, client), client.lease():
        await client.prepare(make_plan())
        assert (await client.acquire("a1", Frames())).electrons == 10.0 + 6 * PER_PATTERN


async def test_a_microscope_that_counts_its_own_beam_time_is_believed(tmp_path: Path):
    class Counting(StripedMicroscope):
        def beam_time(self) -> float:
            return 0.5 * self.exposed.get("a1", 0)

    microscope = Counting()
    microscope.held_at = 3
    async with serving(tmp_path, microscope, stall_timeout=0.3) as (_, client), client.lease():
        await client.prepare(make_plan())
        outcome = await client.acquire("a1", Frames())
        assert outcome.electrons == pytest.approx(1.5 * ELECTRONS_PER_SECOND, abs=1)


async def test_frames_that_are_missing_at_an_early_end_are_told(tmp_path: Path):
    """A server that says `done` although its `end` came early."""
    async with serving(tmp_path, StripedMicroscope()) as (server, client), client.lease():
        assert isinstance(client, InstrumentClient)
        await client.prepare(make_plan())
        commands = server._commands
        send, dropped = commands._data.send, []

        async def drop_one(message: bytes, give_up: Any) -> bool:
            decoded = stream.decode(message)
            if isinstance(decoded, stream.SeriesImage) and decoded.image_id == 7:
                dropped.append(7)
                return True
            return await send(message, give_up)

        commands._data.send = drop_one
        with pytest.raises(StreamError, match="1 of 100 frames of a1 are missing"):
            await client.acquire("a1", Frames())
        assert dropped == [7]


def test_time_counts_from_the_first_frame_asked_for_until_the_beam_is_off():
    now = 0.0
    beam = BeamTime(lambda: now)
    beam.blanked()  # before: means nothing
    now = 5.0
    beam.asked()
    now = 6.0
    assert beam.seconds == 1.0
    beam.delivered()
    now = 6.1
    beam.asked()
    now = 7.1
    beam.delivered()
    now = 100.0  # held for long: the microscope has blanked by itself
    assert beam.seconds == pytest.approx(2.1 + HOLD_LIMIT)
    beam.asked()
    now = 101.0
    beam.blanked()
    now = 200.0
    beam.asked()
    assert beam.seconds == pytest.approx(3.1 + HOLD_LIMIT)


async def test_a_held_frame_pauses_and_the_next_request_goes_on(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("instrument.beam.HOLD_LIMIT", 0.05)
    said: list[str] = []
    hold = Hold(lambda: said.append("off"), lambda: said.append("on"))
    with hold:
        await asyncio.sleep(0)
    assert said == []
    with hold:
        await asyncio.sleep(0.2)
        assert hold.paused
    assert said == ["off", "on"]
    try:
        with hold:
            await asyncio.sleep(0.2)
            raise GeneratorExit
    except GeneratorExit:
        pass
    assert said == ["off", "on", "off"]
    assert not hold.paused
