"""Server and client over real sockets: limits, rubbish, faulty streams and sinks end in typed errors and no side effect."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zmq
from served_stripes import PER_PATTERN, Frames, make_plan, serving, under_way
from striped_microscope import StripedMicroscope, pattern_of

from instrument import (
    BudgetError,
    ExpiredError,
    InstrumentClient,
    InstrumentServer,
    MalformedRequestError,
    OutOfLimitsError,
    Rectangle,
    SeriesStart,
    StaleLeaseError,
    StreamError,
    UnreachableError,
    stream,
    wire,
)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        (
            {"step": 10.5, "field": Rectangle(y=0, x=0, height=50, width=50)},
            r"step of 10.5 Å is not possible here; legal: 0.1 … 10 Å",
        ),
        ({"defocus": -1200.0}, r"defocus of -1200 Å is not possible here; legal: -1000 … 1000 Å"),
        ({"dose": 0.5}, r"dose of 0.5 e/Å² is not possible here; legal: 1 … 1e\+06 e/Å²"),
        ({"dose": 5.0, "step": 0.2}, r"puts 0.2 into a pattern; legal: 1 …"),
        ({"field": Rectangle(y=495, x=0, height=10, width=10)}, "leaves the area that can be scanned"),
        ({"positions": ((21.0, 31.0), (21.0, 41.0))}, r"position \(21, 41\) Å lies outside"),
        ({"step": 0.1, "field": Rectangle(y=0, x=0, height=100, width=100)}, "at most 100000"),
    ],
)
async def test_a_plan_beyond_the_limits_is_refused(tmp_path: Path, changes: dict[str, Any], complaint: str):
    async with serving(tmp_path, StripedMicroscope()) as (_, client), client.lease():
        with pytest.raises(OutOfLimitsError, match=complaint):
            await client.prepare(make_plan(**changes))
        assert await client.exposures() == []


@pytest.mark.parametrize(
    ("op", "args", "error", "complaint"),
    [
        ("levitate", {}, MalformedRequestError, "unknown verb 'levitate'"),
        ("outcome", {"id": "a1", "colour": "red"}, MalformedRequestError, "colour: Extra inputs"),
        ("outcome", {"id": "../../etc/passwd"}, MalformedRequestError, "id: "),
        ("campaign", {"campaign": "c2", "electrons": -1.0}, OutOfLimitsError, "electrons: .*greater than 0"),
        ("prepare", {"plan": {"id": "a1"}}, MalformedRequestError, "campaign: Field required"),
        ("lease.acquire", {"holder": "x", "ttl": 1e9}, MalformedRequestError, "legal: 0.05 … 600 s"),
        ("lease.renew", {}, StaleLeaseError, "needs a lease"),
    ],
)
async def test_a_bad_request_is_refused(tmp_path: Path, op: str, args: dict[str, Any], error: type, complaint: str):
    async with serving(tmp_path, StripedMicroscope()) as (_, client):
        with pytest.raises(error, match=complaint):
            await client._request(op, **args)


async def test_a_command_after_its_deadline_is_not_carried_out(tmp_path: Path):
    now = 1000.0
    async with serving(tmp_path, StripedMicroscope(), clock=lambda: now) as (_, client):
        with pytest.raises(ExpiredError, match=r"campaign arrived 0\.500 s after its deadline"):
            await client._control.request("campaign", {"campaign": "late", "electrons": 1.0}, limit=5, deadline=999.5)
        with pytest.raises(BudgetError, match="no budget"):
            async with client.lease(ttl=60):
                await client.prepare(make_plan(campaign="late"))


async def test_commands_go_on_after_the_clocks_have_parted(tmp_path: Path):
    ahead = 0.0
    async with serving(tmp_path, StripedMicroscope(), clock=lambda: time.monotonic() + ahead) as (_, client):
        ahead = 1000.0  # this machine was suspended, or runs slow for months
        assert (await client.describe()).name == "striped"
        async with client.lease(ttl=60):
            assert (await client.prepare(make_plan())).id == "a1"


async def test_the_clock_is_learnt_anew_with_every_renewal(tmp_path: Path):
    async with serving(tmp_path, StripedMicroscope()) as (_, client), client.lease():
        token = client._lease
        before = time.monotonic()
        told = await client._control.request("lease.renew", limit=5, lease=token)
        assert before <= told["clock"] <= time.monotonic()


async def test_rubbish_on_the_control_and_safe_sockets_changes_nothing(tmp_path: Path):
    rng = np.random.default_rng(5)
    good = wire.encode(wire.Request(id="q", op="campaign", args={"campaign": "x", "electrons": 5.0}))
    async with serving(tmp_path, StripedMicroscope()) as (server, client):
        before = await client.status()
        with zmq.Context() as context:
            for endpoint in (server.control, server.safe):
                with context.socket(zmq.DEALER) as rude:
                    rude.connect(endpoint)
                    for _ in range(150):
                        damaged = [bytearray(part) for part in good[: rng.integers(1, 4)]]
                        for part in damaged:
                            for position in rng.integers(0, max(1, len(part)), 3 if part else 0):
                                part[position] = rng.integers(0, 32)
                        rude.send_multipart([bytes(part) for part in damaged])
                    rude.send_multipart(wire.encode(wire.Request(id="last", op="status")))
                    async with asyncio.timeout(10):
                        while True:
                            if not rude.poll(0):
                                await asyncio.sleep(0.005)
                            elif (reply := wire.decode_reply(rude.recv_multipart())[0]).id == "last":
                                assert reply.ok
                                break
                            else:
                                assert reply.error["code"] in {"MALFORMED", "VERSION", "CONFLICT", "OUT_OF_LIMITS"}
        after = await client.status()
        assert (after.phase, after.electrons_reserved) == (before.phase, before.electrons_reserved)


# The client's side


async def test_a_sink_that_fails_aborts_and_is_heard(tmp_path: Path):
    microscope = StripedMicroscope(frame_interval=0.005)
    async with serving(tmp_path, microscope) as (_, client), client.lease():
        await client.prepare(make_plan())
        with pytest.raises(OSError, match="No space left"):
            await client.acquire("a1", Frames(fail_at=3))
        assert not microscope.beam_on
        outcome = await client.outcome("a1")
        assert outcome.state == "aborted"
        assert outcome.electrons < 100 * PER_PATTERN


async def test_an_acquisition_that_is_cancelled_is_aborted(tmp_path: Path):
    async with under_way(tmp_path) as (_, _, client, running):
        running.cancel()
        await asyncio.wait([running])
        assert (await client.outcome("a1")).state == "aborted"


async def test_an_instrument_that_is_not_there_is_named():
    with pytest.raises(UnreachableError, match=r"no instrument answers at tcp://127\.0\.0\.1:9 "):
        async with InstrumentClient("tcp://127.0.0.1:9", timeout=0.3):
            pass
    with pytest.raises(UnreachableError, match="is not an endpoint"):
        async with InstrumentClient("not an endpoint", timeout=0.3):
            pass


class Mangled(InstrumentServer):
    """A server whose network loses, repeats or damages messages of the stream."""

    def __init__(self, *args: Any, mangle: Callable[[bytes], list[bytes]], **options: Any) -> None:
        super().__init__(*args, **options)
        self._mangle = mangle

    def _open_sockets(self, *args: Any) -> Any:
        data = super()._open_sockets(*args)
        send = data.send

        async def mangled(message: bytes, give_up: Callable[[], bool]) -> bool:
            return all([await send(part, give_up) for part in self._mangle(message)])

        data.send = mangled
        return data


def _edit(choose: Callable[[Any], bool], replacement: Callable[[bytes], list[bytes]]) -> Callable[[bytes], list[bytes]]:
    return lambda message: replacement(message) if choose(stream.decode(message)) else [message]


def _is_frame(index: int) -> Callable[[Any], bool]:
    return lambda message: getattr(message, "image_id", None) == index


FOREIGN = stream.encode_image(9, "of another series", 3, np.ones((16, 16), np.uint16), 0, 0)


@pytest.mark.parametrize(
    ("mangle", "complaint"),
    [
        (_edit(_is_frame(3), lambda message: []), r"1 of 100 frames of a1 are missing \(indices 3"),
        (_edit(_is_frame(3), lambda message: [message, message, FOREIGN]), None),
        (_edit(_is_frame(3), lambda message: [message[:-20]]), "not CBOR"),
        (_edit(lambda message: isinstance(message, SeriesStart), lambda message: []), "before the start message"),
        (_edit(lambda message: isinstance(message, stream.SeriesEnd), lambda message: []), "end of the series"),
    ],
)
async def test_a_faulty_stream_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mangle: Callable[[bytes], list[bytes]], complaint: str | None
):
    monkeypatch.setattr("instrument.following.IDLE_TIMEOUT", 1.0)
    async with (
        Mangled(StripedMicroscope(), state_dir=tmp_path, mangle=mangle) as server,
        InstrumentClient(server.control, timeout=5.0) as client,
        client.lease(),
    ):
        await client.open_campaign("c", 1e6)
        await client.prepare(make_plan())
        frames = Frames()
        if complaint is None:
            assert (await client.acquire("a1", frames)).state == "done"
            assert all(np.array_equal(frames.patterns[i], pattern_of(i, (16, 16))) for i in range(100))
        else:
            with pytest.raises(StreamError, match=complaint):
                await client.acquire("a1", frames)


async def test_no_task_outlives_client_and_server(tmp_path: Path):
    before = asyncio.all_tasks()
    async with serving(tmp_path, StripedMicroscope()) as (_, client), client.lease():
        await client.prepare(make_plan())
        await client.acquire("a1", Frames())
    assert asyncio.all_tasks() == before


def _endless_message(endpoint: str, limit: int) -> int:
    """Send parts of one message without an end over a bare connection; how many bytes it took until that was shut."""
    host, port = endpoint.removeprefix("tcp://").rsplit(":", 1)
    part = b"\x03" + (1 << 20).to_bytes(8, "big") + bytes(1 << 20)  # long, and more to come
    sent = 0
    with socket.create_connection((host, int(port)), timeout=5) as peer:
        peer.sendall(b"\xff" + bytes(8) + b"\x7f\x03\x00NULL" + bytes(48))
        peer.sendall(b"\x04\x19\x05READY\x0bSocket-Type\x00\x00\x00\x06DEALER")
        while sent < limit:
            try:
                peer.sendall(part)
            except OSError:
                break
            sent += len(part)
    return sent


@pytest.mark.skipif(not hasattr(socket, "TCP_INFO"), reason="only Linux says how much a connection has received")
async def test_a_peer_whose_message_never_ends_is_cut_off_and_the_others_are_served(tmp_path: Path):
    async with serving(tmp_path, StripedMicroscope()) as (server, client):
        sent = await asyncio.to_thread(_endless_message, server.control, 1 << 30)
        assert sent < 400 << 20
        assert (await client.describe()).name == "striped"


async def test_large_requests_that_wait_are_refused_before_they_fill_the_memory(tmp_path: Path):
    asked = wire.Request(id="q", op="outcome", args={"id": "a1", "wait": 0.3})
    large = asked.model_dump_json(exclude_none=True)[:-1] + ',"pad":"' + "x" * (3 << 20) + '"}'
    async with under_way(tmp_path) as (_, server, client, running):
        with zmq.Context() as context, context.socket(zmq.DEALER) as greedy:
            greedy.connect(server.control)
            for _ in range(7):
                greedy.send_multipart([*wire.encode(asked)[:2], large.encode()])
            codes = []
            async with asyncio.timeout(10):
                while len(codes) < 7:
                    if greedy.poll(0):
                        reply = wire.decode_reply(greedy.recv_multipart())[0]
                        codes.append("" if reply.ok else reply.error["code"])
                    await asyncio.sleep(0.005)
        assert codes.count("CONFLICT") == 2
        await client.stop()
        await running
