"""The beam while frames are delivered: off while nobody wants the next one, and counted while it is on."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from types import TracebackType

HOLD_LIMIT = 0.5
"""s for which a consumer may hold a frame before the beam has to be off."""


class Hold:
    """Helps an adapter to keep its word: the beam goes off where the consumer holds a frame for longer than HOLD_LIMIT.

    Inside `Microscope.acquire`, around every yield: `with hold: yield Frame(index, pattern)`.

    Args:
        pause: turns the beam off, with the scan where it stands.
        go_on: turns it on again; called when the next frame is asked for, and never once the iterator is closed.

    Attributes:
        paused: whether the beam is off because a frame is being held.
    """

    def __init__(self, pause: Callable[[], None], go_on: Callable[[], None]) -> None:
        self._pause, self._go_on = pause, go_on
        self.paused = False

    def __enter__(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(HOLD_LIMIT, self._over)

    def _over(self) -> None:
        self.paused = True
        self._pause()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._timer.cancel()
        if self.paused and kind is None:
            self._go_on()
        self.paused = False


class BeamTime:
    """How long the beam can have been on in one acquisition, as the server sees it; thread-safe.

    It counts from the first frame that is asked for until the beam has been blanked. While a frame is held it counts
    HOLD_LIMIT at most, because the microscope has promised that the beam is off then.

    Args:
        clock: monotonic time, s.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._seconds = 0.0
        self._mark: float | None = None
        self._held = self._over = False

    @property
    def seconds(self) -> float:
        """s so far."""
        with self._lock:
            return self._seconds + self._since_mark()

    def asked(self) -> None:
        """A frame has been asked for; the beam may be on."""
        self._turn(held=False)

    def delivered(self) -> None:
        """A frame has come and is being held."""
        self._turn(held=True)

    def blanked(self) -> None:
        """The beam is off for good; before the first frame was asked for this means nothing."""
        with self._lock:
            if self._mark is not None:
                self._seconds += self._since_mark()
                self._mark, self._over = None, True

    def _turn(self, *, held: bool) -> None:
        with self._lock:
            self._seconds += self._since_mark()
            self._held = held
            self._mark = None if self._over else self._clock()

    def _since_mark(self) -> float:
        if self._mark is None:
            return 0.0
        elapsed = self._clock() - self._mark
        return min(elapsed, HOLD_LIMIT) if self._held else elapsed
