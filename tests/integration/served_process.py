"""An instrument server as a process of its own, and a plan and a sink to watch it with."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from examples import plan

from instrument import SeriesStart

HERE = Path(__file__).parent
SERVE = (sys.executable, "-m", "instrument", "serve")
PLAN = plan(size=20)


class Signal:
    """A sink that says when the n-th frame is there."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.loop = asyncio.get_running_loop()
        self.reached = asyncio.Event()

    def start(self, header: SeriesStart) -> None:
        assert header.number_of_images == PLAN.n_positions

    def frame(self, index: int, chunk: bytes, pattern_shape: tuple[int, int], dtype: np.dtype[Any]) -> None:
        if index + 1 == self.count:
            self.loop.call_soon_threadsafe(self.reached.set)


@contextmanager
def server(
    state: Path,
    *options: str,
    adapter: str = "striped_microscope:make",
    launcher: tuple[str, ...] = (),
    **environment: str,
) -> Iterator[tuple[subprocess.Popen[str], dict[str, Any]]]:
    process = subprocess.Popen(
        [*launcher, *SERVE, adapter, "--state-dir", str(state), *options],
        cwd=HERE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
    )
    try:
        yield process, json.loads(process.stdout.readline())
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
