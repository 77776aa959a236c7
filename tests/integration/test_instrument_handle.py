"""Server and client over real sockets: the dead man's handle. Whatever happens to the agent, the beam goes off."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import zmq
from served_stripes import ELECTRONS_PER_SECOND, Frames, make_plan, serving, under_way, until, until_phase
from striped_microscope import StripedMicroscope, pattern_of

from instrument import (
    AcquisitionPlan,
    ConflictError,
    Frame,
    InstrumentClient,
    InstrumentServer,
    SafeStateError,
    StaleLeaseError,
    wire,
)


async def test_a_lease_that_is_not_renewed_blanks_and_latches(tmp_path: Path):
    microscope = StripedMicroscope()
    microscope.held_at = 5
    async with serving(tmp_path, microscope) as (server, operator):
        async with _prepare_and_vanish(server, microscope):
            seen_on = time.monotonic()
            await until_phase(operator, "safe")
            seen_off = time.monotonic()
        assert not microscope.beam_on
        outcome = await operator.outcome("a1", wait=5)
        assert outcome.state == "aborted"
        assert "lapsed" in outcome.reason
        # The sixth frame took until the beam was blanked.
        assert 0.5 < outcome.electrons / ELECTRONS_PER_SECOND < seen_off - seen_on + 5.0
        async with operator.lease():
            with pytest.raises(SafeStateError, match="operator has to release it"):
                await operator.prepare(make_plan("a2"))
        assert (await operator.resume("Ada", "the agent was killed")).phase == "idle"
        microscope.held_at = None
        async with operator.lease():
            await operator.prepare(make_plan("a2"))
            assert (await operator.acquire("a2", Frames())).state == "done"
        assert [(e.kind, e.operator) for e in await operator.events()] == [("safe", ""), ("resume", "Ada")]


@asynccontextmanager
async def _prepare_and_vanish(server: InstrumentServer, microscope: StripedMicroscope) -> AsyncIterator[None]:
    """An agent that starts an acquisition and is never heard of again; its receiver stays connected."""
    async with InstrumentClient(server.control, holder="vanishing", timeout=5.0) as agent:
        lease = await agent._request("lease.acquire", holder="vanishing", ttl=1.0)
        agent._lease = wire.LeaseToken(holder="vanishing", fence=lease["fence"])
        await agent.prepare(make_plan())
        with zmq.Context() as context, context.socket(zmq.PULL) as receiver:
            receiver.connect(server.data)
            await agent._request("start", id="a1")
            await until(lambda: microscope.exposed.get("a1") == 5)
            assert microscope.beam_on
            yield


async def test_the_beam_goes_off_while_the_event_loop_is_stuck(tmp_path: Path):
    microscope = StripedMicroscope()
    microscope.held_at = 5
    async with serving(tmp_path, microscope) as (server, operator), _prepare_and_vanish(server, microscope):
        blanks = microscope.blanks
        give_up = time.monotonic() + 5.0
        while microscope.blanks == blanks and time.monotonic() < give_up:
            time.sleep(0.01)  # noqa: ASYNC251 - this is the stuck loop
        assert microscope.blanks > blanks
        await until_phase(operator, "safe")


async def test_safe_outlives_the_server(tmp_path: Path):
    async with serving(tmp_path, StripedMicroscope()) as (_, client):
        await client.blank()
    async with serving(tmp_path, StripedMicroscope()) as (_, client):
        status = await client.status()
        assert (status.phase, status.reason) == ("safe", "blanked by hand")


async def test_the_client_keeps_its_lease_alive(tmp_path: Path):
    async with serving(tmp_path, StripedMicroscope(frame_interval=0.02)) as (_, client), client.lease(ttl=1.0):
        await client.prepare(make_plan())
        assert (await client.acquire("a1", Frames())).state == "done"
        assert (await client.status()).phase == "idle"


@pytest.mark.parametrize("forged", [False, True])
async def test_requests_of_others_do_not_keep_the_lease_from_being_renewed(tmp_path: Path, forged: bool):
    microscope = StripedMicroscope(frame_interval=0.02)
    async with serving(tmp_path, microscope) as (server, client), client.lease(ttl=0.8) as lease:
        await client.prepare(make_plan())
        token = wire.LeaseToken(holder=lease.holder, fence=lease.fence) if forged else None
        with zmq.Context() as context, context.socket(zmq.DEALER) as crowd:
            crowd.connect(server.control)
            async with asyncio.TaskGroup() as tasks:
                running = tasks.create_task(client.acquire("a1", Frames()))
                await until(lambda: microscope.exposed)
                for number in range(100):
                    waiting = wire.Request(id=str(number), op="outcome", args={"id": "a1", "wait": 30.0}, lease=token)
                    crowd.send_multipart(wire.encode(waiting))
                # Those that found no place were refused; the others wait for the end of the acquisition.
                await until(lambda: server._reception._pending["lease holder" if forged else "anyone"] == 64)
                with pytest.raises(ConflictError, match="64 requests are being handled"):
                    await client._control.request("health", limit=5, lease=token)
                if not forged:
                    assert (await client.health()).ok
            assert client._lease_lost is None
        assert (running.result().state, running.result().frames) == ("done", 100)


async def test_a_second_agent_is_kept_out_and_a_stale_one_refused(tmp_path: Path):
    microscope = StripedMicroscope()
    async with serving(tmp_path, microscope) as (server, old), old.lease(ttl=30.0) as first:
        async with InstrumentClient(server.control, holder="other", timeout=5.0) as other:
            with pytest.raises(ConflictError, match="ptychopilot holds the lease"):
                await other._request("lease.acquire", holder="other", ttl=1.0)
            with pytest.raises(StaleLeaseError, match="needs a lease"):
                await other.prepare(make_plan())
        # The same agent, killed and started again, takes over; what is left of the old one has a stale fence.
        async with InstrumentClient(server.control, timeout=5.0) as new, new.lease() as second:
            assert second.fence > first.fence
            for command in (old.prepare(make_plan()), old.acquire("a1", Frames()), old.cancel("a1")):
                with pytest.raises(StaleLeaseError):
                    await command
            await new.prepare(make_plan())
            assert (await new.acquire("a1", Frames())).state == "done"


async def test_a_lease_that_was_lost_is_felt_by_the_next_call(tmp_path: Path):
    async with (
        serving(tmp_path, StripedMicroscope()) as (server, client),
        client.lease(ttl=0.2),
        InstrumentClient(server.control, timeout=5.0) as successor,
        successor.lease(),
    ):
        await until(lambda: client._lease_lost is not None)
        with pytest.raises(StaleLeaseError):
            await client.describe()


async def test_blank_by_hand_ends_the_scan_and_latches(tmp_path: Path):
    async with under_way(tmp_path) as (microscope, _, client, running):
        await client.blank()
        assert not microscope.beam_on
        outcome = await running
        assert (outcome.state, outcome.reason) == ("aborted", "blanked by hand")
        assert (await client.status()).phase == "safe"


async def test_stop_by_hand_ends_the_scan_and_no_more(tmp_path: Path):
    frames = Frames()
    async with under_way(tmp_path, frames) as (_, _, client, running):
        await until(lambda: len(frames.patterns) == 5)
        await client.stop()
        assert (await running).state == "aborted"
        assert sorted(frames.patterns) == [0, 1, 2, 3, 4]
        assert (await client.status()).phase == "idle"


async def test_status_and_blank_are_answered_while_control_is_busy(tmp_path: Path):
    """The safe socket is used from a thread here, since the event loop, which is blocked, is also the client's."""
    microscope = StripedMicroscope()
    async with serving(tmp_path, microscope) as (server, _):
        with zmq.Context() as context, context.socket(zmq.DEALER) as safe:
            safe.connect(server.safe)
            waited = []
            for number in range(10):
                safe.send_multipart(wire.encode(wire.Request(id=str(number), op="status")))
                asked = time.monotonic()
                assert safe.poll(10_000)
                waited.append(time.monotonic() - asked)
                assert wire.decode_reply(safe.recv_multipart())[0].ok
            assert sorted(waited)[5] < 0.5  # 1 ms where nothing else computes; `make soak` has the tail
            safe.send_multipart(wire.encode(wire.Request(id="b", op="blank")))
            assert safe.poll(10_000)
            assert wire.decode_reply(safe.recv_multipart())[0].result["phase"] == "safe"


