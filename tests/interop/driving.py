"""What the programs that drive foreign instruments share."""

from __future__ import annotations

import json
import socket
import subprocess
from typing import Any


def free_port() -> int:
    """A TCP port of the loopback that nobody uses."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def first_json(program: subprocess.Popen[str]) -> dict[str, Any]:
    """The first line that is JSON, of a program that also logs."""
    assert program.stdout is not None
    for line in program.stdout:
        if line.startswith("{"):
            return dict(json.loads(line))
    raise SystemExit(f"{program.args} ended")
