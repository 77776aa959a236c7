"""A CEOS corrector (CESCOR, CETCOR) behind its RPC gateway: JSON-RPC 2.0 in netstrings over TCP.

Facts: ports 7072 (probe) and 7071 (image); `getInfo`, `measureC1A1`, `acquireTableau`, `correctAberration` (takes `value`, what
the aberration is, and `target`, what it shall be), lengths in m, as public clients use them; not tried on a corrector yet.
The gateway cannot tell aberrations without looking: measuring EXPOSES what is under the beam, for seconds to minutes.
"""

from __future__ import annotations

import asyncio
import cmath
import contextlib
import itertools
import json
import math
from collections.abc import Mapping
from typing import Any, Literal

from instrument.adapters.parts import Column
from instrument.errors import BadInputError
from instrument.models import Condition, Health, Parameter

METRE = 1e10
"""Å."""
PROBE, IMAGE = 7072, 7071
QUICK = 5.0
"""s for an answer that needs no images."""
MEASURING = 600.0
"""s for a tableau, at most."""
LONGEST_MESSAGE = 1 << 20
Tableau = Literal["Fast", "Standard", "Enhanced"]

_TERMS: dict[str, tuple[str, float, int]] = {
    "C10": ("C1", 1, 0),
    "C12": ("A1", 1, 2),
    "C21": ("B2", 3, -1),
    "C23": ("A2", 1, 3),
    "C30": ("C3", 1, 0),
    "C32": ("S3", 4, -2),
    "C34": ("A3", 1, 4),
}
"""Krivanek's coefficients: CEOS' name, Krivanek's length over CEOS', CEOS' argument over Krivanek's angle."""


class CeosError(Exception):
    """The corrector refused or failed, or its gateway does not answer."""


def from_ceos(found: Mapping[str, complex]) -> dict[str, float]:
    """Krivanek's polar coefficients (Å, rad) of those that CEOS names (complex, m); terms beyond third order are left out.

    Args:
        found: "C1", "A1", "B2", … -> coefficient, m.
    """
    told: dict[str, float] = {}
    for ours, (theirs, factor, turns) in _TERMS.items():
        if theirs not in found:
            continue
        value = found[theirs] * factor * METRE
        if turns:
            told |= {ours: abs(value), f"phi{ours[1:]}": cmath.phase(value) / turns}
        else:
            told[ours] = value.real
    return told


def to_ceos(name: str, aberrations: Mapping[str, float]) -> complex:
    """CEOS' coefficient, m, of one of Krivanek's.

    Args:
        name: "C10", "C12", …
        aberrations: polar, Å and rad; what is not in it is zero.
    """
    _, factor, turns = _TERMS[name]
    return cmath.rect(aberrations.get(name, 0.0), turns * aberrations.get(f"phi{name[1:]}", 0.0)) / factor / METRE


class CeosCorrector:
    """One corrector.

    Args:
        host, port: of its RPC gateway.
        measuring: s for a tableau, at most.
    """

    def __init__(self, host: str = "127.0.0.1", port: int = PROBE, *, measuring: float = MEASURING) -> None:
        self._host, self._port, self._measuring = host, port, measuring
        self._ids = itertools.count(1)
        self._one_at_a_time = asyncio.Lock()
        self._found: dict[str, complex] = {}

    async def info(self) -> dict[str, Any]:
        """What the gateway says of itself and its corrector."""
        return _mapping(await self._call("getInfo", QUICK))

    async def measure(self, tableau: Tableau | None = None, angle: float | None = None) -> dict[str, float]:
        """Measure the aberrations. The beam has to be on: this exposes what is under it.

        Args:
            tableau: which; None measures defocus and two-fold astigmatism alone.
            angle: outer tilt of the tableau, mrad; None: as usual for it.

        Returns:
            All that are known now, polar, Å and rad: what was measured before stays until it is measured again.
        """
        if tableau is None:
            answer = await self._call("measureC1A1", self._measuring)
        else:
            tilt = {} if angle is None else {"angle": angle}
            answer = await self._call("acquireTableau", self._measuring, tabType=tableau, **tilt)
        self._found |= _coefficients(answer)
        return self.read()

    def read(self) -> dict[str, float]:
        """Aberrations as last measured and corrected since, polar, Å and rad. What others did meanwhile is not in it."""
        return from_ceos(self._found)

    async def set(self, aberrations: Mapping[str, float], *, fine: bool = False) -> None:
        """Bring aberrations from what they are known to be to what they shall be. Others follow a little: measure again.

        Args:
            aberrations: polar, Å and rad: {"C10": -100.0, "C12": 0.0}; orientations that are left out are zero.
            fine: with the corrector's finer elements, where it has two kinds.
        """
        strange = [name for name in aberrations if name not in _TERMS and f"C{name.removeprefix('phi')}" not in _TERMS]
        if strange:
            msg = f"no aberration of the corrector is called {', '.join(strange)}; legal: {', '.join(_TERMS)} and their phi"
            raise BadInputError(msg)
        for name in sorted((each for each in aberrations if each in _TERMS), reverse=True):  # C10 last: all move it
            theirs = _TERMS[name][0]
            if theirs not in self._found:
                msg = f"{name} has not been measured yet, so it cannot be brought to anything; measure first"
                raise CeosError(msg)
            target = to_ceos(name, aberrations)
            select = {"select": "fine"} if fine else {}
            await self._call(
                "correctAberration",
                self._measuring,
                name=theirs,
                value=_pair(self._found[theirs]),
                target=_pair(target),
                **select,
            )
            self._found[theirs] = target

    async def set_defocus(self, defocus: float) -> None:
        """Set the defocus.

        Args:
            defocus: Å, positive for underfocus.
        """
        await self.set({"C10": -defocus})

    async def _call(self, method: str, limit: float, **arguments: Any) -> Any:
        where = f"corrector at {self._host}:{self._port}, {method}"
        number = next(self._ids)
        request = {"jsonrpc": "2.0", "id": number, "method": method, "params": arguments}
        try:
            async with asyncio.timeout(limit), self._one_at_a_time:
                answer = await self._exchange(request)
        except TimeoutError as error:
            msg = f"{where}: no answer within {limit:g} s"
            raise CeosError(msg) from error
        except OSError as error:
            msg = f"{where}: no answer ({error}); does the RPC gateway run?"
            raise CeosError(msg) from error
        except (ValueError, asyncio.IncompleteReadError, asyncio.LimitOverrunError) as error:
            msg = f"{where}: the answer is no JSON-RPC in a netstring ({error})"
            raise CeosError(msg) from error
        if fault := answer.get("error"):
            said = (
                [fault.get("message"), (fault.get("data") or {}).get("message")] if isinstance(fault, dict) else [fault]
            )
            msg = f"{where}: {': '.join(str(each) for each in said if each)[:500]}"
            raise CeosError(msg)
        return answer.get("result")

    async def _exchange(self, request: dict[str, Any]) -> dict[str, Any]:
        reader, writer = await asyncio.open_connection(self._host, self._port)
        try:
            content = json.dumps(request).encode()
            writer.write(b"%d:%b," % (len(content), content))
            await writer.drain()
            while True:  # what has another id is a notification, or was meant for somebody else
                answer = json.loads(await _netstring(reader))
                if isinstance(answer, dict) and answer.get("id") == request["id"]:
                    return answer
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()


