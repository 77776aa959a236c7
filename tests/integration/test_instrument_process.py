"""The server as a process: ready line, signals, `kill -9` while exposing, keys, and mistakes on the command line."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import zmq
from served_process import PLAN, Signal, server

from instrument import (
    ClientKeys,
    InstrumentClient,
    MalformedRequestError,
    Rectangle,
    SafeStateError,
    SeriesStart,
    ServerKeys,
    UnreachableError,
    generate_keys,
)
from instrument.__main__ import main
from instrument.background import Background
from instrument.ledger import Ledger
from instrument.serve import ending_signals


def refusal(capsys: pytest.CaptureFixture[str], adapter: str, *options: str) -> str:
    """The one line with which the command refuses to serve."""
    assert main(["serve", adapter, *options]) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith("error: ")
    assert output.err.count("\n") == 1
    return output.err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_a_signal_ends_the_scan_books_it_and_exits_cleanly(tmp_path: Path, number: signal.Signals):
    with server(tmp_path) as (process, ready):
        assert ready["ready"] is True
        assert ready["name"] == "striped"
        async with InstrumentClient(ready["control"], timeout=5, request_timeout=5.0) as client:
            await client.open_campaign("c", 1e6)
            async with client.lease(ttl=20.0), Background() as tasks:
                await client.prepare(PLAN)
                sink = Signal(3)
                tasks.create_task(_signal_when(sink.reached, process, number))
                # The last words of the server may arrive or not; either way it is gone afterwards.
                with contextlib.suppress(UnreachableError):
                    assert (await client.acquire("a1", sink)).state == "aborted"
        assert process.wait(timeout=30) == 0
        with pytest.raises(UnreachableError):
            async with InstrumentClient(ready["control"], timeout=0.2, request_timeout=0.2) as late:
                await late.describe()
    with server(tmp_path) as (_, ready):
        async with InstrumentClient(ready["control"], timeout=5) as client:
            outcome = await client.outcome("a1")
            assert (outcome.state, outcome.reason) == ("aborted", "the server was shut down")
            # Three frames of 20 ms, and what was under way.
            assert 3 * 99 <= outcome.electrons < 400 * 100
            assert (await client.status()).phase == "idle"


async def _signal_when(event: asyncio.Event, process: subprocess.Popen[str], number: signal.Signals) -> None:
    await event.wait()
    process.send_signal(number)


ENDING = [
    getattr(signal, name)
    for name in ("SIGHUP", "SIGQUIT", "SIGABRT", "SIGUSR1", "SIGALRM", "SIGTSTP", "SIGRTMIN")
    if hasattr(signal, name)
]


@pytest.fixture(autouse=True)
def as_from_a_terminal() -> Iterator[None]:
    """What `nohup` or a shell's background ignores a server would go on ignoring, and rightly."""
    ignored = [number for number in ENDING if signal.getsignal(number) is signal.SIG_IGN]
    for number in ignored:
        signal.signal(number, signal.SIG_DFL)
    yield
    for number in ignored:
        signal.signal(number, signal.SIG_IGN)


@pytest.mark.skipif(sys.platform == "win32", reason="signals of Unix")
async def test_the_beam_is_off_after_any_signal_that_can_be_caught(tmp_path: Path):
    folders = [tmp_path / number.name for number in ENDING]
    for folder in folders:
        folder.mkdir()
    await asyncio.gather(*map(_signalled_while_exposing, folders, ENDING))


async def _signalled_while_exposing(folder: Path, number: signal.Signals, **environment: str) -> float:
    """Send a signal to a server that is exposing; the beam must go off. Returns the s until it was."""
    beam = folder / "beam"
    watched = server(folder, adapter="striped_microscope:make_watched", BEAM_FILE=str(beam), **environment)
    with ExitStack() as stack:
        process, ready = await asyncio.to_thread(stack.enter_context, watched)
        async with InstrumentClient(ready["control"], timeout=30, request_timeout=30.0) as client:
            await client.open_campaign("c", 1e6)
            async with client.lease(ttl=60.0), Background() as tasks:
                await client.prepare(PLAN)
                sink = Signal(3)
                acquisition = tasks.create_task(_acquire_until_it_is_gone(client, sink))
                await sink.reached.wait()
                assert beam.read_text().split()[-1] == "on"
                sent = time.time()
                process.send_signal(number)
                async with asyncio.timeout(30):
                    while beam.read_text().split()[-1] != "off":
                        await asyncio.sleep(0.01)
                went_off = float(beam.read_text().split()[-2])
                assert await asyncio.to_thread(process.wait, 30) == 0, number
                acquisition.cancel()
    assert beam.read_text().split()[-1] == "off"
    ledger = Ledger(folder)
    outcome = ledger.outcome("a1")
    ledger.close()
    assert outcome is not None
    assert (outcome.state, outcome.reason) == ("aborted", "the server was shut down")
    return went_off - sent


