"""A second process that turns the beam off when the server's heartbeat stops: after SIGKILL, SIGSTOP, a fault, a hang.

The server sends a byte ten times a second: EXPOSING, IDLE, or FAREWELL at an orderly end. Each is answered with one byte,
GUARDING or BLANKED. Silence for HEARTBEAT_LIMIT, or an end without farewell, blanks; so does every EXPOSING afterwards,
until the server has said IDLE: what was continued after a stop does not get its beam back.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Callable
from operator import attrgetter
from pathlib import Path

from instrument.errors import ConflictError, MalformedRequestError

log = logging.getLogger(__name__)

EXPOSING, IDLE, FAREWELL = b"E", b"I", b"F"
GUARDING, BLANKED = b"g", b"b"
HEARTBEAT_INTERVAL = 0.1
HEARTBEAT_LIMIT = 0.7
"""s of silence after which the beam goes off."""
_RETRY = 0.1


def load_blanker(specification: str) -> Callable[[], object]:
    """Import what turns the beam off.

    Args:
        specification: MODULE:ATTRIBUTE, called without arguments, in the watchdog's process.

    Returns:
        The callable.

    Raises:
        MalformedRequestError: the specification names nothing that can be imported and called.
    """
    module, separator, attribute = specification.partition(":")
    if not separator:
        msg = f"{specification!r} is not MODULE:ATTRIBUTE, like mylab.blanker:blank"
        raise MalformedRequestError(msg)
    try:
        found = attrgetter(attribute)(importlib.import_module(module))
    except (ImportError, AttributeError) as error:
        msg = f"{specification}: {error}"
        raise MalformedRequestError(msg) from error
    if not callable(found):
        msg = f"{specification} is a {type(found).__name__}, which cannot be called to turn the beam off"
        raise MalformedRequestError(msg)
    blank: Callable[[], object] = found
    return blank


class Watchdog:
    """Listens to the heartbeat of one server at a time.

    Args:
        blank: turns the beam off.
    """

    def __init__(self, blank: Callable[[], object]) -> None:
        self._blank = blank

    def blank(self, reason: str, level: int = logging.WARNING) -> None:
        """Turn the beam off, however often that has to be tried.

        Args:
            reason: for the log.
            level: of its importance.
        """
        log.log(level, "blanking: %s", reason)
        while True:
            try:
                self._blank()
            except Exception:
                log.exception("the beam could not be blanked; trying again")
                time.sleep(_RETRY)
            else:
                return

    def guard(self, server: socket.socket) -> None:
        """Guard the beam of one server until it is gone.

        Args:
            server: connected; closed by the caller.
        """
        said, blanked = IDLE, False
        while True:
            if not select.select([server], [], [], HEARTBEAT_LIMIT)[0]:
                if not blanked:
                    level = logging.WARNING if said == EXPOSING else logging.INFO
                    self.blank(f"the server has been silent for {HEARTBEAT_LIMIT:g} s", level)
                blanked = True
                continue
            try:
                said = server.recv(1)
            except OSError:
                said = b""
            if said == FAREWELL:
                return
            if not said:
                self.blank("the server is gone")
                return
            if said == IDLE:
                blanked = False
            elif blanked:
                self.blank("the server goes on exposing after it had been silent")
            with contextlib.suppress(OSError):
                server.send(BLANKED if blanked else GUARDING)


def guard_inherited(blank: Callable[[], object], number: int) -> None:
    """Guard the beam of the server that has started this process, until it is gone.

    Args:
        blank: turns the beam off.
        number: file descriptor of the socket that leads to it.
    """
    watchdog = Watchdog(blank)
    _blank_at_end(watchdog)
    with socket.socket(fileno=number) as server:
        watchdog.guard(server)


def guard_listening(blank: Callable[[], object], path: Path) -> None:
    """Guard the beam of one server after the other, as a service of its own; returns never.

    Args:
        blank: turns the beam off; called at the start, too.
        path: UNIX socket at which servers connect.

    Raises:
        ConflictError: another watchdog listens there.
    """
    watchdog = Watchdog(blank)
    _blank_at_end(watchdog)
    with socket.socket(socket.AF_UNIX) as listener:
        _bind(listener, path)
        watchdog.blank("the watchdog has started", logging.INFO)
        print(f'{{"ready": true, "socket": "{path}"}}', flush=True)
        while True:
            server, _ = listener.accept()
            with server:
                watchdog.guard(server)


def _bind(listener: socket.socket, path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as probe:
        if probe.connect_ex(str(path)) == 0:
            msg = f"{path} is in use by another watchdog; stop it or give another path"
            raise ConflictError(msg)
    path.unlink(missing_ok=True)
    listener.bind(str(path))
    os.chmod(path, 0o600)
    listener.listen(1)


def _blank_at_end(watchdog: Watchdog) -> None:
    """A watchdog that is told to end takes the beam with it: nobody would guard it any more."""

    def end(number: int, _: object) -> None:
        watchdog.blank(f"the watchdog was ended by signal {number}")
        sys.exit(0)

    for name in ("SIGTERM", "SIGINT", "SIGHUP", "SIGQUIT"):
        signal.signal(getattr(signal, name), end)