class CorrectedColumn:
    """A `Column` whose defocus the corrector sets; all else is the column's. Measure once before the first scan.

    The corrector is trusted: reading the defocus back would take images of the specimen.

    Args:
        column: gun, lenses and blanker.
        corrector: of the probe.
        defocus: legal values, Å; None: the column's.
    """

    def __init__(self, column: Column, corrector: CeosCorrector, defocus: Parameter | None = None) -> None:
        self._column, self._corrector = column, corrector
        self.defocus = column.defocus if defocus is None else defocus

    @property
    def voltage(self) -> float:
        """See `Column`."""
        return self._column.voltage

    @property
    def semiangle(self) -> float:
        """See `Column`."""
        return self._column.semiangle

    @property
    def beam_current(self) -> float:
        """See `Column`."""
        return self._column.beam_current

    async def set_defocus(self, defocus: float) -> None:
        """See `Column`."""
        await self._corrector.set_defocus(defocus)

    async def unblank(self) -> None:
        """See `Column`."""
        await self._column.unblank()

    def blank(self) -> None:
        """See `Column`."""
        self._column.blank()

    async def health(self) -> Health:
        """Of the column, and whether the corrector answers."""
        health = await self._column.health()
        try:
            await self._corrector.info()
            corrector = Condition(name="corrector")
        except CeosError as error:
            corrector = Condition(name="corrector", ok=False, message=str(error)[:500])
        return health.model_copy(update={"conditions": (*health.conditions, corrector)})


async def _netstring(reader: asyncio.StreamReader) -> bytes:
    length = (await reader.readuntil(b":"))[:-1]
    if not length.isdigit() or len(length) > 7 or int(length) > LONGEST_MESSAGE:
        msg = f"a length of {length[:20]!r} bytes"
        raise ValueError(msg)
    content = await reader.readexactly(int(length) + 1)
    if content[-1:] != b",":
        msg = "no comma at its end"
        raise ValueError(msg)
    return content[:-1]


def _mapping(answer: Any) -> dict[str, Any]:
    return answer if isinstance(answer, dict) else {"answer": answer}


def _pair(value: complex) -> list[float]:
    return [value.real, value.imag]


def _coefficients(answer: Any) -> dict[str, complex]:
    """Coefficients, m, of an answer: names with [x, y] or x, on their own or under "aberrations"."""
    found = _mapping(answer)
    found = found.get("aberrations", found)
    told: dict[str, complex] = {}
    for name, value in found.items() if isinstance(found, dict) else ():
        parts = value if isinstance(value, list) else [value]
        if 1 <= len(parts) <= 2 and all(isinstance(each, int | float) and math.isfinite(each) for each in parts):
            told[name] = complex(*parts)
    if not {theirs for theirs, _, _ in _TERMS.values()} & set(told):
        msg = f"the measurement holds no aberration that is known here: {json.dumps(answer)[:200]}"
        raise CeosError(msg)
    return told
