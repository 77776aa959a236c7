"""Server and client over real sockets: the beam is on only while exactly one receiver takes the frames."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
import zmq
from served_stripes import Frames, make_plan, serving, under_way, until
from striped_microscope import StripedMicroscope

from instrument import (
    ConflictError,
)
from instrument.data_socket import DataSocket


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
    async with under_way(tmp_path) as (microscope, server, _, running):
        with zmq.Context() as context, context.socket(zmq.PULL) as thief:
            thief.connect(server.data)
            await until(lambda: not microscope.beam_on)
        outcome = await running
        assert outcome.state == "aborted"
        assert "second receiver" in outcome.reason


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
