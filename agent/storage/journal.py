"""The campaign's memory: one SQLite file, written before each step is taken.

Whatever the loop is about to do, it writes down first (WAL, synchronous=FULL: on disk when the call returns). So a
campaign killed at any point can be continued, and no exposure is forgotten. Bulk data live in HDF5 files beside it
(acquisition_file, reconstruction_file). Three tables:

- `facts`: key -> JSON. Config, description, id, seed, versions, layout, endpoint, state, recommendation, model view.
- `trials`: number -> the trial's present state (agent.records.Trial).
- `entries`: the history, append-only: every change of the other two, with its time.
"""

from __future__ import annotations

import fcntl
import json
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from pydantic import Field, TypeAdapter, ValidationError

from agent.config import CampaignConfig
from agent.errors import BadInputError, StoppedError
from agent.records import CampaignLayout, CampaignRecord, ModelView, Recommendation, Trial
from instrument.models import Description, Record

SCHEMA_VERSION = 1
JOURNAL = "journal.sqlite"
LOCK = "journal.lock"
INSTRUMENT = "instrument"
"""Where in the folder an instrument that the agent has started itself keeps its own state."""
_SCHEMA = """
CREATE TABLE facts (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
CREATE TABLE trials (number INTEGER PRIMARY KEY, record TEXT NOT NULL) STRICT;
CREATE TABLE entries (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    time TEXT NOT NULL,
    kind TEXT NOT NULL,
    trial INTEGER,
    value TEXT NOT NULL
) STRICT;
"""


class InstrumentLink(Record):
    """How the campaign reaches its instrument."""

    endpoint: str = Field(description="ZeroMQ control endpoint")
    command: tuple[str, ...] | None = Field(
        default=None, description="the command that starts the instrument again, where the agent had started it"
    )


class Entry(Record):
    """One line of the history."""

    number: int
    time: str
    kind: str
    trial: int | None
    value: Any


_FACTS: dict[str, TypeAdapter[Any]] = {
    "config": TypeAdapter(CampaignConfig),
    "description": TypeAdapter(Description),
    "campaign": TypeAdapter(str),
    "link": TypeAdapter(InstrumentLink),
    "processing": TypeAdapter(str),
    "layout": TypeAdapter(CampaignLayout),
    "versions": TypeAdapter(dict[str, str]),
    "started": TypeAdapter(str),
    "finished": TypeAdapter(str),
    "state": TypeAdapter(str),
    "reason": TypeAdapter(str),
    "target": TypeAdapter(float),
    "recommended": TypeAdapter(Recommendation),
    "model_view": TypeAdapter(ModelView),
}


class Journal:
    """The journal of one campaign folder, held by one agent at a time.

    Use `create` or `open` as a context manager; every method that writes has committed to disk when it returns.
    """

    def __init__(self, folder: Path, connection: sqlite3.Connection, lock: int) -> None:
        self.folder = folder
        self._connection = connection
        self._lock = lock

    @classmethod
    def create(cls, folder: Path, **facts: Any) -> Self:
        """Start the journal of a new campaign with what is known of it so far (see `write`), in one transaction.

        Raises BadInputError where the folder exists and is not empty, or cannot be written.
        """
        require_new(folder)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lock = _take_lock(folder)
        except OSError as error:
            msg = f"{folder}: cannot be used as a campaign folder ({error.strerror})"
            raise BadInputError(msg) from error
        try:
            connection = _connect(folder)
            journal = cls(folder, connection, lock)
            with _transaction(connection):
                connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
                for statement in filter(str.strip, _SCHEMA.split(";")):
                    connection.execute(statement)
                journal._put(facts)
        except BaseException:
            os.close(lock)
            raise
        return journal

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Continue the journal of a campaign.

        Raises BadInputError where the folder is none, is damaged, is of a newer version, or another agent holds it.
        """
        _require(folder)
        lock = _take_lock(folder)
        try:
            connection = _connect(folder)
            _check_version(folder, connection)
        except BaseException:
            os.close(lock)
            raise
        return cls(folder, connection, lock)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file and let another agent have the folder."""
        self._connection.close()
        os.close(self._lock)

    def write(self, **facts: Any) -> None:
        """Write facts (see `_FACTS` for names and types) in one transaction."""
        with _transaction(self._connection):
            self._put(facts)

    def read(self, key: str) -> Any:
        """A fact, or None where it has not been written yet."""
        return _read_fact(self._connection, key)

    def write_trial(self, trial: Trial) -> None:
        """Write the state of a trial, new or changed."""
        text = trial.model_dump_json()
        with _transaction(self._connection):
            self._connection.execute(
                "INSERT INTO trials VALUES (?, ?) ON CONFLICT(number) DO UPDATE SET record = excluded.record",
                (trial.number, text),
            )
            self._append(f"trial {trial.state}", trial.number, text)

    def note(self, kind: str, trial: int | None = None, **value: Any) -> None:
        """Append to the history what is neither fact nor trial: an operator's command, an alarm, a connection."""
        with _transaction(self._connection):
            self._append(kind, trial, json.dumps(value))

    def trials(self) -> list[Trial]:
        """All trials in order."""
        return _read_trials(self._connection)

    def record(self) -> CampaignRecord:
        """The campaign as it stands."""
        return _read_record(self.folder, self._connection)

    def _put(self, facts: dict[str, Any]) -> None:
        for key, value in facts.items():
            text = _FACTS[key].dump_json(value).decode()
            self._connection.execute(
                "INSERT INTO facts VALUES (?, ?) ON CONFLICT(key) DO UPDATE SET value = excluded.value", (key, text)
            )
            self._append(key, None, text)

    def _append(self, kind: str, trial: int | None, text: str) -> None:
        self._connection.execute(
            "INSERT INTO entries (time, kind, trial, value) VALUES (?, ?, ?, ?)", (utc_now(), kind, trial, text)
        )


