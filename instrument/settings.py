"""Settings that are set, read back and confirmed before the beam is on, and put back when nobody commands any more.

A setting with a slew is walked in portions. A beam stop is in while nothing is exposed.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping

from instrument.errors import SettingsError
from instrument.limits import needs_beam_stop
from instrument.microscope import Microscope, ReadsBack
from instrument.models import LONGEST_WALK, Description, Slew
from instrument.status import LedgerEntry

log = logging.getLogger(__name__)

ATTEMPTS = 2
LIMIT = 20.0
"""s for setting and reading back, besides walking and settling."""
STOP = "beam_stop"
APERTURE = "semiangle"
IN, OUT = 1.0, 0.0


class Settings:
    """Sets what a plan asks of the column, where the microscope can be asked what it is set to.

    Args:
        microscope: any; one that does not read back is left to set things itself.
        go_safe: told why, where a setting does not become what it has to be.
    """

    def __init__(self, microscope: Microscope, go_safe: Callable[[str], None]) -> None:
        self._column = microscope if isinstance(microscope, ReadsBack) else None
        self._go_safe = go_safe
        self._before: dict[str, float] = {}
        self._tolerances: Mapping[str, float] = {}
        self._slews: Mapping[str, Slew] = {}
        # Nobody knows where a beam stop is when the server starts.
        self._stop_out = self._column is not None

    def unrested(self, *, held: bool) -> bool:
        """Whether there is something to be put back.

        Args:
            held: whether somebody has the lease.
        """
        return self._stop_out or (bool(self._before) and not held)

    async def confirm(self, entry: LedgerEntry, description: Description) -> None:
        """Set the column as a plan wants it, let it settle, and read it back; the beam is off meanwhile.

        Args:
            entry: that is to be exposed.
            description: of the instrument; its tolerances, slews and settle time.

        Raises:
            SettingsError: twice it has not become what it has to be; the instrument is in SAFE.
        """
        if self._column is None:
            return
        self._learn(description)
        if not self._before:
            self._before = dict(await self._column.read_back())
        wanted = {"defocus": entry.plan.defocus}
        if description.apertures:
            wanted[APERTURE] = entry.plan.semiangle or description.semiangle
        if description.beam_stop is not None:
            inside = entry.check.beam_stop or needs_beam_stop(entry.plan, entry.check, description)
            wanted[STOP], self._stop_out = (IN, False) if inside else (OUT, True)
        if wrong := await self._set(wanted, description.settle_time):
            self._go_safe(wrong)
            raise SettingsError(f"{wrong}; nothing was exposed")

    def _learn(self, description: Description) -> None:
        self._tolerances = {STOP: 0.5} | description.tolerances
        self._slews = description.slews

    async def rest(self, description: Description, *, held: bool) -> None:
        """Put the beam stop in; and where nobody commands any more what was set before the first exposure.

        Where the latter fails the log says so, and nobody is kept waiting.

        Args:
            description: of the instrument.
            held: whether somebody has the lease.
        """
        if self._column is None:
            return
        self._learn(description)
        if self._stop_out:
            self._stop_out = False
            if description.beam_stop is not None and (wrong := await self._set({STOP: IN}, 0.0)):
                self._go_safe(f"the beam stop cannot be put in: {wrong}")
        if held or not self._before:
            return
        before, self._before = self._before, {}
        wanted = {name: value for name, value in before.items() if name in self._tolerances and name != STOP}
        if wrong := await self._set(wanted, 0.0):
            log.warning("the settings of before could not be put back: %s", wrong)

    async def _set(self, wanted: Mapping[str, float], settle_time: float) -> str:
        """Set and read back; what is wrong in the end, as a phrase."""
        assert self._column is not None
        wrong = ""
        for _ in range(ATTEMPTS):
            try:
                async with asyncio.timeout(settle_time + LIMIT + (LONGEST_WALK if self._slews else 0.0)):
                    await self._walk(wanted)
                    await asyncio.sleep(settle_time)
                    wrong = self._difference(wanted, await self._column.read_back())
            except TimeoutError:
                return f"{', '.join(wanted)} could not be set within {LIMIT:g} s"
            except Exception as error:
                wrong = f"{', '.join(wanted)} could not be set ({type(error).__name__}: {error})"
            if not wrong:
                break
        return wrong

    async def _walk(self, wanted: Mapping[str, float]) -> None:
        """Set at once what may change at once, and the rest in portions from where it is."""
        assert self._column is not None
        if quick := {name: value for name, value in wanted.items() if name not in self._slews}:
            await self._column.set(quick)
        slow = {name: value for name, value in wanted.items() if name in self._slews}
        found = await self._column.read_back() if slow else {}
        for name, value in slow.items():
            slew, change = self._slews[name], value - found[name]
            portions = slew.portions(change)
            for number in range(1, portions + 1):
                await self._column.set({name: value - change * (1 - number / portions)})
                await asyncio.sleep(slew.duration(change) / portions)

    def _difference(self, wanted: Mapping[str, float], found: Mapping[str, float]) -> str:
        for name, value in wanted.items():
            tolerance, is_now = self._tolerances.get(name), found.get(name)
            if tolerance is None or (is_now is not None and abs(is_now - value) <= tolerance):
                continue
            told = "is not told" if is_now is None else f"is {is_now:g}"
            return f"{name} was set to {value:g} and {told}, although {tolerance:g} is the most that it may differ"
        return ""
