"""Frames per second and MB/s (before compression) from a server process, through its socket, into an HDF5 file."""

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
        await client.open_campaign("c", 1e9)
        await client.prepare(plan(name, 64.0, 0.0, 0.0, defocus=0.0))
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


def test_encoding_of_a_frame(benchmark):
    rng = np.random.default_rng(0)
    pattern = rng.poisson(3.0, (128, 128)).astype(np.uint16)
    benchmark(lambda: stream.encode_image(1, "a1", 7, pattern, 0.0, 1e-3))


def test_decoding_of_a_frame(benchmark):
    rng = np.random.default_rng(0)
    message = stream.encode_image(1, "a1", 7, rng.poisson(3.0, (128, 128)).astype(np.uint16), 0.0, 1e-3)
    benchmark(lambda: stream.decode(message))
