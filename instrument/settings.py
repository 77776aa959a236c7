"""Settings that are set, read back and confirmed before the beam is on, and put back when nobody commands any more."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping

from instrument.errors import SettingsError
from instrument.microscope import Microscope, ReadsBack
from instrument.models import AcquisitionPlan, Description

log = logging.getLogger(__name__)

ATTEMPTS = 2
LIMIT = 20.0
"""s for setting and reading back, besides settling."""


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

    @property
    def changed(self) -> bool:
        """Whether something has been set that is to be put back."""
        return bool(self._before)

    async def confirm(self, plan: AcquisitionPlan, description: Description) -> None:
        """Set the column as a plan wants it, let it settle, and read it back; the beam is off meanwhile.

        Args:
            plan: that is to be exposed.
            description: of the instrument; its tolerances and settle time.

        Raises:
            SettingsError: twice it has not become what it has to be; the instrument is in SAFE.
        """
        if self._column is None:
            return
        self._tolerances = description.tolerances
        if not self._before:
            self._before = dict(await self._column.read_back())
        if wrong := await self._set({"defocus": plan.defocus}, description.settle_time):
            self._go_safe(wrong)
            raise SettingsError(f"{wrong}; nothing was exposed")

    async def restore(self) -> None:
        """Put back what was set before the first exposure; where that fails the log says so, and nobody is kept waiting."""
        if self._column is None:
            return
        before, self._before = self._before, {}
        wanted = {name: value for name, value in before.items() if name in self._tolerances}
        if wrong := await self._set(wanted, 0.0):
            log.warning("the settings of before could not be put back: %s", wrong)

    async def _set(self, wanted: Mapping[str, float], settle_time: float) -> str:
        """Set and read back; what is wrong in the end, as a phrase."""
        assert self._column is not None
        wrong = ""
        for _ in range(ATTEMPTS):
            try:
                async with asyncio.timeout(settle_time + LIMIT):
                    await self._column.set(wanted)
                    await asyncio.sleep(settle_time)
                    wrong = self._difference(wanted, await self._column.read_back())
            except TimeoutError:
                return f"{', '.join(wanted)} could not be set within {LIMIT:g} s"
            except Exception as error:
                wrong = f"{', '.join(wanted)} could not be set ({type(error).__name__}: {error})"
            if not wrong:
                break
        return wrong

    def _difference(self, wanted: Mapping[str, float], found: Mapping[str, float]) -> str:
        for name, value in wanted.items():
            tolerance, is_now = self._tolerances.get(name), found.get(name)
            if tolerance is None or (is_now is not None and abs(is_now - value) <= tolerance):
                continue
            told = "is not told" if is_now is None else f"is {is_now:g}"
            return f"{name} was set to {value:g} and {told}, although {tolerance:g} is the most that it may differ"
        return ""
