"""The small world's microscope, served by a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SERVE = (sys.executable, "-m", "instrument", "serve")


class Server:
    """An instrument server process whose state survives it."""

    def __init__(self, state: Path, interval: float = 0.0, factory: str = "make") -> None:
        self.state = state
        self.adapter = f"small_world:{factory}"
        self.interval = interval
        self.endpoint = "tcp://127.0.0.1:*"
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen(
            [*SERVE, self.adapter, "--control", self.endpoint, "--state-dir", str(self.state)],
            stdout=subprocess.PIPE,
            env={**os.environ, "SMALL_WORLD_INTERVAL": str(self.interval)},
        )
        assert self.process.stdout is not None
        self.endpoint = json.loads(self.process.stdout.readline())["control"]

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def close(self) -> None:
        self.process.terminate()
        self.process.wait(10)
        assert self.process.stdout is not None
        self.process.stdout.close()


@contextmanager
def serving(tmp_path: Path, interval: float = 0.0, factory: str = "make") -> Iterator[Server]:
    server = Server(tmp_path / "instrument", interval, factory)
    try:
        yield server
    finally:
        server.close()
