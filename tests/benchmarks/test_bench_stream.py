"""Frames per second and MB/s (before compression) from a server process, through its socket, into an HDF5 file.

Beside it: the same frames by bare pyzmq between two processes, round trips of the control socket while frames come at full
rate, and for how long the event loop of the agent stood still meanwhile.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin
import numpy as np
import pytest
import zmq
from examples import plan

from instrument import InstrumentClient, SeriesStart, stream

FRAMES = 64 * 64
FRAME_BYTES = 128 * 128 * 2


class Hdf5Sink:
    """Writes the chunks as they come, one frame each."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def start(self, header: SeriesStart) -> None:
        self.file = h5py.File(self.path, "w")
        shape = (header.number_of_images, *header.shape)
        self.data = self.file.create_dataset(
            "data", shape, header.image_dtype, chunks=(1, *header.shape), **hdf5plugin.Bitshuffle()
        )

    def frame(self, index: int, chunk: bytes, pattern_shape: tuple[int, int], dtype: np.dtype[Any]) -> None:
        self.data.id.write_direct_chunk((index, 0, 0), chunk)


@pytest.fixture
def endpoint(tmp_path: Path) -> Iterator[str]:
    command = [sys.executable, "-m", "instrument", "serve", "pattern_source:PatternSource"]
    with subprocess.Popen(
        [*command, "--state-dir", str(tmp_path / "state")],
        cwd=Path(__file__).parent,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        yield json.loads(process.stdout.readline())["control"]
        process.terminate()


async def acquire(endpoint: str, path: Path, name: str) -> float:
    """Seconds from `start` until the last of FRAMES frames is in a closed file."""
    async with InstrumentClient(endpoint, timeout=10) as client, client.lease():
        await client.open_campaign("c", 1e12)
        await client.prepare(plan(name, 64.0, 0.0, 0.0, defocus=0.0, dose=4e4))  # what the patterns have
        sink = Hdf5Sink(path)
        started = time.perf_counter()
        outcome = await client.acquire(name, sink)
        sink.file.close()
        seconds = time.perf_counter() - started
    assert (outcome.state, outcome.frames) == ("done", FRAMES)
    return seconds


def test_frames_from_server_to_hdf5(benchmark, endpoint: str, tmp_path: Path):
    numbers = itertools.count()
    seconds = []

    def run() -> None:
        number = next(numbers)
        seconds.append(asyncio.run(acquire(endpoint, tmp_path / f"{number}.h5", f"a{number}")))

    benchmark.pedantic(run, rounds=5)
    rate, best = FRAMES / statistics.median(seconds), FRAMES / min(seconds)
    benchmark.extra_info["frames_per_second"] = round(rate)
    benchmark.extra_info["MB_per_second"] = round(rate * FRAME_BYTES / 1e6)
    print(
        f"\n128 × 128 uint16 from server to HDF5: {rate:.0f} frames/s, {rate * FRAME_BYTES / 1e6:.0f} MB/s "
        f"(median of {len(seconds)}; best {best:.0f} frames/s)"
    )
    with h5py.File(tmp_path / "0.h5") as file:
        assert file["data"].shape == (FRAMES, 128, 128)
        assert file["data"][0].sum() == file["data"][64].sum() > 0


_BARE = """
import sys
import numpy as np
import zmq
from instrument import stream
from pattern_source import PatternSource
kind, address, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
patterns = PatternSource()._patterns
messages = [
    stream.encode_image(1, "a1", n, each, 0.0, 1e-3) if kind == "encoded" else each.tobytes() for n, each in enumerate(patterns)
]
with zmq.Context() as context, context.socket(zmq.PUSH) as push:
    push.connect(address)
    for n in range(count):
        push.send(messages[n % len(messages)])
"""


def bare(kind: str) -> float:
    """Frames per second by pyzmq alone, from another process into nothing."""
    with zmq.Context() as context, context.socket(zmq.PULL) as pull:
        port = pull.bind_to_random_port("tcp://127.0.0.1")
        command = [sys.executable, "-c", _BARE, kind, f"tcp://127.0.0.1:{port}", str(FRAMES)]
        with subprocess.Popen(command, cwd=Path(__file__).parent):
            pull.recv()
            began = time.perf_counter()
            for _ in range(FRAMES - 1):
                pull.recv()
            return (FRAMES - 1) / (time.perf_counter() - began)


async def beside(endpoint: str, path: Path) -> tuple[float, list[float], float]:
    """Frames per second into a file, s of each control round trip meanwhile, and the longest that the event loop stood still."""
    trips: list[float] = []
    lag = 0.0

    async def watch() -> None:
        nonlocal lag
        while True:
            began = time.perf_counter()
            await asyncio.sleep(0.005)
            lag = max(lag, time.perf_counter() - began - 0.005)

    async def ask() -> None:
        async with InstrumentClient(endpoint, timeout=10) as other:
            while True:
                began = time.perf_counter()
                await other.health()
                trips.append(time.perf_counter() - began)

    tasks = [asyncio.ensure_future(each()) for each in (watch, ask)]
    try:
        seconds = await acquire(endpoint, path, "beside")
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return FRAMES / seconds, trips, lag


def test_against_bare_pyzmq_and_beside_the_control_socket(endpoint: str, tmp_path: Path):
    ours = FRAMES / min(asyncio.run(acquire(endpoint, tmp_path / f"{n}.h5", f"a{n}")) for n in range(3))
    for kind in ("encoded", "raw"):
        wire = max(bare(kind) for _ in range(3))
        print(
            f"\nbare pyzmq, the same frames {kind}: {wire:.0f} frames/s; server to HDF5 {ours:.0f}, {ours / wire:.0%} of it",
            end="",
        )
    rate, trips, lag = asyncio.run(beside(endpoint, tmp_path / "beside.h5"))
    print(
        f"\nbeside {rate:.0f} frames/s: control round trip median {1e3 * statistics.median(trips):.2f} ms "
        f"({len(trips)}), event loop of the agent still for {1e3 * lag:.0f} ms at most"
    )


def test_encoding_of_a_frame(benchmark):
    rng = np.random.default_rng(0)
    pattern = rng.poisson(3.0, (128, 128)).astype(np.uint16)
    benchmark(lambda: stream.encode_image(1, "a1", 7, pattern, 0.0, 1e-3))


def test_decoding_of_a_frame(benchmark):
    rng = np.random.default_rng(0)
    message = stream.encode_image(1, "a1", 7, rng.poisson(3.0, (128, 128)).astype(np.uint16), 0.0, 1e-3)
    benchmark(lambda: stream.decode(message))
