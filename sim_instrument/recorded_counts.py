# SPDX-License-Identifier: GPL-3.0-or-later
"""The counts of a recording, handed out once.

Every recorded count has, once and for all, a random arrival time between 0 and 1 (from the seed). Whoever asks for a
fraction f of some patterns gets of each the counts of its next interval of length f. So counts are drawn without
replacement and independently of each other (a Poisson distributed recording gives Poisson distributed, independent
repeats), bright and dark patterns keep their ratio, and all there is to remember is how far each position has been used:
one row per acquisition in an SQLite file. An acquisition id that comes again, after a crash too, gets the same counts.
"""

from __future__ import annotations

import json
import sqlite3
import threading
import zlib
from collections.abc import Callable
from pathlib import Path

import numba
import numpy as np
from numpy.typing import NDArray

from instrument import ConflictError, ExhaustedError

ROUNDING = 1e-6
"""Fraction of a recording's counts within which all of them are meant: fractions are sums of floats."""


class RecordedCounts:
    """Patterns of counts and how much of each has been handed out.

    Args:
        patterns: (n, detector_y, detector_x) unsigned counts.
        state: directory for `counts.sqlite`; made if missing.
        seed: of the arrival times.
        reuse: every id draws from the whole recording with arrival times of its own; nothing is used up.

    Raises:
        ConflictError: `state` belongs to another recording, seed or mode.
    """

    def __init__(
        self, patterns: NDArray[np.uint8] | NDArray[np.uint16], state: Path, seed: int = 0, reuse: bool = False
    ) -> None:
        self._patterns = patterns
        self._seed = seed
        self._reuse = reuse
        self._lock = threading.Lock()
        self._used = np.zeros(len(patterns))
        self._taken: dict[str, tuple[str, NDArray[np.float64]]] = {}
        self.totals = patterns.sum(axis=(1, 2), dtype=np.uint64).astype(np.float64)
        state.mkdir(parents=True, exist_ok=True)
        self._database = sqlite3.connect(state / "counts.sqlite", check_same_thread=False, isolation_level=None)
        self._database.execute("PRAGMA journal_mode=WAL")
        self._database.execute("PRAGMA synchronous=FULL")
        self._database.execute("CREATE TABLE IF NOT EXISTS recording (identity TEXT NOT NULL)")
        self._database.execute(
            "CREATE TABLE IF NOT EXISTS draws (sequence INTEGER PRIMARY KEY, id TEXT UNIQUE NOT NULL, request TEXT NOT NULL,"
            " fraction REAL NOT NULL, positions BLOB NOT NULL)"
        )
        self._claim(state)
        for name, request, fraction, positions in self._database.execute(
            "SELECT id, request, fraction, positions FROM draws ORDER BY sequence"
        ):
            self._advance(name, request, fraction, np.frombuffer(positions, dtype="<i8"))

    def close(self) -> None:
        """Close the state file."""
        self._database.close()

    @property
    def mean(self) -> float:
        """Mean counts of a recorded pattern."""
        return float(self.totals.mean())

    @property
    def left(self) -> NDArray[np.float64]:
        """(n,) fraction of each pattern's counts that has not been handed out."""
        return np.ones(len(self._used)) if self._reuse else np.clip(1 - self._used, 0, 1)

    def check(self, name: str, positions: NDArray[np.intp], fraction: float) -> None:
        """Raise ExhaustedError unless `fraction` of every pattern named is left, or id `name` has had it already."""
        if name in self._taken:
            return
        left = float(self.left[positions].min())
        if fraction > left + ROUNDING:
            msg = (
                f"{fraction * self.mean:.6g} counts per pattern are more than the recording has left at these positions; "
                f"legal: at most {left * self.mean:.6g}, or another region"
            )
            raise ExhaustedError(msg, maximum=left * self.mean)

    def take(self, name: str, request: str, positions: NDArray[np.intp], fraction: float) -> NDArray[np.float64]:
        """Book `fraction` of the patterns named for acquisition id `name`: the (m,) starts of the intervals it may draw.

        `request` identifies what was asked. Raises ExhaustedError, and ConflictError if `name` has asked for something else.
        """
        with self._lock:
            if name in self._taken:
                earlier, starts = self._taken[name]
                if earlier != request:
                    msg = f"acquisition {name} has drawn counts for another plan; a new plan needs a new id"
                    raise ConflictError(msg)
                return starts
            self.check(name, positions, fraction)
            self._database.execute(
                "INSERT INTO draws (id, request, fraction, positions) VALUES (?, ?, ?, ?)",
                (name, request, fraction, positions.astype("<i8").tobytes()),
            )
            return self._advance(name, request, fraction, positions)

    def draw(self, name: str, position: int, start: float, fraction: float) -> NDArray[np.uint8] | NDArray[np.uint16]:
        """The counts of pattern `position` that arrive from `start` on for `fraction`; `name` matters where counts are reused."""
        stream = [self._seed, position, *([zlib.crc32(name.encode())] if self._reuse else [])]
        key = np.random.SeedSequence(stream).generate_state(1, np.uint64)[0]
        end = start + fraction
        recorded = np.ascontiguousarray(self._patterns[position])  # of a memory map an array
        counts: NDArray[np.uint8] | NDArray[np.uint16] = np.empty_like(recorded)
        _arriving(recorded.ravel(), key, start, end if end < 1 - ROUNDING else 2.0, counts.ravel())
        return counts

    def _advance(self, name: str, request: str, fraction: float, positions: NDArray[np.intp]) -> NDArray[np.float64]:
        starts = np.zeros(len(positions)) if self._reuse else self._used[positions]
        self._taken[name] = (request, starts)
        if not self._reuse:
            self._used[positions] += fraction
        return starts

    def _claim(self, state: Path) -> None:
        """Tie the state to recording, seed and mode; refuse that of another."""
        sample = self._patterns[len(self._patterns) // 2]
        identity = json.dumps(
            {
                "shape": list(self._patterns.shape),
                "counts": int(self.totals.sum()),
                "sample": zlib.crc32(sample.tobytes()),
                "seed": self._seed,
                "reuse": self._reuse,
            }
        )
        row = self._database.execute("SELECT identity FROM recording").fetchone()
        if row is None:
            self._database.execute("INSERT INTO recording VALUES (?)", (identity,))
        elif row[0] != identity:
            self._database.close()
            msg = f"{state} remembers another recording, seed or reuse mode; choose another state directory"
            raise ConflictError(msg)


def _compiled(function: Callable[..., None]) -> Callable[..., None]:
    """Compiled, and kept for the next process where package or home can be written; elsewhere numba refuses to keep it."""
    try:
        kept: Callable[..., None] = numba.njit(nogil=True, cache=True)(function)
    except RuntimeError:
        kept = numba.njit(nogil=True)(function)
    return kept


@_compiled
def _arriving(counts, key, start, end, out):  # type: ignore[no-untyped-def]
    """Into `out` the number of `counts` of each pixel whose arrival time lies in [start, end).

    A time is the hash of the count's number (Steele, Lea & Flood, SplitMix64, OOPSLA 2014): nothing has to be drawn before it.
    """
    state = key
    for pixel in range(counts.size):
        arrived = 0
        for _ in range(counts[pixel]):
            state += np.uint64(0x9E3779B97F4A7C15)
            mixed = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            mixed ^= mixed >> np.uint64(31)
            time = (mixed >> np.uint64(11)) * 1.1102230246251565e-16  # 2⁻⁵³
            if start <= time < end:
                arrived += 1
        out[pixel] = arrived
