"""What all runners share: the clock that stops while a picture is scored, and the command line.

A runner is a function `reconstruct(recording, options, passes, clock)`. It calls `clock.ready()` when its set-up is done and
`clock.after_pass(number, picture)` after each pass, where `picture()` gives (phase, pixel of the first position), and
stops when that returns False. An engine that ends by itself calls `clock.finished(picture)`.

    python run_PEER.py trace FILE RESULTS.jsonl --seconds 60     error after each pass, in a process that is warm
    python run_PEER.py fresh FILE PICTURE.npz --passes 7         nothing but the job; whoever starts it takes the time
"""

from __future__ import annotations

import argparse
import gc
import json
import platform
import re
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import recording as recordings
from numpy.typing import NDArray
from recording import Recording

Picture = Callable[[], tuple[NDArray[Any], tuple[float, float]]]
MAX_PASSES = 1000
SURE = 20.0
"""Seconds after which an engine that was best before a quarter of them has passed its best for good: it fits noise."""


class Clock(Protocol):
    """What a runner tells."""

    def ready(self) -> None:
        """Set-up is done, the first pass begins."""

    def after_pass(self, number: int, picture: Picture) -> bool:
        """A pass is done; whether to go on."""

    def finished(self, picture: Picture) -> None:
        """The engine has ended by itself, perhaps after a last step that is no pass."""


Reconstruct = Callable[[Recording, dict[str, Any], int, Clock], None]


class WarmUp:
    """One pass, so that what is compiled or loaded on first use is so."""

    def ready(self) -> None:
        """See `Clock`."""

    def after_pass(self, number: int, picture: Picture) -> bool:
        """Make a picture as well: that may load something too."""
        picture()
        return False

    def finished(self, picture: Picture) -> None:
        """See `Clock`."""


class Trace:
    """Scores the picture after many passes, with the clock stopped; ends after `limit` seconds, or long after the best."""

    def __init__(self, recording: Recording, limit: float, label: str) -> None:
        self.recording, self.limit, self.label = recording, limit, label
        self.setup = 0.0
        self.elapsed = 0.0
        self.passes: list[float] = []
        self.rows: list[dict[str, Any]] = []
        self._next = 1
        self._started = 0.0

    def start(self) -> None:
        """The recording is in memory, set-up begins."""
        self._started = time.perf_counter()

    def ready(self) -> None:
        """See `Clock`."""
        self.setup = time.perf_counter() - self._started
        self._started = time.perf_counter()

    def after_pass(self, number: int, picture: Picture) -> bool:
        """See `Clock`; scores every pass at first, then every tenth of what was made, and the last."""
        seconds = time.perf_counter() - self._started
        self.passes.append(seconds)
        self.elapsed += seconds
        best = min(self.rows, key=lambda row: row["nrmse"], default={"seconds": self.limit})
        over = self.elapsed >= self.limit or self.elapsed > max(SURE, 4 * best["seconds"])
        if number >= self._next or over:
            self._next = number + max(1, number // 10)
            self._score(number, picture)
        self._started = time.perf_counter()
        return not over

    def finished(self, picture: Picture) -> None:
        """See `Clock`."""
        self.elapsed += time.perf_counter() - self._started
        self._score(len(self.passes), picture)

    def _score(self, number: int, picture: Picture) -> None:
        from score import evaluate

        phase, first = picture()
        score = evaluate(phase, first, self.recording)
        row: dict[str, Any] = {"pass": number, "seconds": self.elapsed, "nrmse": score.nrmse, "scale": score.scale}
        row["limits"] = list(score.limits)
        self.rows.append(row | {"shift_y": score.shift[0], "shift_x": score.shift[1]})
        print(
            f"{self.label} pass {number:4d} {self.elapsed:8.2f} s NRMSE {score.nrmse:.4f} scale {score.scale:.3f} "
            f"shift {score.shift[0]:+.2f} {score.shift[1]:+.2f}",
            flush=True,
        )


class Fresh:
    """Makes the asked number of passes and keeps the last picture."""

    def __init__(self, passes: int) -> None:
        self.passes = passes
        self.last: tuple[NDArray[Any], tuple[float, float]] | None = None

    def ready(self) -> None:
        """See `Clock`."""

    def after_pass(self, number: int, picture: Picture) -> bool:
        """See `Clock`."""
        if number < self.passes:
            return True
        self.last = picture()
        return False

    def finished(self, picture: Picture) -> None:
        """See `Clock`."""
        if self.last is None:
            self.last = picture()


def main(peer: str, packages: list[str], reconstruct: Reconstruct) -> None:
    """The command line of a runner. `packages` are those whose versions go into the results."""
    parser = argparse.ArgumentParser(description=f"run {peer} on one recording")
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("trace", "fresh"):
        command = commands.add_parser(name)
        command.add_argument("file", type=Path)
        command.add_argument("out", type=Path)
        command.add_argument("--passes", type=int, default=MAX_PASSES)
        command.add_argument("--seconds", type=float, default=60.0)
        command.add_argument("--repeats", type=int, default=1, help="traces whose median times are kept")
        command.add_argument("--options", type=json.loads, default={})
    chosen = parser.parse_args()
    recording = recordings.read(chosen.file)
    if chosen.command == "fresh":
        fresh = Fresh(chosen.passes)
        reconstruct(recording, chosen.options, chosen.passes, fresh)
        if fresh.last is None:
            sys.exit(f"{peer} stopped before pass {chosen.passes}")
        np.savez(chosen.out, phase=np.asarray(fresh.last[0], np.float32), first=fresh.last[1])
        print(json.dumps({"peak_mb": peak_memory()}))
        return
    reconstruct(recording, chosen.options, 1, WarmUp())
    gc.collect()
    traces = [Trace(recording, chosen.seconds, f"{peer} {chosen.file.stem}") for _ in range(chosen.repeats)]
    for trace in traces:
        trace.start()
        reconstruct(recording, chosen.options, chosen.passes, trace)
    rows = [
        same[0] | {"seconds": float(np.median([row["seconds"] for row in same]))}
        for same in zip(*(trace.rows for trace in traces), strict=False)
    ]
    append(
        chosen.out,
        "trace",
        peer,
        chosen.file.stem,
        options=chosen.options,
        versions=versions(packages),
        positions=recording.n**2,
        setup=float(np.median([trace.setup for trace in traces])),
        pass_seconds=float(np.median([seconds for trace in traces for seconds in trace.passes])),
        rows=rows,
    )


def peak_memory() -> int:
    """Largest resident memory of this process so far, MB."""
    # ru_maxrss would do, but it also counts the memory of whoever started the process
    status = Path("/proc/self/status").read_text()
    return round(int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) / 1024)


def versions(packages: list[str]) -> dict[str, str]:
    """Distribution -> version, and Python's."""
    from importlib.metadata import version

    return {"python": platform.python_version(), **{name: version(name) for name in packages}}


def append(out: Path, kind: str, peer: str, file: str, **more: Any) -> None:
    """Add one line to the results."""
    head = {"kind": kind, "peer": peer, "file": file, "when": datetime.now(UTC).isoformat(timespec="seconds")}
    with out.open("a") as lines:
        lines.write(json.dumps(head | more) + "\n")
