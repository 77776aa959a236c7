"""Signs of life of a server, for what turns the beam off when they cease: a watchdog, systemd, a hardware line."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Protocol

from instrument.errors import MalformedRequestError
from instrument.watchdog import (
    BLANKED,
    EXPOSING,
    FAREWELL,
    HEARTBEAT_LIMIT,
    IDLE,
    load_blanker,
)


class HeartbeatError(Exception):
    """Nobody would turn the beam off if this process died: the instrument has to be in SAFE."""


class Heartbeat(Protocol):
    """Somebody who wants to hear regularly that the server is alive."""

    def beat(self, *, exposing: bool) -> None:
        """Give a sign of life. Called from the guard's thread, ten times a second.

        Args:
            exposing: whether the beam may be on.

        Raises:
            HeartbeatError: the beam must not be on any more.
        """
        ...

    def close(self) -> None:
        """The server ends in order, with its beam off."""
        ...


class WatchdogLink:
    """The way to the watchdog's process.

    Args:
        link: connected socket.
        process: the watchdog, where this server has started it.
        clock: monotonic time, s.
    """

    def __init__(
        self,
        link: socket.socket,
        process: subprocess.Popen[bytes] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        link.setblocking(False)
        self._link = link
        self._process = process
        self._clock = clock
        self._heard = clock()

    @classmethod
    def open(cls, where: str) -> WatchdogLink:
        """Start a watchdog, or connect to one that runs as a service.

        Args:
            where: MODULE:ATTRIBUTE of a blanker for a watchdog of one's own, or the path of a watchdog's UNIX socket.

        Raises:
            MalformedRequestError: nobody listens there, or there is no such blanker.
        """
        if os.name == "nt":
            msg = "--watchdog needs UNIX sockets; on Windows use a hardware line that needs a heartbeat"
            raise MalformedRequestError(msg)
        if "/" in where or where.endswith(".sock"):
            link = socket.socket(socket.AF_UNIX)
            try:
                link.connect(where)
            except OSError as error:
                link.close()
                msg = (
                    f"no watchdog listens at {where} ({error.strerror}); start it first: python -m instrument watchdog"
                )
                raise MalformedRequestError(msg) from error
            return cls(link)
        load_blanker(where)
        link, far = socket.socketpair()
        command = [sys.executable, "-m", "instrument", "watchdog", where, "--fd", str(far.fileno())]
        with far:
            # In a session of its own: a closed terminal, or a kill of the group, does not take it along.
            process = subprocess.Popen(
                command, pass_fds=[far.fileno()], start_new_session=True, stdin=subprocess.DEVNULL
            )
        link.sendall(IDLE)
        link.settimeout(30.0)
        if not link.recv(1):
            process.wait()
            link.close()
            msg = f"the watchdog with the blanker {where} did not start; its message is above"
            raise MalformedRequestError(msg)
        return cls(link, process)

    def beat(self, *, exposing: bool) -> None:
        """Say that the server lives, and listen to the answers.

        Args:
            exposing: whether the beam may be on.

        Raises:
            HeartbeatError: the watchdog has blanked, is gone, or does not answer.
        """
        try:
            self._link.send(EXPOSING if exposing else IDLE)
            answers = self._link.recv(1024)
        except BlockingIOError:
            answers = None
        except OSError:
            answers = b""
        if answers == b"":
            msg = "the watchdog is gone"
            raise HeartbeatError(msg)
        now = self._clock()
        if answers is not None:
            self._heard = now
            if BLANKED in answers:
                msg = "the watchdog has blanked, because this process was silent"
                raise HeartbeatError(msg)
        elif now - self._heard > 2 * HEARTBEAT_LIMIT:
            msg = f"the watchdog has not answered for {now - self._heard:.1f} s"
            raise HeartbeatError(msg)

    def close(self) -> None:
        """Tell the watchdog that this is an orderly end."""
        with contextlib.suppress(OSError):
            self._link.send(FAREWELL)
        self._link.close()
        if self._process is not None:
            self._process.wait()


class SystemdNotifier:
    """systemd's `Type=notify` and `WatchdogSec=`: a unit whose heartbeat stops is killed, and its ExecStopPost blanks.

    Does nothing where the process was not started by systemd. See sd_notify(3).
    """

    def __init__(self) -> None:
        self._path = os.environ.get("NOTIFY_SOCKET", "")
        interval = int(os.environ.get("WATCHDOG_USEC", "0"))
        mine = os.environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        self._interval = 0.25e-6 * interval if mine else 0.0
        self._last = 0.0

    def tell(self, state: str) -> None:
        """Send a state, like READY=1."""
        if not self._path:
            return
        address = "\0" + self._path[1:] if self._path.startswith("@") else self._path
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
            notify.setblocking(False)
            notify.sendto(state.encode(), address)

    def beat(self, *, exposing: bool) -> None:
        """Send WATCHDOG=1, four times in the interval that systemd has asked for."""
        if self._interval and (now := time.monotonic()) - self._last >= self._interval:
            self._last = now
            self.tell("WATCHDOG=1")

    def close(self) -> None:
        """Send STOPPING=1."""
        self.tell("STOPPING=1")


class HardwareLine:
    """A line that keeps the beam on only as long as it is pulsed, by the adapter's `heartbeat`.

    Args:
        pulse: gives one pulse.
    """

    def __init__(self, pulse: Callable[[], None]) -> None:
        self._pulse = pulse

    def beat(self, *, exposing: bool) -> None:
        """Pulse the line, whether or not the beam is wanted.

        Raises:
            HeartbeatError: the adapter cannot.
        """
        try:
            self._pulse()
        except Exception as error:
            msg = f"the heartbeat line cannot be pulsed ({type(error).__name__}: {error})"
            raise HeartbeatError(msg) from error

    def close(self) -> None:
        """Nothing more is pulsed, and the line falls."""
