"""How a person or a limit ends a running campaign: between two steps, or at once with the beam off."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Awaitable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from agent.errors import StoppedError

T = TypeVar("T")


class Control:
    """Requests to stop. `stop` may be called from the event loop at any time; the first reason stays.

    A campaign asks `check` between its steps and waits for everything that takes long through `unless_stopped`.
    """

    def __init__(self) -> None:
        self._reason = ""
        self._now = asyncio.Event()
        self._any = asyncio.Event()

    @property
    def reason(self) -> str:
        """Why the campaign is to stop; "" while it may go on."""
        return self._reason

    def stop(self, reason: str, *, now: bool) -> None:
        """Ask the campaign to stop.

        Args:
            reason: told to whoever waits for the campaign; the first one stays.
            now: at once, a running exposure is aborted and the beam is off; otherwise after the running acquisition.
        """
        self._reason = self._reason or reason
        self._any.set()
        if now:
            self._now.set()

    def check(self) -> None:
        """Raise StoppedError where a stop was asked for."""
        if self._reason:
            raise StoppedError(self._reason)

    async def wait_now(self) -> None:
        """Return when the campaign is to stop at once."""
        await self._now.wait()

    async def wait_any(self) -> None:
        """Return when the campaign is to stop, at once or later."""
        await self._any.wait()

    async def unless_stopped(self, work: Awaitable[T]) -> T:
        """Wait for something that takes long.

        Args:
            work: cancelled where a stop at once comes first.

        Returns:
            The result of `work`.

        Raises:
            StoppedError: a stop at once came first.
        """
        task = asyncio.ensure_future(work)
        stop = asyncio.ensure_future(self._now.wait())
        try:
            await asyncio.wait({task, stop}, return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                self.check()
            return task.result()
        finally:
            unfinished = [future for future in (task, stop) if not future.done()]
            for future in unfinished:
                future.cancel()
            await asyncio.gather(*unfinished, return_exceptions=True)


@contextmanager
def stop_on_signals(control: Control) -> Iterator[None]:
    """Ctrl-C and SIGTERM stop the campaign cleanly; a second one has its usual effect."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    loop = asyncio.get_running_loop()

    def on_signal(number: signal.Signals) -> None:
        control.stop(f"stopped by {number.name}", now=True)
        for each in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(each)

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, on_signal, number)
    try:
        yield
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)
