"""Run an instrument server as a process: one line of JSON when it is ready, beam off and a clean end on any signal."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import AsyncExitStack, ExitStack, contextmanager
from pathlib import Path
from typing import Any

from instrument.errors import BadInputError, InstrumentError
from instrument.heartbeat import Heartbeat, SystemdNotifier, WatchdogLink
from instrument.keys import ServerKeys
from instrument.metrics import MetricsAddress, ServerCollector, exposing_metrics
from instrument.microscope import Microscope
from instrument.server import SHUT_DOWN, InstrumentServer
from instrument.suspenders import HOLD
from instrument.terms import OwnersLimits
from instrument.text import OneLine

log = logging.getLogger(__name__)

EXIT_BAD_INPUT = 2
LEGACY_HELP = "tcp://127.0.0.1:PORT of a copy of the frames for programs that read DECTRIS Stream V1 (LiberTEM-live)"
WATCHDOG_HELP = (
    "a second process that turns the beam off when this one dies or hangs: the MODULE:ATTRIBUTE that it calls, or the "
    "path of the UNIX socket of a watchdog that runs as a service"
)

_LEFT_ALONE = (
    # Cannot be caught.
    "SIGKILL",
    "SIGSTOP",
    # The process is broken: Python runs no handler, and returning from one would repeat the fault for ever.
    "SIGSEGV",
    "SIGBUS",
    "SIGFPE",
    "SIGILL",
    # Harmless: by default they are ignored, or they continue a process that was stopped.
    "SIGCHLD",
    "SIGCLD",
    "SIGCONT",
    "SIGURG",
    "SIGWINCH",
    "SIGINFO",
)
_IGNORED = ("SIGTTIN", "SIGTTOU")  # would suspend a server in the background, with its lease and its beam


def serve(
    microscope: Microscope,
    state_dir: Path,
    control: str = "tcp://127.0.0.1:*",
    *,
    safe: str | None = None,
    data: str | None = None,
    name: str | None = None,
    keys: ServerKeys | None = None,
    watchdog: str | None = None,
    hold: float = HOLD,
    legacy: str | None = None,
    backup: Path | None = None,
    metrics: str | None = None,
    data_faults: Callable[[bytes], Iterable[bytes]] | None = None,
    limits: Path | None = None,
    dry_run: bool = False,
) -> int:
    """Serve `microscope` until a signal comes, then blank, book what ran and end.

    When bound, a line of JSON goes to standard output: {"ready": true, "control": …, "safe": …, "data": …, "name": …}.
    What cannot be served (a port or state directory in use) is one line on standard error. Main thread only.

    Args:
        microscope: the instrument.
        state_dir: directory of the ledger; made if missing.
        control: endpoint of the commands; port `*` takes a free one.
        watchdog: MODULE:ATTRIBUTE of a blanker for a second process, or the UNIX socket of one that runs.
        metrics: PORT or ADDRESS:PORT at which Prometheus finds `/metrics`; None: none.
        limits: TOML file of the owner, narrower than the microscope's; None: its own.
        safe, data, name, keys, hold, legacy, backup, data_faults, dry_run: as of `InstrumentServer`.

    Returns:
        The exit code of the process: 0 after a signal, EXIT_BAD_INPUT for what cannot be served.
    """
    _log_to_stderr()
    try:
        with ExitStack() as stack:
            systemd, heartbeats = _heartbeats(watchdog, stack)
            server = InstrumentServer(
                microscope,
                state_dir=state_dir,
                control=control,
                safe=safe,
                data=data,
                name=name,
                keys=keys,
                heartbeats=heartbeats,
                hold=hold,
                legacy=legacy,
                backup=backup,
                data_faults=data_faults,
                limits=None if limits is None else OwnersLimits.read(limits),
                dry_run=dry_run,
            )
            asyncio.run(_serve(server, systemd, metrics))
    except (BadInputError, InstrumentError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_BAD_INPUT
    return 0


def _heartbeats(watchdog: str | None, stack: ExitStack) -> tuple[SystemdNotifier, list[Heartbeat]]:
    systemd = SystemdNotifier()
    heartbeats: list[Heartbeat] = [systemd]
    if watchdog is not None:
        heartbeats.append(WatchdogLink.open(watchdog))
    for each in heartbeats:
        stack.callback(each.close)
    return systemd, heartbeats


def _log_to_stderr() -> None:
    lines = logging.StreamHandler()
    lines.setFormatter(OneLine("%(asctime)s %(levelname)s %(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[lines])


async def _serve(server: InstrumentServer, systemd: SystemdNotifier, metrics: str | None) -> None:
    where = None if metrics is None else MetricsAddress.parse(metrics)
    stop, ready = asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()

    def shut_down() -> None:
        try:
            if ready.is_set():
                server.stop_beam(SHUT_DOWN)
        finally:
            loop.call_soon_threadsafe(stop.set)

    with _on_ending_signals(shut_down):
        async with server, AsyncExitStack() as stack:
            ready.set()
            if where is not None:
                collector = ServerCollector(server.figures)
                await stack.enter_async_context(exposing_metrics(where, lambda known: known.register(collector)))
            greeting = {
                "ready": True,
                "control": server.control,
                "safe": server.safe,
                "data": server.data,
                "name": server.name,
            }
            if server.dry_run:
                log.warning("dry run: the beam stays blanked, and what agents get are patterns that are made up")
            print(json.dumps(greeting), flush=True)
            systemd.tell("READY=1")
            await stop.wait()


def ending_signals() -> set[int]:
    """Numbers of the signals that would end or suspend the process, and can be caught by a process that is well."""
    spared = {getattr(signal, name) for name in (*_LEFT_ALONE, *_IGNORED) if hasattr(signal, name)}
    return {int(number) for number in signal.valid_signals() if number not in spared}


@contextmanager
def _on_ending_signals(act: Callable[[], None]) -> Iterator[None]:
    """While open, every ending signal calls `act` in a thread: the main one may be stuck, or hold a lock that `act` needs.

    Signals that were ignored from the start (by nohup, for example) stay ignored.
    """
    ear, mouth = socket.socketpair()
    mouth.setblocking(False)

    def pass_on(number: int, _: object) -> None:
        with contextlib.suppress(OSError):
            mouth.send(bytes([number]))

    before: dict[int, Any] = {}
    for number in ending_signals():
        if signal.getsignal(number) not in {signal.SIG_IGN, None}:
            # Not loop.add_signal_handler, which Windows does not have.
            before[number] = signal.signal(number, pass_on)
    for name in _IGNORED:
        if hasattr(signal, name):
            before[getattr(signal, name)] = signal.signal(getattr(signal, name), signal.SIG_IGN)
    # The interpreter writes there at once; `pass_on` has to wait until the main thread runs Python again.
    wakeup_before = signal.set_wakeup_fd(mouth.fileno(), warn_on_full_buffer=False)
    thread = threading.Thread(target=_listen, args=(ear, act), name="signals")
    thread.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(wakeup_before)
        for number, handler in before.items():
            signal.signal(number, handler)
        mouth.close()
        thread.join()
        ear.close()


def _listen(ear: socket.socket, act: Callable[[], None]) -> None:
    while numbers := ear.recv(64):
        if ending_signals().isdisjoint(numbers):
            continue
        try:
            act()
        except Exception:
            log.exception("the beam could not be blanked; the guard goes on trying")
