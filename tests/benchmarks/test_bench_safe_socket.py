"""How soon the safe socket answers while frames and the control socket are saturated, and while the event loop is blocked."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import zmq
from served_process import server
from served_stripes import Frames, make_plan

from instrument import InstrumentClient, wire

REQUESTS = 5000
LIMIT = 0.05
FLOOD = """
import sys, zmq
from instrument import wire
context = zmq.Context()
control = context.socket(zmq.DEALER)
control.connect(sys.argv[1])
asked = wire.encode(wire.Request(id="q", op="describe"))
while True:
    for _ in range(32):
        control.send_multipart(asked)
    for _ in range(32):
        control.recv_multipart()
"""


def ask(endpoint: str, op: str, count: int) -> np.ndarray:
    """(count,) s that each answer took, one request after the other."""
    took = np.zeros(count)
    with zmq.Context() as context, context.socket(zmq.DEALER) as safe:
        safe.connect(endpoint)
        for index in range(count):
            began = time.perf_counter()
            safe.send_multipart(wire.encode(wire.Request(id=str(index), op=op)))
            safe.recv_multipart()
            took[index] = time.perf_counter() - began
    return took


@contextmanager
def flooded(control: str) -> Iterator[None]:
    """Another process asks for descriptions as fast as it can."""
    flood = subprocess.Popen([sys.executable, "-c", FLOOD, control])
    try:
        yield
    finally:
        flood.kill()
        flood.wait()


async def test_the_safe_socket_answers_while_everything_else_is_saturated(tmp_path: Path):
    with server(tmp_path, adapter="striped_microscope:make_quick") as (_, ready), flooded(ready["control"]):
        async with InstrumentClient(ready["control"], timeout=20, request_timeout=20) as client:
            await client.open_campaign("c", 1e12)
            stop = threading.Event()
            async with client.lease(), asyncio.TaskGroup() as tasks:
                exposing = tasks.create_task(expose_until(client, stop))
                took = {"status": await asyncio.to_thread(ask, ready["safe"], "status", REQUESTS)}
                stop.set()
                await exposing
            for op in ("stop", "blank"):
                took[op] = await asyncio.to_thread(ask, ready["safe"], op, REQUESTS // 5)
    report(took)


async def test_the_safe_socket_answers_while_the_event_loop_is_blocked(tmp_path: Path):
    with server(tmp_path, adapter="striped_microscope:make_stuck") as (_, ready):
        ops = ("status", "stop", "blank")
        took = {op: await asyncio.to_thread(ask, ready["safe"], op, REQUESTS // 5) for op in ops}
    report(took)


def report(took: dict[str, np.ndarray]) -> None:
    """Print the times of each verb, and hold them to the limit."""
    for name, each in took.items():
        median, late, worst = (1e3 * np.quantile(each, q) for q in (0.5, 0.999, 1.0))
        print(
            f"\n{name}: {len(each)} requests, median {median:.2f} ms, 99.9 % within {late:.1f} ms, worst {worst:.1f} ms"
        )
    assert max(np.quantile(each, 0.999) for each in took.values()) < LIMIT


async def expose_until(client: InstrumentClient, stop: threading.Event) -> None:
    """One acquisition after the other."""
    number = 0
    while not stop.is_set():
        number += 1
        await client.prepare(make_plan(f"a{number}", size=30))
        await client.acquire(f"a{number}", Frames())
