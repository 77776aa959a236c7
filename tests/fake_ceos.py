"""The RPC gateway of a CEOS corrector, with aberrations of its own."""

from __future__ import annotations

import asyncio
import json
import socket
from types import TracebackType
from typing import Any, Self


class FakeCeos:
    """An async context manager.

    Attributes:
        true: CEOS' name -> coefficient, m.
        asked: every method, in order, with its parameters.
        gain: of the corrector's elements.
        garbage: is sent instead of an answer.
        silent: whether nothing is answered.
    """

    def __init__(self) -> None:
        self.true: dict[str, complex] = {"C1": -30e-9, "A1": 4e-9 + 3e-9j, "B2": 1e-8j, "C3": 2e-6, "We": 1e-9}
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.gain = 1.0
        self.garbage: bytes | None = None
        self.silent = False
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._socket.getsockname()[1])

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, sock=self._socket)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.close()
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        length = int((await reader.readuntil(b":"))[:-1])
        request = json.loads((await reader.readexactly(length + 1))[:-1])
        self.asked.append((request["method"], request["params"]))
        while self.silent and await reader.read(1):
            pass
        notice = {"jsonrpc": "2.0", "method": "progress", "params": {}}
        answer = {"jsonrpc": "2.0", "id": request["id"]} | self._act(request["method"], request["params"])
        messages = [json.dumps(each).encode() for each in (notice, answer)]
        content = b"".join(b"%d:%b," % (len(each), each) for each in messages) if self.garbage is None else self.garbage
        writer.write(content[:7])
        await writer.drain()
        writer.write(content[7:])
        writer.close()

    def _act(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        if method == "getInfo":
            return {"result": {"correctorType": "CESCOR", "protocolVersion": 4}}
        if method == "measureC1A1":
            return {"result": {name: self._pair(name) for name in ("C1", "A1")}}
        if method == "acquireTableau" and params["tabType"] in ("Fast", "Standard", "Enhanced"):
            return {"result": {"aberrations": {name: self._pair(name) for name in self.true}}}
        if method == "correctAberration" and params["name"] in self.true:
            self.true[params["name"]] += self.gain * (complex(*params["target"]) - complex(*params["value"]))
            return {"result": {}}
        return {"error": {"code": -32000, "message": "Server error", "data": {"message": f"cannot {method}"}}}

    def _pair(self, name: str) -> list[float]:
        return [self.true[name].real, self.true[name].imag]