async def _acquire_until_it_is_gone(client: InstrumentClient, sink: Signal) -> None:
    with contextlib.suppress(UnreachableError):
        await client.acquire("a1", sink)


@pytest.mark.skipif(sys.platform == "win32", reason="signals of Unix")
async def test_a_signal_blanks_at_once_while_the_event_loop_is_stuck_in_a_driver(tmp_path: Path):
    assert await _signalled_while_exposing(tmp_path, signal.SIGHUP, STUCK_AT="3") < 2.0


@pytest.mark.skipif(sys.platform == "win32", reason="signals of Unix")
def test_no_signal_that_ends_a_process_is_forgotten():
    harmless = {signal.SIGCHLD, signal.SIGCONT, signal.SIGURG, signal.SIGWINCH, signal.SIGTTIN, signal.SIGTTOU}
    faults = {signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL}
    uncatchable = {signal.SIGKILL, signal.SIGSTOP}
    assert ending_signals() == signal.valid_signals() - harmless - faults - uncatchable
    assert {signal.SIGINT, signal.SIGTERM, *ENDING} <= ending_signals()


@pytest.mark.skipif(sys.platform == "win32", reason="nohup of Unix")
async def test_a_server_under_nohup_survives_its_terminal(tmp_path: Path):
    with server(tmp_path, launcher=("nohup",)) as (process, ready):
        process.send_signal(signal.SIGHUP)
        async with InstrumentClient(ready["control"], timeout=5) as client:
            assert (await client.status()).phase == "idle"
        assert process.poll() is None
        process.terminate()
        assert process.wait(timeout=30) == 0


async def test_killed_while_exposing_it_starts_in_safe_with_everything_booked(tmp_path: Path):
    with server(tmp_path) as (process, ready):
        async with InstrumentClient(ready["control"], timeout=5, request_timeout=5.0) as client:
            await client.open_campaign("c", 1e6)
            async with client.lease(ttl=20.0), Background() as tasks:
                await client.prepare(PLAN)
                sink = Signal(3)
                tasks.create_task(_signal_when(sink.reached, process, signal.SIGKILL))
                with pytest.raises(UnreachableError):
                    await client.acquire("a1", sink)
        assert process.wait(timeout=5) == -signal.SIGKILL
    with server(tmp_path) as (_, ready):
        async with InstrumentClient(ready["control"], timeout=5) as client:
            status = await client.status()
            assert (status.phase, status.blanked) == ("safe", True)
            assert "a1 was running" in status.reason
            outcome = await client.outcome("a1")
            assert (outcome.state, outcome.electrons) == ("failed", 400 * 100 + 10)
            async with client.lease():
                with pytest.raises(SafeStateError):
                    await client.prepare(PLAN.model_copy(update={"id": "a2"}))
                await client.resume("Ada", "checked the column")
                assert await client.acquire("a1", Signal(1)) == outcome
                account = await client.open_campaign("c", 1e6)
                assert (account.spent, account.reserved) == (400 * 100 + 10, 0.0)


async def test_killed_with_a_reservation_open_it_still_counts(tmp_path: Path):
    with server(tmp_path) as (process, ready):
        async with InstrumentClient(ready["control"], timeout=5, request_timeout=5.0) as client:
            await client.open_campaign("c", 1e6)
            async with client.lease():
                await client.prepare(PLAN)
                os.kill(process.pid, signal.SIGKILL)
                process.wait(timeout=5)
    with server(tmp_path) as (_, ready):
        async with InstrumentClient(ready["control"], timeout=5) as client:
            assert (await client.status()).phase == "idle"
            assert (await client.open_campaign("c", 1e6)).reserved == 400 * 100 + 10
            await client.cancel("a1")
            assert (await client.open_campaign("c", 1e6)).left == 1e6


