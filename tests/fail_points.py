"""Fail points: a process that dies, as by `kill -9`, at the n-th boundary of what it writes down.

A boundary is the moment before and the moment after every commit of an SQLite file (journal, ledger) and every renaming of a
finished file into its place. They are watched where the standard library is called, so none can be forgotten, and what is
shipped knows nothing of it. FAIL_POINT in the environment says at which one a process that calls `arm_from_environment` dies;
what that boundary was goes into the file that FAIL_POINT_NOTE names.
"""

from __future__ import annotations

import os
import signal
import sqlite3
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

VARIABLE = "FAIL_POINT"
NOTE = "FAIL_POINT_NOTE"


class _Counter:
    def __init__(self, fatal: int) -> None:
        self.left = fatal

    def pass_by(self, boundary: str) -> None:
        self.left -= 1
        if self.left == 0:
            if note := os.environ.get(NOTE):
                Path(note).write_text(boundary)
            os.kill(os.getpid(), signal.SIGKILL)


def arm(fatal: int) -> None:
    """From now on this process dies at the boundary with this number, counted from 1.

    Args:
        fatal: the number.
    """
    counter = _Counter(fatal)

    class Watched(sqlite3.Connection):
        def __init__(self, database: Any, *arguments: Any, **options: Any) -> None:
            super().__init__(database, *arguments, **options)
            self._name = Path(str(database)).name

        def execute(self, sql: str, *arguments: Any) -> sqlite3.Cursor:
            if sql != "COMMIT":
                return super().execute(sql, *arguments)
            counter.pass_by(f"before a commit of {self._name}")
            done = super().execute(sql)
            counter.pass_by(f"after a commit of {self._name}")
            return done

    replace = Path.replace

    def watched_replace(self: Path, target: Any) -> Path:
        counter.pass_by(f"before {Path(target).name} gets its name")
        done = replace(self, target)
        counter.pass_by(f"after {Path(target).name} got its name")
        return done

    sqlite3.connect = partial(sqlite3.connect, factory=Watched)  # type: ignore[assignment]
    Path.replace = watched_replace  # type: ignore[method-assign]


def arm_from_environment() -> None:
    """Do so if the environment asks for it."""
    if number := os.environ.get(VARIABLE):
        arm(int(number))


def dies_at(fatal: int, work: Callable[[Callable[[str], None]], None]) -> tuple[bool, list[str]]:
    """Let a copy of this process do some work and die at a boundary.

    Args:
        fatal: number of the boundary.
        work: is given a function to call with what has been done for good.

    Returns:
        Whether it died, and what it said was done.
    """
    ear, mouth = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            arm(fatal)
            work(lambda word: os.write(mouth, f"{word}\n".encode()) and None)
            status = 0
        finally:
            os._exit(status)
    os.close(mouth)
    with os.fdopen(ear) as told:
        done = told.read().splitlines()
    _, status = os.waitpid(child, 0)
    assert status in (0, signal.SIGKILL), status
    return status != 0, done
