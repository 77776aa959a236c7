"""Run an instrument server as a process: one line of JSON when it is ready, a clean end on SIGINT and SIGTERM."""

from __future__ import annotations

import asyncio
import json
import logging
import signal
import sys
from pathlib import Path

from instrument.errors import InstrumentError
from instrument.keys import ServerKeys
from instrument.microscope import Microscope
from instrument.server import InstrumentServer

EXIT_BAD_INPUT = 2


def serve(
    microscope: Microscope,
    state_dir: Path,
    control: str = "tcp://127.0.0.1:*",
    *,
    safe: str | None = None,
    data: str | None = None,
    name: str | None = None,
    keys: ServerKeys | None = None,
) -> int:
    """Serve `microscope` until SIGINT or SIGTERM; returns the exit code of the process.

    When the sockets are bound, one line of JSON goes to standard output: {"ready": true, "control": "tcp://…",
    "safe": …, "data": …, "name": …}. What cannot be served (a port in use, a state directory in use, half a key
    configuration) is one line on standard error and exit code 2. The arguments are those of `InstrumentServer`.
    """
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="%(asctime)s %(levelname)s %(message)s")
    try:
        server = InstrumentServer(
            microscope, state_dir=state_dir, control=control, safe=safe, data=data, name=name, keys=keys
        )
        asyncio.run(_serve(server))
    except (InstrumentError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_BAD_INPUT
    return 0


async def _serve(server: InstrumentServer) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        # Not loop.add_signal_handler, which Windows does not have.
        signal.signal(number, lambda *_: loop.call_soon_threadsafe(stop.set))
    async with server:
        ready = {
            "ready": True,
            "control": server.control,
            "safe": server.safe,
            "data": server.data,
            "name": server.name,
        }
        print(json.dumps(ready), flush=True)
        await stop.wait()
