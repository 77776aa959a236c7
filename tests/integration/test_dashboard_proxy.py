"""The page behind a reverse proxy, over real sockets: who the proxy speaks for, and who pretends to be spoken for."""

from __future__ import annotations

import asyncio
import http.client
import shutil
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

pytest.importorskip("nicegui", reason="needs the extra [dashboard] (make env)")

from agent.dashboard.proxy import Proxy
from agent.dashboard.roles import Doorkeeper, Passwords
from agent.dashboard.server import Entrance, make_app, make_server
from agent.dashboard.sources import FolderSource

GOLDEN = Path(__file__).parent / "golden_campaigns" / "finished"
PROXY, OTHER = "127.0.0.1", "127.0.0.2"
OPERATOR = {"Remote-Groups": "ptychopilot-operators", "Remote-User": "ruska"}


@asynccontextmanager
async def served(folder: Path) -> AsyncIterator[int]:
    """The page with no password, on a port of all addresses of this machine."""
    shutil.copytree(GOLDEN, folder / "one")
    proxy = Proxy.at([PROXY], "Remote-Groups", "ptychopilot-operators")
    passwords = Passwords.from_files(None, None, loopback=False, proxied=True)
    server = make_server(make_app(FolderSource(folder), Entrance(Doorkeeper(passwords), proxy)))
    with socket.create_server(("0.0.0.0", 0)) as listener:
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        try:
            yield int(listener.getsockname()[1])
        finally:
            server.should_exit = True
            await serving


def answer(port: int, came_from: str, headers: dict[str, str], path: str = "/") -> tuple[int, str, str]:
    """Status, location and text of what somebody at an address gets."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60, source_address=(came_from, 0))
    try:
        connection.request("GET", path, headers=headers)
        response = connection.getresponse()
        return response.status, response.headers.get("Location", ""), response.read().decode()
    finally:
        connection.close()


async def test_the_proxy_is_believed_and_nobody_else(tmp_path: Path) -> None:
    async with served(tmp_path) as port:

        async def asks(came_from: str, headers: dict[str, str], path: str = "/") -> tuple[int, str, str]:
            return await asyncio.to_thread(answer, port, came_from, headers, path)

        status, _, text = await asks(PROXY, OPERATOR)
        assert status == 200
        assert "ruska operator" in text
        status, _, text = await asks(PROXY, {"Remote-User": "eve"})
        assert "eve viewer" in text
        # what a browser of the proxy's sends about its own way changes nothing
        assert (await asks(PROXY, {**OPERATOR, "X-Forwarded-For": OTHER, "X-Forwarded-Proto": "https"}))[0] == 200
        for forged in ({}, OPERATOR, {**OPERATOR, "X-Forwarded-For": PROXY, "Forwarded": f"for={PROXY}"}):
            for path in ("/", "/campaigns", "/compare"):
                assert (await asks(OTHER, forged, path))[:2] == (307, "/login"), (forged, path)
        assert (await asks(OTHER, OPERATOR, "/login"))[0] == 403
