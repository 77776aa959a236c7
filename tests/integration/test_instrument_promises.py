"""Server and client over real sockets: what the instrument promises, whatever the agent does."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import pytest
import zmq
from served_stripes import OVERHEAD, PER_PATTERN, Frames, make_plan, serving, until, until_phase
from striped_microscope import StripedMicroscope, pattern_of

from instrument import (
    AcquisitionPlan,
    BudgetError,
    ConflictError,
    Frame,
    InstrumentClient,
    InstrumentServer,
    NotReservedError,
    Rectangle,
    SafeStateError,
    StaleLeaseError,
    wire,
)
from instrument.data_socket import DataSocket


async def test_every_frame_arrives_with_its_own_counts(tmp_path: Path):
    microscope = StripedMicroscope(shape=(16, 24))
    async with serving(tmp_path, microscope) as (_, client), client.lease():
        reservation = await client.prepare(make_plan())
        assert reservation.check.n_positions == 100
        assert reservation.electrons_left == 1e6 - 100 * PER_PATTERN - OVERHEAD
        frames, progress = Frames(), []
        outcome = await client.acquire("a1", frames, lambda *numbers: progress.append(numbers))
        assert (outcome.state, outcome.frames, outcome.electrons) == ("done", 100, 100 * PER_PATTERN + OVERHEAD)
        assert sorted(frames.patterns) == list(range(100))
        assert all(np.array_equal(frames.patterns[i], pattern_of(i, (16, 24))) for i in range(100))
        header = frames.header
        assert (header.shape, header.number_of_images, header.incident_energy) == ((16, 24), 100, 80e3)
        assert header.user_data["acquisition"] == header.series_unique_id == "a1"
        assert np.argwhere(header.pixel_mask).tolist() == [[1, 2]]
        assert progress[-1] == (100, 100)
        assert not microscope.beam_on


async def test_explicit_positions_are_acquired(tmp_path: Path):
    plan = make_plan(positions=((21.0, 31.0), (22.5, 33.25), (29.0, 31.5)))
    async with serving(tmp_path, StripedMicroscope()) as (_, client), client.lease():
        await client.prepare(plan)
        frames = Frames()
        assert (await client.acquire("a1", frames)).frames == 3
        assert sorted(frames.patterns) == [0, 1, 2]
        assert (await client.exposures())[0].plan == plan


# 1. Reserve, then expose


async def test_nothing_is_exposed_without_a_reservation(tmp_path: Path):
    microscope = StripedMicroscope()
    async with serving(tmp_path, microscope) as (_, client), client.lease():
        with pytest.raises(NotReservedError, match="prepare it first"):
            await client.acquire("a1", Frames())
        assert microscope.exposed == {}


async def test_a_released_reservation_cannot_be_started(tmp_path: Path):
    microscope = StripedMicroscope()
    async with serving(tmp_path, microscope) as (_, client), client.lease():
        await client.prepare(make_plan())
        await client.cancel("a1")
        outcome = await client.acquire("a1", Frames())
        assert (outcome.state, outcome.electrons) == ("aborted", 0.0)
        assert microscope.exposed == {}
        assert (await client.status()).electrons_reserved == 0.0


async def test_a_check_reserves_nothing(tmp_path: Path):
    async with serving(tmp_path, StripedMicroscope()) as (_, client):
        assert (await client.check(make_plan())).electrons == 100 * PER_PATTERN + OVERHEAD
        assert await client.exposures() == []


async def test_an_abort_that_overtakes_the_start_prevents_it(tmp_path: Path):
    microscope = StripedMicroscope()
    async with serving(tmp_path, microscope) as (_, client), client.lease():
        await client.prepare(make_plan())
        await client.abort("a1")
        assert (await client.acquire("a1", Frames())).state == "aborted"
        assert microscope.exposed == {}


async def test_the_beam_stays_off_without_exactly_one_receiver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("instrument.commands.RECEIVER_TIMEOUT", 0.2)
    microscope = StripedMicroscope()
    async with serving(tmp_path, microscope) as (server, client), client.lease():
        await client.prepare(make_plan())
        with zmq.Context() as context, context.socket(zmq.PULL) as thief:
            monitor = thief.get_monitor_socket(zmq.EVENT_HANDSHAKE_SUCCEEDED)
            thief.connect(server.data)
            assert monitor.poll(2000)
            with pytest.raises(ConflictError, match="2 receivers are connected"):
                await client.acquire("a1", Frames())
            thief.disable_monitor()
        assert microscope.exposed == {}
        assert (await client.acquire("a1", Frames())).state == "done"


async def test_a_second_receiver_ends_the_scan_it_would_tear_holes_into(tmp_path: Path):
    microscope = StripedMicroscope()
    microscope.held_at = 5
    async with serving(tmp_path, microscope) as (server, client), client.lease():
        await client.prepare(make_plan())
        async with asyncio.TaskGroup() as tasks:
            running = tasks.create_task(client.acquire("a1", Frames()))
            await until(lambda: microscope.exposed.get("a1") == 5)
            with zmq.Context() as context, context.socket(zmq.PULL) as thief:
                thief.connect(server.data)
                await until(lambda: not microscope.beam_on)
        assert running.result().state == "aborted"
        assert "second receiver" in running.result().reason


@contextmanager
def silent_connections(endpoint: str, count: int) -> Iterator[None]:
    """TCP connections that never say anything."""
    host, port = endpoint.removeprefix("tcp://").split(":")
    with ExitStack() as stack:
        for _ in range(count):
            stack.enter_context(socket.create_connection((host, int(port))))
        yield


async def test_a_connection_that_says_nothing_does_not_abort_an_exposure(tmp_path: Path):
    microscope = StripedMicroscope(frame_interval=0.01)
    async with serving(tmp_path, microscope) as (server, client), client.lease():
        await client.prepare(make_plan())
        async with asyncio.TaskGroup() as tasks:
            running = tasks.create_task(client.acquire("a1", Frames()))
            await until(lambda: microscope.exposed.get("a1", 0) > 5)
            with silent_connections(server.data, 20):
                await until(running.done)
        assert running.result().state == "done"


async def test_a_connection_that_says_nothing_does_not_keep_an_exposure_from_starting(tmp_path: Path):
    async with serving(tmp_path, StripedMicroscope()) as (server, client), client.lease():
        await client.prepare(make_plan())
        with silent_connections(server.data, 20):
            frames = Frames()
            assert (await client.acquire("a1", frames)).state == "done"
        assert sorted(frames.patterns) == list(range(100))


async def test_what_is_no_receiver_is_not_counted(tmp_path: Path):
    with zmq.Context() as context, context.socket(zmq.PUSH) as push:
        data = DataSocket(push, 512)
        push.bind("tcp://127.0.0.1:*")
        endpoint = push.getsockopt_string(zmq.LAST_ENDPOINT)
        with context.socket(zmq.PULL) as receiver:
            receiver.connect(endpoint)
            await until(lambda: data.receivers() == 1)
            for talk in (b"", b"GET / HTTP/1.1\r\n\r\n", b"\xff" + bytes(8) + b"\x7f\x03"):
                with socket.create_connection(("127.0.0.1", int(endpoint.rpartition(":")[2]))) as other:
                    other.sendall(talk)
                    await asyncio.sleep(0.1)
                    assert data.receivers() == 1
                await asyncio.sleep(0.05)
                assert data.receivers() == 1
            with context.socket(zmq.SUB) as other:
                other.connect(endpoint)
                await asyncio.sleep(0.1)
                assert data.receivers() == 1
            with context.socket(zmq.PULL) as other:
                other.connect(endpoint)
                await until(lambda: data.receivers() == 2)
            await until(lambda: data.receivers() == 1)
        await until(lambda: data.receivers() == 0)
        data.close()


async def test_a_receiver_of_an_old_protocol_is_noticed(tmp_path: Path):
    """ZMTP 2 has no handshake that would be reported, and takes frames all the same."""
    now = 0.0
    with zmq.Context() as context, context.socket(zmq.PUSH) as push:
        data = DataSocket(push, 512, clock=lambda: now)
        push.bind("tcp://127.0.0.1:*")
        port = int(push.getsockopt_string(zmq.LAST_ENDPOINT).rpartition(":")[2])
        with socket.create_connection(("127.0.0.1", port)) as old:
            old.sendall(b"\xff" + bytes(8) + b"\x7f\x01\x07\x00\x00")
            await asyncio.sleep(0.1)
            assert data.receivers() == 0
            now = 10.0
            assert data.receivers() == 1
        data.close()


# 2. Exactly once


async def test_a_repeated_start_returns_the_first_outcome(tmp_path: Path):
    microscope = StripedMicroscope()
    async with serving(tmp_path, microscope) as (_, client), client.lease():
        await client.prepare(make_plan())
        first = await client.acquire("a1", Frames())
        repeated, frames = await client.prepare(make_plan()), Frames()
        assert repeated.id == "a1"
        assert await client.acquire("a1", frames) == first
        assert frames.patterns == {}
        assert microscope.exposed == {"a1": 100}


async def test_a_start_that_comes_again_after_a_restart_exposes_nothing(tmp_path: Path):
    async with serving(tmp_path, StripedMicroscope()) as (_, client), client.lease():
        await client.prepare(make_plan())
        first = await client.acquire("a1", Frames())
    microscope = StripedMicroscope()
    async with serving(tmp_path, microscope) as (_, client), client.lease():
        assert await client.outcome("a1") == first
        assert await client.acquire("a1", Frames()) == first
        assert microscope.exposed == {}


async def test_another_plan_under_a_known_id_is_a_conflict(tmp_path: Path):
    async with serving(tmp_path, StripedMicroscope()) as (_, client), client.lease():
        await client.prepare(make_plan())
        with pytest.raises(ConflictError, match="known with another plan"):
            await client.prepare(make_plan(dose=PER_PATTERN / 2))


async def test_one_acquisition_at_a_time(tmp_path: Path):
    microscope = StripedMicroscope()
    microscope.held_at = 5
    async with serving(tmp_path, microscope) as (_, client), client.lease():
        await client.prepare(make_plan("a1"))
        await client.prepare(make_plan("a2"))
        async with asyncio.TaskGroup() as tasks:
            first = tasks.create_task(client.acquire("a1", Frames()))
            await until(lambda: microscope.exposed)
            with pytest.raises(ConflictError):
                await client._request("start", id="a2")
            await client.abort("a1")
        assert first.result().state == "aborted"
        assert "a2" not in microscope.exposed


# 3. Dead man's handle


async def test_a_lease_that_is_not_renewed_blanks_and_latches(tmp_path: Path):
    microscope = StripedMicroscope()
    microscope.held_at = 5
    async with serving(tmp_path, microscope) as (server, operator):
        await _prepare_and_vanish(server, microscope)
        await until_phase(operator, "safe")
        assert not microscope.beam_on
        outcome = await operator.outcome("a1", wait=5)
        assert outcome.state == "aborted"
        assert "lapsed" in outcome.reason
        # Five frames were delivered, one was under way; settling and flyback are charged in full.
        assert outcome.electrons == OVERHEAD + 6 * PER_PATTERN
        async with operator.lease():
            with pytest.raises(SafeStateError, match="operator has to release it"):
                await operator.prepare(make_plan("a2"))
        assert (await operator.resume("Ada", "the agent was killed")).phase == "idle"
        microscope.held_at = None
        async with operator.lease():
            await operator.prepare(make_plan("a2"))
            assert (await operator.acquire("a2", Frames())).state == "done"
        assert [(e.kind, e.operator) for e in await operator.events()] == [("safe", ""), ("resume", "Ada")]


async def _prepare_and_vanish(server: InstrumentServer, microscope: StripedMicroscope) -> None:
    """An agent that starts an acquisition and is never heard of again."""
    async with InstrumentClient(server.control, holder="vanishing", timeout=5.0) as agent:
        lease = await agent._request("lease.acquire", holder="vanishing", ttl=1.0)
        agent._lease = wire.LeaseToken(holder="vanishing", fence=lease["fence"])
        await agent.prepare(make_plan())
        with zmq.Context() as context, context.socket(zmq.PULL) as receiver:
            receiver.connect(server.data)
            await agent._request("start", id="a1")
            await until(lambda: microscope.exposed.get("a1") == 5)
            assert microscope.beam_on


async def test_the_beam_goes_off_while_the_event_loop_is_stuck(tmp_path: Path):
    microscope = StripedMicroscope()
    microscope.held_at = 5
    async with serving(tmp_path, microscope) as (server, operator):
        await _prepare_and_vanish(server, microscope)
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
                await until(lambda: server._pending["lease holder" if forged else "anyone"] == 64)
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
    microscope = StripedMicroscope()
    microscope.held_at = 5
    async with serving(tmp_path, microscope) as (_, client), client.lease():
        await client.prepare(make_plan())
        async with asyncio.TaskGroup() as tasks:
            running = tasks.create_task(client.acquire("a1", Frames()))
            await until(lambda: microscope.exposed.get("a1") == 5)
            await client.blank()
            assert not microscope.beam_on
        assert (running.result().state, running.result().reason) == ("aborted", "blanked by hand")
        assert (await client.status()).phase == "safe"


async def test_stop_by_hand_ends_the_scan_and_no_more(tmp_path: Path):
    microscope = StripedMicroscope()
    microscope.held_at = 5
    async with serving(tmp_path, microscope) as (_, client), client.lease():
        await client.prepare(make_plan())
        frames = Frames()
        async with asyncio.TaskGroup() as tasks:
            running = tasks.create_task(client.acquire("a1", frames))
            await until(lambda: len(frames.patterns) == 5)
            await client.stop()
        assert running.result().state == "aborted"
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
                assert safe.poll(1000)
                waited.append(time.monotonic() - asked)
                assert wire.decode_reply(safe.recv_multipart())[0].ok
            assert sorted(waited)[5] < 0.05
            safe.send_multipart(wire.encode(wire.Request(id="b", op="blank")))
            assert safe.poll(1000)
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
        assert "no frame was taken or delivered" in outcome.reason
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
        await _prepare_and_vanish(server, microscope)
        await until(lambda: not microscope.beam_on)
        assert microscope.refusals == 5
        assert (await operator.status()).phase == "safe"
        assert (await operator.outcome("a1", wait=5)).state == "aborted"


# 4. A ledger nobody can overdraw


async def test_the_budget_is_the_limit(tmp_path: Path):
    microscope = StripedMicroscope()
    budget = 2 * (100 * PER_PATTERN + OVERHEAD) + 1
    async with serving(tmp_path, microscope, budget=budget) as (_, client), client.lease():
        for name in ("a1", "a2"):
            await client.prepare(make_plan(name))
        with pytest.raises(BudgetError, match="lower dose or field"):
            await client.prepare(make_plan("a3"))
        await client.acquire("a1", Frames())
        account = await client.open_campaign("c", budget)
        assert (account.spent, account.reserved, account.left) == (10010.0, 10010.0, 1.0)


async def test_the_dose_of_a_region_is_limited_across_campaigns(tmp_path: Path):
    async with serving(tmp_path, StripedMicroscope(region_dose_limit=150.0)) as (_, client), client.lease():
        await client.prepare(make_plan("a1"))
        await client.acquire("a1", Frames())
        await client.open_campaign("other", 1e6)
        with pytest.raises(BudgetError, match="move the field to a fresh place"):
            await client.prepare(make_plan("a2", campaign="other"))
        fresh = Rectangle(y=20, x=44.5, height=10, width=10)
        assert await client.prepare(make_plan("a3", campaign="other", field=fresh))


async def test_a_microscope_that_fails_is_charged_for_what_it_exposed(tmp_path: Path):
    class Failing(StripedMicroscope):
        async def acquire(self, plan: AcquisitionPlan):
            async for frame in super().acquire(plan):
                if frame.index == 7:
                    raise RuntimeError("detector readout")
                yield frame

    async with serving(tmp_path, Failing()) as (_, client), client.lease():
        await client.prepare(make_plan())
        outcome = await client.acquire("a1", Frames())
        assert (outcome.state, outcome.frames) == ("failed", 7)
        assert "detector readout" in outcome.reason
        assert outcome.electrons == OVERHEAD + 8 * PER_PATTERN
        assert (await client.status()).electrons_spent == outcome.electrons
        assert (await client.acquire("a1", Frames())) == outcome


# 5. Refuse, never clamp
