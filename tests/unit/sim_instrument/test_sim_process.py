# SPDX-License-Identifier: GPL-3.0-or-later
"""`python -m sim_instrument` as a process: the ready line, an acquisition over the wire, bad input, kill -9."""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import examples
import numpy as np
import pytest
import zmq

from instrument import AcquisitionPlan, InstrumentError
from instrument.background import Background
from instrument.client import InstrumentClient
from instrument.stream import SeriesStart, decode_chunk
from sim_instrument.__main__ import main

OPTIONS = ("--material", "vacuum", "--pixels", "64", "--angular-pixel", "2.192")


@contextmanager
def simulator(state: Path, *options: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    command = [sys.executable, "-m", "sim_instrument", "simulate", "--state-dir", str(state), *OPTIONS, *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            ready = json.loads(process.stdout.readline())
            assert ready["ready"]
            yield process, ready["control"]
        finally:
            process.terminate()


def plan(id: str) -> AcquisitionPlan:
    return examples.plan(id, 6, 180, 180, region=id, dose=2000)


class Counts:
    """A sink that adds up what it gets."""

    total = 0

    def start(self, header: SeriesStart) -> None:
        assert header.number_of_images == 36

    def frame(self, index: int, chunk: bytes, pattern_shape: tuple[int, int], dtype: np.dtype) -> None:
        self.total += int(decode_chunk(chunk, pattern_shape, dtype).sum())


async def acquire(client: InstrumentClient, scan: AcquisitionPlan) -> int:
    counts = Counts()
    async with client.lease():
        await client.open_campaign("c", 1e7)
        reservation = await client.prepare(scan)
        assert reservation.check.n_positions == 36
        outcome = await client.acquire(scan.id, counts)
    assert outcome.state == "done"
    return counts.total


async def test_frames_over_the_wire_and_a_state_that_survives_kill_9(tmp_path: Path) -> None:
    with simulator(tmp_path) as (process, endpoint):
        async with InstrumentClient(endpoint) as client:
            assert (await client.describe()).detector.shape == (64, 64)
            counts = await acquire(client, plan("a1"))
        assert counts == pytest.approx(plan("a1").electrons, rel=0.05)
        process.kill()
    with simulator(tmp_path) as (process, endpoint):
        async with InstrumentClient(endpoint) as client:
            outcome = await client.outcome("a1")
            assert outcome is not None
            assert outcome.state == "done"
    exposures = [json.loads(line) for line in (tmp_path / "exposures.jsonl").read_text().splitlines()]
    assert {entry["plan"]["id"] for entry in exposures} == {"a1"}
    assert sum(entry["stop"] - entry["first"] for entry in exposures) == 36


async def test_with_chaos_frames_come_twice_and_count_once_until_the_process_dies(tmp_path: Path) -> None:
    with simulator(tmp_path, "--chaos", "dup=1,die_after=50") as (process, endpoint):
        async with InstrumentClient(endpoint, timeout=5) as client:
            assert await acquire(client, plan("a1")) == pytest.approx(plan("a1").electrons, rel=0.05)
            with pytest.raises((InstrumentError, ExceptionGroup)):
                await acquire(client, plan("a2"))
        assert process.wait(60) == -9


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--source-size", "-1"), "--source-size -1"),
        (("--size", "100"), "greater than or equal to 300"),
        (("--aberration", "C99=1"), "C99"),
        (("--aberration", "C12"), "NAME=VALUE"),
        (("--semiangle", "49", "--pixels", "32"), "does not fit"),
        (("--column", "cold-90"), "there are default, cold-60"),
        (("--specimen", "mos3"), "there are 2h-mos2"),
        (("--truth", "/nowhere/truth.h5"), "/nowhere"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    tmp_path: Path, options: tuple[str, ...], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["simulate", "--state-dir", str(tmp_path), *options]) == 2
    said = capsys.readouterr()
    assert words in said.err
    assert len(said.err.splitlines()) == 1
    assert said.out == ""


def test_a_process_that_cannot_serve_ends_with_exit_code_2(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "sim_instrument", "simulate", "--state-dir", str(tmp_path), "--size", "100"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (2, "", 1)


def test_a_taken_port_is_told_before_abtem_is_loaded(tmp_path: Path) -> None:
    with zmq.Context() as context, context.socket(zmq.REP) as other:
        other.bind("tcp://127.0.0.1:*")
        taken = other.getsockopt_string(zmq.LAST_ENDPOINT)
        code = (
            "import sys; from sim_instrument.__main__ import main; code = main(); "
            "print('abtem' in sys.modules); sys.exit(code)"
        )
        command = [sys.executable, "-c", code, "simulate", "--safe", taken, "--state-dir", str(tmp_path)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (2, "False\n")
    assert f"{taken} is in use by another program; stop it or choose another port" in done.stderr


def test_help_says_units_defaults_and_costs() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "sim_instrument", "simulate", "--help"], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0
    for words in (
        "--knock-on BARN",
        "--drift Å/S",
        "--source-size Å",
        "0 switches it off",
        "in s for 40 × 40 positions",
    ):
        assert words in done.stdout


@pytest.mark.skipif(sys.platform == "win32", reason="signals of Unix")
async def test_a_watchdog_turns_the_simulated_beam_off_after_kill_9(tmp_path: Path) -> None:
    beam = tmp_path / "beam"
    options = ("--real-time", "--beam-file", str(beam), "--watchdog", "sim_instrument.beam_file:blank")
    with simulator(tmp_path / "state", *options) as (process, endpoint):
        async with InstrumentClient(endpoint) as client, client.lease(ttl=60.0), Background() as tasks:
            await client.open_campaign("c", 1e12)
            scan = examples.plan("a1", 40, 180, 180, region="a1", dose=4e5)
            await client.prepare(scan)
            acquisition = tasks.create_task(_until_it_is_gone(client, scan.id))
            async with asyncio.timeout(60):
                while beam.read_text() != "on\n":
                    await asyncio.sleep(0.02)
            process.kill()
            async with asyncio.timeout(20):
                while beam.read_text() != "off\n":
                    await asyncio.sleep(0.02)
            acquisition.cancel()


async def _until_it_is_gone(client: InstrumentClient, name: str) -> None:
    class Nothing:
        def start(self, header: SeriesStart) -> None: ...

        def frame(self, index: int, chunk: bytes, pattern_shape: tuple[int, int], dtype: np.dtype) -> None: ...

    with contextlib.suppress(InstrumentError):
        await client.acquire(name, Nothing())
