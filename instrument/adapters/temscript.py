"""A Thermo Fisher column behind temscript's server (BSD): JSON over HTTP, the standard library is enough.

Facts: temscript 2.1.0. Lengths in m, angles in rad, tension in kV. Its server knows no keys and offers pickles to whoever asks:
it is asked for JSON only, and on this machine only, so run the instrument server on the microscope's PC, or reach it through a
tunnel. `--host 127.0.0.1` keeps temscript's server off the network. Its documentation does not say which sign the probe's defocus
has; the objective lens counts overfocus positive. Find out with a scan at either side of focus, and say so (`underfocus`).
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
from types import TracebackType
from typing import Any, Literal, Self
from urllib.parse import urlsplit

from instrument.adapters.blanker import Blanker
from instrument.adapters.http import ask
from instrument.adapters.parts import confirm
from instrument.errors import BadInputError
from instrument.models import Condition, Health, Parameter

METRE = 1e10
"""Å."""
TIMEOUT = 5.0
TOLERANCE = 1.0
"""Å by which the read-back of a defocus may differ."""
OLDEST = 2
"""Major version of the server."""


class TemscriptError(Exception):
    """The column refused, or its server does not answer."""


class TemscriptColumn:
    """A `Column`. A context manager, which starts with the beam blanked and leaves it so.

    Args:
        url: of temscript's server on this machine, "http://127.0.0.1:8080".
        beam_current: pA, as measured.
        defocus: legal values, Å, positive for underfocus.
        semiangle: mrad, as calibrated; None: what the column says.
        focus: defocus that the column reads where the specimen is in focus, Å underfocus.
        underfocus: sign of the column's defocus for underfocus.
        setting: which defocus: the probe's (columns of the Titan family in STEM) or the objective lens's.
        screen_up: whether the fluorescent screen has to be lifted for the camera to see.

    Attributes:
        voltage, semiangle, beam_current, defocus: see `Column`.
    """

    def __init__(
        self,
        url: str = "http://127.0.0.1:8080",
        *,
        beam_current: float,
        defocus: Parameter,
        semiangle: float | None = None,
        focus: float = 0.0,
        underfocus: Literal[1, -1] = -1,
        setting: Literal["probe_defocus", "defocus"] = "probe_defocus",
        screen_up: bool = True,
    ) -> None:
        _require_this_machine(url)
        self._url = url.rstrip("/")
        self.beam_current, self.defocus = beam_current, defocus
        self._semiangle, self._focus, self._sign = semiangle, focus, underfocus
        self._setting, self._screen_up = setting, screen_up
        self._blanker = Blanker(
            lambda blanked: self._put("beam_blanked", blanked),
            lambda: self._get("beam_blanked") is not False,
            where=self._url,
            limit=TIMEOUT,
            error=TemscriptError,
        )

    def __enter__(self) -> Self:
        version = str(self._get("version"))
        major = version.partition(".")[0]
        if not major.isdigit() or int(major) < OLDEST:
            msg = f"{self._url}: temscript {version!r}; {OLDEST}.0 or newer is needed"
            raise TemscriptError(msg)
        self.voltage = 1e3 * self._number("voltage")
        told = self._semiangle
        self.semiangle = 1e3 * self._number("convergence_angle") if told is None else told
        self._blanker.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._blanker.end()

    async def set_defocus(self, defocus: float) -> None:
        """See `Column`."""

        async def write(value: float) -> None:
            await asyncio.to_thread(self._put, self._setting, self._sign * (value + self._focus) / METRE)

        async def read() -> float:
            return self._sign * METRE * await asyncio.to_thread(self._number, self._setting) - self._focus

        await confirm(write, read, defocus, what="defocus, Å", tolerance=TOLERANCE, limit=TIMEOUT)

    async def unblank(self) -> None:
        """See `Column`. Raises TemscriptError where the blanker stays closed."""
        await asyncio.to_thread(self._blanker.unblank)

    def blank(self) -> None:
        """See `Column`: it is tried until the column has said that it is done."""
        self._blanker.blank()

    async def close_valves(self) -> None:
        """Close the column's valves, and confirm it. Opening them is left to a person at the microscope."""
        await asyncio.to_thread(self._put, "column_valves_open", False)
        if await asyncio.to_thread(self._get, "column_valves_open") is not False:
            msg = f"{self._url}: the column valves were told to close, but are read back as open"
            raise TemscriptError(msg)

    async def health(self) -> Health:
        """Blanker, vacuum, valves, screen and high tension, as they are read."""
        return await asyncio.to_thread(self._health)

    def _health(self) -> Health:
        self._blanker.settle()
        try:
            vacuum, tension = self._get("vacuum"), 1e3 * self._number("voltage")
            screen = self._get("screen_position") if self._screen_up else "UP"
            blanked = self._get("beam_blanked") is True
            status, valves = str(vacuum["status"]), vacuum["column_valves_open"]
        except (TemscriptError, TypeError, KeyError) as error:
            return Health(blanked=False, ok=False, message=f"{type(error).__name__}: {error}"[:500])
        return Health(
            blanked=blanked,
            conditions=(
                Condition(name="vacuum", ok=status == "READY", message=f"status {status[:50]}, READY is needed"),
                Condition(name="column valves", ok=valves is True, message="closed"),
                Condition(name="fluorescent screen", ok=screen == "UP", message="in the beam; lift it"),
                Condition(
                    name="high tension", value=tension, unit="V", low=0.999 * self.voltage, high=1.001 * self.voltage
                ),
            ),
        )

    def _number(self, what: str) -> float:
        found = self._get(what)
        if isinstance(found, bool) or not isinstance(found, int | float):
            msg = f"{self._url}: {what} is {found!r}, which is no number"
            raise TemscriptError(msg)
        return float(found)

    def _get(self, what: str) -> Any:
        content = self._ask("GET", what, None)
        try:
            return json.loads(content)
        except ValueError as error:
            msg = f"{self._url}: the answer to {what} is not JSON: {content[:40]!r}"
            raise TemscriptError(msg) from error

    def _put(self, what: str, value: float | bool) -> None:
        self._ask("PUT", what, json.dumps(value).encode())

    def _ask(self, method: str, what: str, body: bytes | None) -> bytes:
        told = "" if body is None else f" {body.decode()}"
        return ask(
            method,
            f"{self._url}/v1/{what}",
            body,
            headers={"Accept": "application/json", "Content-Type": "application/json"},
            timeout=TIMEOUT,
            what=f"{method} {self._url}/v1/{what}{told}",
            hint="does temscript's server run?",
            error=TemscriptError,
        )


def _require_this_machine(url: str) -> None:
    parts = urlsplit(url)
    host = parts.hostname or ""
    try:
        local = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        local = False
    if parts.scheme != "http" or not local:
        msg = (
            f"temscript at {url!r}: its server has no keys and must not be on a network; legal: http://127.0.0.1:PORT, on "
            "the microscope's PC or through a tunnel, with temscript-server --host 127.0.0.1"
        )
        raise BadInputError(msg)
