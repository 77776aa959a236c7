"""A search on disk: one SQLite file, written after each stage, from which it is looked at and resumed."""

from __future__ import annotations

import fcntl
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import IO, Self

from pydantic import JsonValue, TypeAdapter, ValidationError

from agent.errors import BadInputError, StoppedError
from agent.tuning.records import TuningTrial

JOURNAL = "tuning.sqlite"
_SCHEMA = """
CREATE TABLE facts (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
CREATE TABLE trials (number INTEGER PRIMARY KEY, record TEXT NOT NULL) STRICT;
"""
_FACTS = TypeAdapter(dict[str, JsonValue])


class TuningJournal:
    """The journal of a search, held by one process at a time; `read` looks at it meanwhile.

    Args:
        folder: of the search.
        facts: what it is a search of; None: an existing journal is opened.

    Raises:
        BadInputError: there is a search already, or none, or another process holds it.
    """

    def __init__(self, folder: Path, facts: dict[str, JsonValue] | None = None) -> None:
        path = folder / JOURNAL
        if facts is not None and path.exists():
            msg = f"{folder} holds a search already; go on with it by --resume, or choose another --out"
            raise BadInputError(msg)
        if facts is None and not path.exists():
            msg = f"{folder} holds no search that could be resumed; leave --resume out to begin one"
            raise BadInputError(msg)
        self._lock = _locked(folder)
        self._database = sqlite3.connect(path, isolation_level=None)
        self._database.execute("PRAGMA journal_mode = WAL")
        if facts is not None:
            self._database.executescript(_SCHEMA)
            for key, value in facts.items():
                self.note(key, value)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._database.close()
        self._lock.close()

    def note(self, key: str, value: JsonValue) -> None:
        """Write a fact down. Raises StoppedError where the disk is full."""
        self._write(
            "INSERT OR REPLACE INTO facts VALUES (?, ?)", (key, TypeAdapter(JsonValue).dump_json(value).decode())
        )

    def keep(self, trials: Sequence[TuningTrial]) -> None:
        """Write trials down as they stand now. Raises StoppedError where the disk is full."""
        for trial in trials:
            self._write("INSERT OR REPLACE INTO trials VALUES (?, ?)", (trial.number, trial.model_dump_json()))

    def _write(self, statement: str, values: tuple[object, ...]) -> None:
        try:
            self._database.execute(statement, values)
        except sqlite3.OperationalError as error:
            msg = f"the journal of the search could not be written ({error}); free some disk and go on by --resume"
            raise StoppedError(msg) from error


def read(folder: Path) -> tuple[dict[str, JsonValue], list[TuningTrial]]:
    """Facts and trials of a search, whether it goes on or not.

    Args:
        folder: of the search.

    Raises:
        BadInputError: there is none, or its file is damaged.
    """
    path = folder / JOURNAL
    if not path.exists():
        msg = f"{folder} holds no search: there is no {JOURNAL}"
        raise BadInputError(msg)
    try:
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
            pairs = ", ".join(f'"{key}": {value}' for key, value in database.execute("SELECT key, value FROM facts"))
            rows = database.execute("SELECT record FROM trials ORDER BY number").fetchall()
        return _FACTS.validate_json(f"{{{pairs}}}"), [TuningTrial.model_validate_json(record) for (record,) in rows]
    except (sqlite3.DatabaseError, ValidationError) as error:
        msg = f"{path}: not the journal of a search, or damaged ({' '.join(str(error).split())[:200]})"
        raise BadInputError(msg) from error


def _locked(folder: Path) -> IO[str]:
    lock = (folder / "tuning.lock").open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        lock.close()
        msg = f"another process is searching in {folder}; wait for it, or choose another --out"
        raise BadInputError(msg) from error
    return lock
