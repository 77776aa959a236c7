"""A real server, a real watchdog: whatever ends or stops the server, somebody else turns the beam off."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import psutil
import pytest
from served_process import HERE, PLAN, Signal, server
from served_stripes import until
from striped_microscope import StripedMicroscope

from instrument import InstrumentClient, InstrumentError, InstrumentServer, MalformedRequestError
from instrument.__main__ import main
from instrument.background import Background
from instrument.heartbeat import HeartbeatError, SystemdNotifier, WatchdogLink
from instrument.watchdog import EXPOSING, FAREWELL, IDLE, Watchdog, load_blanker

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals and sockets of Unix")

BLANKER = "striped_microscope:blank_from_outside"


def beam(file: Path) -> str:
    """The last line of a beam file without its time."""
    return file.read_text().splitlines()[-1].partition(" ")[2]


@asynccontextmanager
async def exposing(folder: Path, watchdog: str) -> AsyncIterator[tuple[subprocess.Popen[str], Path]]:
    """A server process that is exposing, under the eyes of a watchdog; and its beam file."""
    file = folder / "beam"
    options = ("--watchdog", watchdog)
    watched = server(folder, *options, adapter="striped_microscope:make_watched", BEAM_FILE=str(file))
    with watched as (process, ready):
        async with InstrumentClient(ready["control"], timeout=30, request_timeout=30.0) as client:
            await client.open_campaign("c", 1e6)
            async with client.lease(ttl=60.0), Background() as tasks:
                await client.prepare(PLAN)
                sink = Signal(3)
                acquisition = tasks.create_task(_until_it_is_gone(client, sink))
                await sink.reached.wait()
                assert beam(file) == "on"
                yield process, file
                acquisition.cancel()


async def _until_it_is_gone(client: InstrumentClient, sink: Signal) -> None:
    with contextlib.suppress(InstrumentError):
        await client.acquire("a1", sink)


def blanked_by_watchdog(file: Path) -> bool:
    return any("off by watchdog" in line for line in file.read_text().splitlines())


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
async def test_the_watchdog_blanks_at_once_when_the_server_is_killed(tmp_path: Path, number: signal.Signals):
    async with exposing(tmp_path, BLANKER) as (process, file):
        killed = time.time()
        process.send_signal(number)
        await until(lambda: blanked_by_watchdog(file), 10.0)
        assert beam(file).startswith("off by watchdog")
        assert float(file.read_text().splitlines()[-1].split()[0]) - killed < 1.0
        await asyncio.to_thread(process.wait, 10)


async def test_the_watchdog_blanks_within_a_second_when_the_server_is_stopped(tmp_path: Path):
    async with exposing(tmp_path, BLANKER) as (process, file):
        stopped = time.time()
        process.send_signal(signal.SIGSTOP)
        await until(lambda: blanked_by_watchdog(file), 10.0)
        line = next(line for line in file.read_text().splitlines() if "watchdog" in line)
        assert float(line.split()[0]) - stopped < 1.5  # 0.8 s, and what a busy machine adds
        # Continued, it does not get its beam back, and goes to SAFE.
        process.send_signal(signal.SIGCONT)
        await until(lambda: beam(file).startswith("off"), 10.0)
        ready = psutil.Process(process.pid)
        assert ready.status() != psutil.STATUS_STOPPED


async def test_a_server_that_was_stopped_and_continued_is_in_safe(tmp_path: Path):
    file = tmp_path / "beam"
    watched = server(tmp_path, "--watchdog", BLANKER, adapter="striped_microscope:make_watched", BEAM_FILE=str(file))
    with watched as (process, ready):
        async with InstrumentClient(ready["control"], timeout=30, request_timeout=30.0) as client:
            await client.open_campaign("c", 1e6)
            async with client.lease(ttl=60.0), Background() as tasks:
                await client.prepare(PLAN)
                sink = Signal(3)
                tasks.create_task(_until_it_is_gone(client, sink))
                await sink.reached.wait()
                process.send_signal(signal.SIGSTOP)
                await until(lambda: blanked_by_watchdog(file), 10.0)
                process.send_signal(signal.SIGCONT)
                async with asyncio.timeout(10):
                    while (status := await client.status()).phase != "safe":
                        await asyncio.sleep(0.02)
                assert "watchdog has blanked" in status.reason
                assert (await client.outcome("a1", wait=10)).state == "aborted"
                assert beam(file).startswith("off")


async def test_without_its_watchdog_a_server_does_not_expose(tmp_path: Path):
    async with exposing(tmp_path, BLANKER) as (process, file):
        (watchdog,) = psutil.Process(process.pid).children()
        watchdog.kill()
        await until(lambda: beam(file).startswith("off"), 10.0)


async def test_a_watchdog_that_is_stopped_is_missed(tmp_path: Path):
    async with exposing(tmp_path, BLANKER) as (process, file):
        (watchdog,) = psutil.Process(process.pid).children()
        watchdog.suspend()
        try:
            await until(lambda: beam(file).startswith("off"), 10.0)
        finally:
            watchdog.resume()


@contextmanager
def watchdog_service(folder: Path, file: Path) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    path = folder / "watchdog.sock"
    command = [sys.executable, "-m", "instrument", "watchdog", BLANKER, "--socket", str(path)]
    environment = {**os.environ, "BEAM_FILE": str(file)}
    with subprocess.Popen(command, cwd=HERE, stdout=subprocess.PIPE, text=True, env=environment) as process:
        try:
            assert json.loads(process.stdout.readline())["ready"]
            yield process, path
        finally:
            process.terminate()
            process.wait()


async def test_a_watchdog_that_runs_as_a_service_guards_one_server_after_the_other(tmp_path: Path):
    file = tmp_path / "beam"
    with contextlib.ExitStack() as stack:
        process, path = await asyncio.to_thread(stack.enter_context, watchdog_service(tmp_path, file))
        assert blanked_by_watchdog(file)  # at its start
        for number in range(2):
            folder = tmp_path / str(number)
            folder.mkdir()
            async with exposing(folder, str(path)) as (served, _):
                file.write_text("0 on\n")
                served.kill()
                await until(lambda: blanked_by_watchdog(file), 10.0)
        file.write_text("0 on\n")
        process.terminate()
        await asyncio.to_thread(process.wait, 10)
        assert blanked_by_watchdog(file)  # at its end: nobody guards any more


async def test_an_orderly_end_needs_no_watchdog(tmp_path: Path):
    async with exposing(tmp_path, BLANKER) as (process, file):
        process.terminate()
        assert await asyncio.to_thread(process.wait, 20) == 0
        assert beam(file).startswith("off")


def test_a_watchdog_that_cannot_start_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    for blanker, complaint in (
        (str(tmp_path / "nobody.sock"), "no watchdog listens at"),
        ("no_such_module:blank", "No module named"),
        ("striped_microscope:CURRENT", "cannot be called"),
        ("striped_microscope", "is not MODULE:ATTRIBUTE"),
    ):
        arguments = ["serve", "striped_microscope:make", "--state-dir", str(tmp_path), "--watchdog", blanker]
        assert main(arguments) == 2
        error = capsys.readouterr().err
        assert complaint in error
        assert error.count("\n") == 1


def test_blank_turns_the_beam_off_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("BEAM_FILE", str(tmp_path / "beam"))
    assert main(["blank", BLANKER]) == 0
    assert beam(tmp_path / "beam").startswith("off by watchdog")


def test_a_blanker_that_fails_is_tried_again(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("instrument.watchdog._RETRY", 0.0)
    tries: list[int] = []

    def blank() -> None:
        tries.append(1)
        if len(tries) < 4:
            raise OSError("the blanker does not answer")

    near, far = socket.socketpair()
    with near, far:
        near.sendall(EXPOSING)
        near.shutdown(socket.SHUT_WR)
        Watchdog(blank).guard(far)
    assert len(tries) == 4


def test_what_goes_on_exposing_after_a_silence_is_blanked_again(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("instrument.watchdog.HEARTBEAT_LIMIT", 0.05)
    blanks: list[int] = []
    near, far = socket.socketpair()

    def blank() -> None:
        blanks.append(1)
        if len(blanks) == 1:
            near.sendall(EXPOSING + EXPOSING + IDLE + EXPOSING + FAREWELL)

    with near, far:
        near.sendall(EXPOSING)
        Watchdog(blank).guard(far)
        assert len(blanks) == 3
        assert near.recv(16) == b"gbbgg"


def test_a_server_hears_of_a_watchdog_that_does_not_answer():
    now = 0.0
    near, far = socket.socketpair()
    with far:
        link = WatchdogLink(near, clock=lambda: now)
        link.beat(exposing=True)
        now = 5.0
        with pytest.raises(HeartbeatError, match="has not answered for 5"):
            link.beat(exposing=True)
        far.send(b"b")
        with pytest.raises(HeartbeatError, match="has blanked"):
            link.beat(exposing=False)
        far.send(b"g")
        link.beat(exposing=False)
        far.shutdown(socket.SHUT_RDWR)
        with pytest.raises(HeartbeatError, match="is gone"):
            link.beat(exposing=False)
        link.close()


def test_a_blanker_may_be_the_method_of_an_object():
    assert load_blanker("socket:socket.close") is socket.socket.close
    with pytest.raises(MalformedRequestError, match="has no attribute"):
        load_blanker("socket:socket.blank")


async def test_a_hardware_line_is_pulsed_and_missed(tmp_path: Path):
    class WithLine(StripedMicroscope):
        pulses = 0
        broken = False

        def heartbeat(self) -> None:
            if self.broken:
                raise OSError("no such card")
            self.pulses += 1

    microscope = WithLine()
    async with (
        InstrumentServer(microscope, state_dir=tmp_path) as instrument,
        InstrumentClient(instrument.control, timeout=5) as client,
    ):
        await until(lambda: microscope.pulses > 3)
        microscope.broken = True
        async with asyncio.timeout(5):
            while (status := await client.status()).phase != "safe":
                await asyncio.sleep(0.01)
        assert "the heartbeat line cannot be pulsed (OSError: no such card)" in status.reason


async def test_systemd_hears_that_the_server_is_ready_alive_and_stopping(tmp_path: Path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(10.0)
        with server(tmp_path / "state", NOTIFY_SOCKET=str(tmp_path / "notify"), WATCHDOG_USEC="400000") as (process, _):
            heard = [await asyncio.to_thread(manager.recv, 64) for _ in range(5)]
            process.terminate()
            while heard[-1] != b"STOPPING=1":
                heard.append(await asyncio.to_thread(manager.recv, 64))
            process.wait(timeout=20)
    assert heard.count(b"READY=1") == 1
    assert heard.count(b"WATCHDOG=1") >= 4


def test_without_systemd_nobody_is_told(monkeypatch: pytest.MonkeyPatch):
    for name in ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"):
        monkeypatch.delenv(name, raising=False)
    notifier = SystemdNotifier()
    notifier.beat(exposing=True)
    notifier.close()


def test_the_watchdog_of_systemd_is_meant_for_one_process(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.setblocking(False)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        monkeypatch.setenv("WATCHDOG_USEC", "1")
        monkeypatch.setenv("WATCHDOG_PID", "1")
        SystemdNotifier().beat(exposing=True)
        with pytest.raises(BlockingIOError):
            manager.recv(64)
