"""A column behind Direct Electron's DE-TEM-Channel: SOAP over HTTP, the standard library is enough.

Facts: the service's operations as de-twin answers them. Defocus is in µm, whatever the name of its argument says (a read-back
in the same unit does not tell; the twin's truth did), and positive for overfocus; a beam blanker of 1 is off.
"""

from __future__ import annotations

import asyncio
import re
import threading
import time
import urllib.error
import urllib.request
from types import TracebackType
from typing import Self
from xml.sax.saxutils import escape

from instrument.adapters.parts import confirm
from instrument.models import Condition, Health, Parameter

NAMESPACE = "http://tempuri.org/ns.xsd"
MICROMETRE = 1e4
"""Å."""
TIMEOUT = 5.0
QUICK = 0.008
"""s for which `blank` waits for its answer; the blanker's thread goes on."""
RETRY = 0.05
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
        self._closing = False
        self._wake, self._off = threading.Event(), threading.Event()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._keep_blanking, name="beam blanker", daemon=True)

    def __enter__(self) -> Self:
        self.voltage = self._number("getAccelVoltage")
        self._thread.start()
        self.blank()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.blank()
        self._closing = True
        self._wake.set()
        self._thread.join()

    async def set_defocus(self, defocus: float) -> None:
        """See `Column`."""

        async def write(value: float) -> None:
            await asyncio.to_thread(self._set, "setDefocus", **{"defocus-m": -(value + self._focus) / MICROMETRE})

        async def read() -> float:
            return -MICROMETRE * await asyncio.to_thread(self._number, "getDeFocusValue") - self._focus

        await confirm(write, read, defocus, what="defocus, Å", tolerance=TOLERANCE, limit=TIMEOUT)

    async def unblank(self) -> None:
        """See `Column`. Raises TemChannelError where the blanker stays closed."""
        await asyncio.to_thread(self._unblank)

    def blank(self) -> None:
        """See `Column`: a thread tries until the channel has said that it is done."""
        self._off.clear()
        self._wake.set()
        self._off.wait(QUICK)

    async def health(self) -> Health:
        """Blanker, valves and high tension, as they are read."""
        return await asyncio.to_thread(self._health)

    def _unblank(self) -> None:
        if not self._off.wait(TIMEOUT):
            msg = f"{self._url}: the beam could not be blanked yet, so it is not unblanked"
            raise TemChannelError(msg)
        with self._lock:
            if self._wake.is_set():  # `blank` came meanwhile, and wins
                return
            self._set("setBeamBlank", blank=0)
        if self._number("getBeamBlankState") != 0 and not self._wake.is_set():
            msg = f"{self._url}: the beam was unblanked, but the blanker is read back as closed"
            raise TemChannelError(msg)

    def _keep_blanking(self) -> None:
        while not self._closing:
            self._wake.wait()
            try:
                with self._lock:
                    self._set("setBeamBlank", blank=1)
                    self._wake.clear()
            except TemChannelError:
                time.sleep(RETRY)
                continue
            self._off.set()

    def _health(self) -> Health:
        if self._wake.is_set():
            self._off.wait(TIMEOUT)
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
        request = urllib.request.Request(
            self._url, body.encode(), {"Content-Type": "text/xml; charset=utf-8", "SOAPAction": ""}
        )
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:
                text = answer.read(1 << 20).decode(errors="replace")
        except urllib.error.HTTPError as error:
            msg = f"{self._url}: {operation} failed with {error.code}: {error.read(300)!r}"
            raise TemChannelError(msg) from error
        except OSError as error:
            msg = f"{self._url}: no answer to {operation} ({error}); does the channel run?"
            raise TemChannelError(msg) from error
        return re.findall(r"<(?:\w+:)?\w+(?: [^>]*)?>([^<>]+)</", text)
