"""Drive temscript's null microscope with our Thermo Fisher column: get, set, read-back, blanker, valves, over JSON alone.

Usage: python drive_temscript.py ENVIRONMENT
"""

from __future__ import annotations

import asyncio
import json
import statistics
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

from driving import free_port

from instrument.adapters.temscript import TemscriptColumn, TemscriptError
from instrument.models import Parameter

DEFOCUS = Parameter(kind="continuous", unit="Å", minimum=-2000, maximum=2000)


def ask(url: str, value: Any = None) -> Any:
    """What temscript's server says itself, past the adapter."""
    body = None if value is None else json.dumps(value).encode()
    request = urllib.request.Request(url, body, {"Accept": "application/json"}, method="GET" if body is None else "PUT")
    with urllib.request.urlopen(request, timeout=5) as answer:
        return json.loads(answer.read() or b"null")


async def opened(url: str) -> TemscriptColumn:
    for _ in range(120):
        try:
            return TemscriptColumn(url, beam_current=20.0, defocus=DEFOCUS).__enter__()
        except TemscriptError:
            await asyncio.sleep(0.25)
    raise SystemExit("temscript does not answer")


async def complaints(column: TemscriptColumn) -> list[str]:
    return [said for each in (await column.health()).conditions if (said := each.complaint(tripped=False))]


async def drive(url: str) -> None:
    column = await opened(url)
    v1 = f"{url}/v1"
    try:
        assert (column.voltage, column.semiangle) == (200e3, 10.0), (column.voltage, column.semiangle)
        assert ask(f"{v1}/beam_blanked") is True, "the beam is not blanked from the start"
        for defocus in (1500.0, -1500.0, 0.0):
            await column.set_defocus(defocus)
            assert abs(ask(f"{v1}/probe_defocus") + defocus * 1e-10) < 1e-14
        assert await complaints(column) == ["column valves: closed", "fluorescent screen: in the beam; lift it"]
        ask(f"{v1}/screen_position", "UP")
        ask(f"{v1}/column_valves_open", True)
        assert await complaints(column) == []
        await column.unblank()
        assert ask(f"{v1}/beam_blanked") is False
        times = []
        for _ in range(50):
            began = time.perf_counter()
            column.blank()
            times.append(time.perf_counter() - began)
            assert ask(f"{v1}/beam_blanked") is True
            await column.unblank()
        await column.close_valves()
        assert ask(f"{v1}/column_valves_open") is False
    finally:
        column.__exit__(None, None, None)
    assert ask(f"{v1}/beam_blanked") is True, "the beam was left on"
    print(
        f"temscript {ask(f'{v1}/version')}: three defoci read back, blanker 50 times "
        f"(median {1e3 * statistics.median(times):.1f} ms), valves closed, health as it is"
    )


def main() -> None:
    port = free_port()
    program = [str(Path(sys.argv[1]) / "bin" / "temscript-server"), "--null", "--host", "127.0.0.1", "-p", str(port)]
    with subprocess.Popen(program, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            asyncio.run(drive(f"http://127.0.0.1:{port}"))
        finally:
            server.kill()


if __name__ == "__main__":
    main()