def load_campaign(folder: Path | str) -> CampaignRecord:
    """Read a campaign, running or finished, without disturbing whoever runs it. Raises BadInputError."""
    folder = Path(folder)
    with _reading(folder) as connection:
        return _read_record(folder, connection)


def load_link(folder: Path | str) -> InstrumentLink:
    """How a campaign reached its instrument. Raises BadInputError."""
    with _reading(Path(folder)) as connection:
        link: InstrumentLink = _read_fact(connection, "link")
        return link


def load_history(folder: Path | str) -> list[Entry]:
    """Everything that was journalled, in order. Raises BadInputError."""
    with _reading(Path(folder)) as connection:
        rows = connection.execute("SELECT number, time, kind, trial, value FROM entries ORDER BY number")
        return [Entry(number=n, time=t, kind=k, trial=trial, value=json.loads(v)) for n, t, k, trial, v in rows]


def require_new(folder: Path) -> None:
    """Raise BadInputError where `folder` cannot hold a new campaign because something is in it."""
    if folder.is_dir() and any(entry.name != INSTRUMENT for entry in folder.iterdir()):
        hint = (
            f"`ptychopilot resume {folder}` continues the campaign in it"
            if (folder / JOURNAL).exists()
            else "is not empty"
        )
        msg = f"{folder} exists and {hint}; choose another folder for a new campaign"
        raise BadInputError(msg)
    if folder.exists() and not folder.is_dir():
        msg = f"{folder} is a file; choose a folder for the campaign"
        raise BadInputError(msg)


def utc_now() -> str:
    """The time as the journal writes it: ISO 8601, UTC, milliseconds."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _require(folder: Path) -> None:
    if not (folder / JOURNAL).is_file():
        msg = f"{folder} is not a campaign folder (there is no {JOURNAL}); `ptychopilot run` makes one"
        raise BadInputError(msg)


def _take_lock(folder: Path) -> int:
    descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        msg = f"{folder}: another agent is running this campaign; stop it first"
        raise BadInputError(msg) from error
    return descriptor


def _connect(folder: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(folder / JOURNAL, timeout=10, isolation_level=None)
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
    except sqlite3.DatabaseError as error:
        connection.close()
        msg = f"{folder / JOURNAL}: damaged ({error})"
        raise BadInputError(msg) from error
    return connection


@contextmanager
def _transaction(connection: sqlite3.Connection, kind: str = "IMMEDIATE") -> Iterator[None]:
    try:
        connection.execute(f"BEGIN {kind}")
        try:
            yield
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode not in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_WRITE, sqlite3.SQLITE_IOERR_FSYNC):
            raise
        msg = "the disk is full: the journal could not be written; free some and resume"
        raise StoppedError(msg) from error


@contextmanager
def _reading(folder: Path) -> Iterator[sqlite3.Connection]:
    _require(folder)
    uri = (folder / JOURNAL).resolve().as_uri() + "?mode=ro"
    # A finished journal on a read-only medium cannot get the -shm file that WAL asks for, and needs none.
    if not (folder / f"{JOURNAL}-wal").exists() and not os.access(folder, os.W_OK):
        uri += "&immutable=1"
    connection = sqlite3.connect(uri, uri=True, timeout=10, isolation_level=None)
    try:
        _check_version(folder, connection)
        yield connection
    finally:
        connection.close()


def _check_version(folder: Path, connection: sqlite3.Connection) -> None:
    try:
        (version,) = connection.execute("PRAGMA user_version").fetchone()
    except sqlite3.DatabaseError as error:
        msg = f"{folder / JOURNAL}: damaged or not a journal ({error})"
        raise BadInputError(msg) from error
    if version != SCHEMA_VERSION:
        msg = f"{folder / JOURNAL}: written with journal version {version}, this program reads version {SCHEMA_VERSION}"
        raise BadInputError(msg)


def _read_fact(connection: sqlite3.Connection, key: str) -> Any:
    row = connection.execute("SELECT value FROM facts WHERE key = ?", (key,)).fetchone()
    return None if row is None else _FACTS[key].validate_json(row[0])


def _read_trials(connection: sqlite3.Connection) -> list[Trial]:
    rows = connection.execute("SELECT record FROM trials ORDER BY number")
    return [Trial.model_validate_json(text) for (text,) in rows]


def _read_record(folder: Path, connection: sqlite3.Connection) -> CampaignRecord:
    names = ("config", "description", "state", "recommended", "target", "model_view")
    try:
        with _transaction(connection, "DEFERRED"):  # one consistent view while the agent writes
            facts: dict[str, Any] = {name: _read_fact(connection, name) for name in names}
            texts = {name: _read_fact(connection, name) or "" for name in ("reason", "started", "finished")}
            versions = _read_fact(connection, "versions") or {}
            trials = _read_trials(connection)
    except (sqlite3.DatabaseError, ValidationError) as error:
        msg = f"{folder / JOURNAL}: damaged ({str(error).splitlines()[0]})"
        raise BadInputError(msg) from error
    if facts["config"] is None or facts["description"] is None:
        msg = f"{folder}: the journal is incomplete; run the campaign again in another folder"
        raise BadInputError(msg)
    return CampaignRecord(
        folder=str(folder),
        trials=tuple(trials),
        electrons_spent=sum(t.electrons for t in trials if t.role != "expert"),
        versions=versions,
        **facts,
        **texts,
    )
