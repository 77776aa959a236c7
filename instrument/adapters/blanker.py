"""A beam blanker behind a slow or broken line: blanking is tried until it is done, and always wins over unblanking."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

log = logging.getLogger(__name__)

QUICK = 0.008
"""s for which `blank` waits for its answer; the thread goes on."""
RETRY = 0.05


class Blanker:
    """A thread that blanks.

    Args:
        switch: tells the column to blank (True) or to unblank; raises where it does not.
        closed: whether the column says that the blanker is closed.
        where: the column, for messages.
        limit: s for which `unblank` waits until it has been blanked.
        error: raised by `unblank`.
    """

    def __init__(
        self,
        switch: Callable[[bool], None],
        closed: Callable[[], bool],
        *,
        where: str,
        limit: float,
        error: type[Exception],
    ) -> None:
        self._switch, self._closed = switch, closed
        self._where, self._limit, self._error = where, limit, error
        self._ending = False
        self._wake, self._off = threading.Event(), threading.Event()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._keep_blanking, name="beam blanker", daemon=True)

    def start(self) -> None:
        """Start, with the beam blanked."""
        self._thread.start()
        self.blank()

    def end(self) -> None:
        """Leave the beam blanked, and end."""
        self.blank()
        self._ending = True
        self._wake.set()
        self._thread.join()

    def blank(self) -> None:
        """Blank, from any thread: it is tried until the column has said that it is done."""
        self._off.clear()
        self._wake.set()
        self._off.wait(QUICK)

    def settle(self) -> None:
        """Wait until what was told to blank has blanked."""
        if self._wake.is_set():
            self._off.wait(self._limit)

    def unblank(self) -> None:
        """Unblank, unless `blank` is called meanwhile.

        Raises:
            Exception: of the type `error`: it could not be blanked before, or stays closed.
        """
        if not self._off.wait(self._limit):
            msg = f"{self._where}: the beam could not be blanked yet, so it is not unblanked"
            raise self._error(msg)
        with self._lock:
            if self._wake.is_set():
                return
            self._switch(False)
        if self._closed() and not self._wake.is_set():
            msg = f"{self._where}: the beam was unblanked, but the blanker is read back as closed"
            raise self._error(msg)

    def _keep_blanking(self) -> None:
        while not self._ending:
            self._wake.wait()
            try:
                with self._lock:
                    self._switch(True)
                    self._wake.clear()
            except Exception as error:
                log.debug("%s: the beam is not blanked yet: %s", self._where, error)
                time.sleep(RETRY)
                continue
            self._off.set()