async def test_a_receiver_that_is_gone_does_not_hold_the_beam(tmp_path: Path):
    microscope = StripedMicroscope(shape=(256, 256))
    async with serving(tmp_path, microscope, stall_timeout=1.5) as (server, client):
        async with client.lease():
            await client.prepare(make_plan(size=40))
            with zmq.Context() as context, context.socket(zmq.PULL) as receiver:
                receiver.rcvhwm = 1
                receiver.connect(server.data)
                await client._request("start", id="a1")
                await until(lambda: microscope.exposed.get("a1", 0) > 10)
                outcome = await client.outcome("a1", wait=20)
        assert outcome.state == "aborted"
        # On a machine with much else to do the connection is given up first.
        assert "no frame was taken or delivered" in outcome.reason or "has gone away" in outcome.reason
        assert not microscope.beam_on


async def test_a_microscope_that_does_not_heed_a_stop_is_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    class Deaf(StripedMicroscope):
        async def acquire(self, plan: AcquisitionPlan):
            self.beam_on = True
            try:
                yield Frame(0, pattern_of(0, self.shape))
                await asyncio.Event().wait()
            finally:
                self.beam_on = False

    monkeypatch.setattr("instrument.commands.STOP_TIMEOUT", 0.2)
    microscope = Deaf()
    async with serving(tmp_path, microscope) as (_, client), client.lease():
        await client.prepare(make_plan())
        frames = Frames()
        async with asyncio.TaskGroup() as tasks:
            running = tasks.create_task(client.acquire("a1", frames))
            await until(lambda: frames.patterns)
            await client.stop()
        assert running.result().state == "aborted"
        assert not microscope.beam_on
        await client.prepare(make_plan("a2"))


async def test_a_beam_that_would_not_blank_is_blanked_again_and_again(tmp_path: Path):
    class Stubborn(StripedMicroscope):
        refusals = 0

        def blank(self) -> None:
            if self.beam_on and self.refusals < 5:
                self.refusals += 1
                raise RuntimeError("blanker does not answer")
            super().blank()

    microscope = Stubborn()
    microscope.held_at = 5
    async with serving(tmp_path, microscope) as (server, operator):
        async with _prepare_and_vanish(server, microscope):
            await until(lambda: not microscope.beam_on)
            assert microscope.refusals == 5
            await until_phase(operator, "safe")
        assert (await operator.outcome("a1", wait=5)).state == "aborted"
