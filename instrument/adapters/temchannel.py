"""A column behind Direct Electron's DE-TEM-Channel: SOAP over HTTP, the standard library is enough.

Facts: the service's operations as de-twin answers them. Defocus is in µm, whatever the name of its argument says (a read-back
in the same unit does not tell; the twin's truth did), and positive for overfocus; a beam blanker of 1 is off.
"""

from __future__ import annotations

import asyncio
import re
from types import TracebackType
from typing import Self
from xml.sax.saxutils import escape

from instrument.adapters.blanker import Blanker
from instrument.adapters.http import ask
from instrument.adapters.parts import confirm
from instrument.models import Condition, Health, Parameter

NAMESPACE = "http://tempuri.org/ns.xsd"
MICROMETRE = 1e4
"""Å."""
TIMEOUT = 5.0
TOLERANCE = 1.0
"""Å by which the read-back of a defocus may differ."""


class TemChannelError(Exception):
    """The channel refused, or does not answer."""


class TemChannelColumn:
    """A `Column`. A context manager, which starts with the beam blanked and leaves it so.

    Args:
        url: of the service, "http://192.168.1.20:5002/".
        semiangle: convergence semi-angle, mrad, as calibrated.
        beam_current: pA, as measured.
        defocus: legal values, Å, positive for underfocus.
        focus: defocus that the channel reads where the specimen is in focus, Å underfocus.

    Attributes:
        voltage, semiangle, beam_current, defocus: see `Column`.
    """

    def __init__(
        self, url: str, *, semiangle: float, beam_current: float, defocus: Parameter, focus: float = 0.0
    ) -> None:
        self._url = url
        self.semiangle, self.beam_current, self.defocus = semiangle, beam_current, defocus
        self._focus = focus
        self._blanker = Blanker(
            lambda blanked: self._set("setBeamBlank", blank=int(blanked)),
            lambda: self._number("getBeamBlankState") != 0,
            where=url,
            limit=TIMEOUT,
            error=TemChannelError,
        )

    def __enter__(self) -> Self:
        self.voltage = self._number("getAccelVoltage")
        self._blanker.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._blanker.end()

    async def set_defocus(self, defocus: float) -> None:
        """See `Column`."""

        async def write(value: float) -> None:
            await asyncio.to_thread(self._set, "setDefocus", **{"defocus-m": -(value + self._focus) / MICROMETRE})

        async def read() -> float:
            return -MICROMETRE * await asyncio.to_thread(self._number, "getDeFocusValue") - self._focus

        await confirm(write, read, defocus, what="defocus, Å", tolerance=TOLERANCE, limit=TIMEOUT)

    async def unblank(self) -> None:
        """See `Column`. Raises TemChannelError where the blanker stays closed."""
        await asyncio.to_thread(self._blanker.unblank)

    def blank(self) -> None:
        """See `Column`: a thread tries until the channel has said that it is done."""
        self._blanker.blank()

    async def health(self) -> Health:
        """Blanker, valves and high tension, as they are read."""
        return await asyncio.to_thread(self._health)

    def _health(self) -> Health:
        self._blanker.settle()
        try:
            valves, tension = self._number("getColumnValveStatus"), self._number("getAccelVoltage")
            blanked = self._number("getBeamBlankState") != 0
        except TemChannelError as error:
            return Health(blanked=False, ok=False, message=str(error)[:500])
        return Health(
            blanked=blanked,
            conditions=(
                Condition(name="column valves", ok=valves != 0, message="closed"),
                Condition(
                    name="high tension", value=tension, unit="V", low=0.999 * self.voltage, high=1.001 * self.voltage
                ),
            ),
        )

    def _set(self, operation: str, **arguments: float) -> None:
        if "1" not in self._call(operation, **arguments):
            told = ", ".join(f"{name} {value:g}" for name, value in arguments.items())
            msg = f"{self._url}: {operation} {told} was refused"
            raise TemChannelError(msg)

    def _number(self, operation: str) -> float:
        (found,) = self._call(operation) or ("",)
        try:
            return float(found)
        except ValueError as error:
            msg = f"{self._url}: {operation} answered {found!r}, which is no number"
            raise TemChannelError(msg) from error

    def _call(self, operation: str, **arguments: float) -> list[str]:
        """The values of an answer, in order."""
        inside = "".join(f"<{name}>{escape(f'{value:.9g}')}</{name}>" for name, value in arguments.items())
        body = (
            '<?xml version="1.0" encoding="UTF-8"?>'
            f'<SOAP-ENV:Envelope xmlns:SOAP-ENV="http://schemas.xmlsoap.org/soap/envelope/" xmlns:ns="{NAMESPACE}">'
            f"<SOAP-ENV:Body><ns:{operation}>{inside}</ns:{operation}></SOAP-ENV:Body></SOAP-ENV:Envelope>"
        )
        content = ask(
            "POST",
            self._url,
            body.encode(),
            headers={"Content-Type": "text/xml; charset=utf-8", "SOAPAction": ""},
            timeout=TIMEOUT,
            what=f"{self._url}: {operation}",
            hint="does the channel run?",
            error=TemChannelError,
        )
        text = content.decode(errors="replace")
        return re.findall(r"<(?:\w+:)?\w+(?: [^>]*)?>([^<>]+)</", text)
