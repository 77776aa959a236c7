"""Asks the microscope how it is, again and again, and suspends exposures while it is not well."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

from instrument.guard import BeamGuard
from instrument.microscope import Microscope
from instrument.models import Condition, Health
from instrument.suspenders import Suspenders, disk_condition

log = logging.getLogger(__name__)

INTERVAL = 1.0
ANSWER_LIMIT = 10.0
"""s for an answer, after which the microscope counts as unwell."""
STUCK_AFTER = 3
"""Answers in a row that call the beam on although it has been blanked."""


class HealthWatch:
    """Looks at the health of one microscope.

    Args:
        microscope: that is asked.
        guard: that suspends exposures.
        suspenders: that judge.
        folder: of the ledger, whose disk must not be full.
    """

    def __init__(self, microscope: Microscope, guard: BeamGuard, suspenders: Suspenders, folder: Path) -> None:
        self._microscope = microscope
        self._guard = guard
        self._suspenders = suspenders
        self._folder = folder
        self._asked: asyncio.Task[Health] | None = None
        self._beam_on = 0

    async def run(self) -> None:
        """Look every second, until cancelled."""
        try:
            while True:
                await self.look()
                await asyncio.sleep(INTERVAL)
        finally:
            if self._asked is not None:
                self._asked.cancel()

    async def look(self) -> None:
        """Ask once, and suspend or go on."""
        health, more = await self._ask()
        found = [disk_condition(self._folder), *more]
        reason = self._suspenders.judge(health, *found)
        if self._guard.suspend(reason):
            log.warning("suspended: %s", reason or "no longer, exposures are allowed")

    async def _ask(self) -> tuple[Health, list[Condition]]:
        self._asked = self._asked or asyncio.ensure_future(self._microscope.health())
        done, _ = await asyncio.wait({self._asked}, timeout=ANSWER_LIMIT)
        if not done:
            message = f"has not answered for {ANSWER_LIMIT:g} s"
            return Health(blanked=True), [Condition(name="health", ok=False, message=message)]
        asked, self._asked = self._asked, None
        try:
            health = asked.result()
        except Exception as error:
            message = f"cannot be asked ({type(error).__name__}: {error})"[:500]
            return Health(blanked=True), [Condition(name="health", ok=False, message=message)]
        self._beam_on = 0 if health.blanked or self._guard.beam_allowed else self._beam_on + 1
        if self._beam_on > 1 and self._guard.exposing:
            self._guard.go_safe("the microscope calls its beam on in a dry run")
        if self._beam_on < STUCK_AFTER:
            return health, []
        self._guard.blank()
        message = "the microscope calls its beam on although it has been blanked"
        return health, [Condition(name="blanker", ok=False, message=message)]