def test_what_cannot_be_served_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    def refused(*options: str) -> str:
        return refusal(capsys, "striped_microscope:make", "--state-dir", str(tmp_path), *options)

    with zmq.Context() as context, context.socket(zmq.REP) as other:
        other.bind("tcp://127.0.0.1:*")
        taken = other.getsockopt_string(zmq.LAST_ENDPOINT)
        assert f"{taken} is in use by another program" in refused("--control", taken)
    ledger = Ledger(tmp_path)
    assert "is in use by another server" in refused()
    ledger.close()
    assert "is not an endpoint" in refused("--control", "tcp://127.0.0.1:99999")
    assert "needs CURVE keys" in refused("--control", "tcp://*:0")
    assert "needs CURVE keys" in refused("--data", "tcp://0.0.0.0:0")
    assert "clients' public keys is missing" in refused("--secret-key", "scope.key_secret")


@pytest.mark.parametrize(
    ("adapter", "complaint"),
    [
        ("striped_microscope", "is not MODULE:FACTORY"),
        ("no_such_module:make", "No module named"),
        ("striped_microscope:nothing", "has no attribute"),
        ("builtins:dict", "does not implement instrument.Microscope"),
    ],
)
def test_an_adapter_that_is_none_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], adapter: str, complaint: str
):
    assert complaint in refusal(capsys, adapter, "--state-dir", str(tmp_path))
    assert not any(tmp_path.iterdir())


# Keys


async def test_only_listed_keys_get_in(tmp_path: Path):
    _, server_secret = generate_keys(tmp_path / "server", "scope")
    admitted, secret = generate_keys(tmp_path / "agent", "agent")
    _, stranger_secret = generate_keys(tmp_path / "stranger", "stranger")
    clients = tmp_path / "clients"
    clients.mkdir()
    (clients / "agent.key").write_text(admitted.read_text())
    assert secret.stat().st_mode & 0o077 == 0
    server_public = server_secret.with_suffix(".key")
    options = ("--control", "tcp://0.0.0.0:*", "--secret-key", str(server_secret), "--clients", str(clients))
    with server(tmp_path / "state", *options) as (_, ready):
        endpoint = f"tcp://127.0.0.1:{ready['control'].rpartition(':')[2]}"
        keys = ClientKeys.load(secret, server_public)
        async with InstrumentClient(endpoint, keys=keys, timeout=5) as client, client.lease():
            await client.open_campaign("c", 1e6)
            small = PLAN.model_copy(update={"field": Rectangle(y=0, x=0, height=3, width=3)})
            await client.prepare(small)

            class Count:
                frames = 0

                def start(self, header: SeriesStart) -> None:
                    self.frames = 0

                def frame(self, *_: Any) -> None:
                    self.frames += 1

            sink = Count()
            assert (await client.acquire("a1", sink)).state == "done"
            assert sink.frames == 9
            assert (await client.blank()).phase == "safe"
        for keys in (ClientKeys.load(stranger_secret, server_public), None):
            with pytest.raises(UnreachableError):
                async with InstrumentClient(endpoint, keys=keys, timeout=0.5):
                    pass


def test_half_a_key_configuration_is_an_error(tmp_path: Path):
    public, secret = generate_keys(tmp_path, "x")
    assert ServerKeys.load(None, None) is None
    assert ClientKeys.load(None, None) is None
    for load, complaint in (
        (lambda: ServerKeys.load(secret, None), "directory of the clients' public keys is missing"),
        (lambda: ServerKeys.load(None, tmp_path), "server's secret key is missing"),
        (lambda: ServerKeys.load(secret, tmp_path / "empty"), "is not a directory with the public keys"),
        (lambda: ClientKeys.load(secret, None), "server's public key is missing"),
        (lambda: ClientKeys.load(None, public), "client's secret key is missing"),
        (lambda: ClientKeys.load(public, public), "holds no secret key"),
        (lambda: ClientKeys.load(tmp_path / "nothing", public), "is not a key file"),
        (lambda: generate_keys(tmp_path, "x"), "a key is not replaced"),
    ):
        with pytest.raises(MalformedRequestError, match=complaint):
            load()
