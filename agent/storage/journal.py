"""The campaign's memory: one SQLite file, written before each step is taken.

Whatever the loop is about to do, it writes down first (WAL, synchronous=FULL: on disk when the call returns). So a
campaign killed at any point can be continued, and no exposure is forgotten. Bulk data live in HDF5 files beside it
(acquisition_file, reconstruction_file). Three tables:

- `facts`: name -> JSON, one row for each field of `agent.storage.facts.CampaignFacts` that is known.
- `trials`: number -> the trial's present state (agent.records.Trial).
- `entries`: the history, append-only: every change of the other two, with its time.
"""

from __future__ import annotations

import fcntl
import json
import os
import sqlite3
from collections.abc import Iterable, Iterator, Set
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Self, Unpack

from pydantic import JsonValue, ValidationError
from pydantic_core import to_json

from agent.errors import BadInputError, StoppedError
from agent.records import CampaignRecord, ElectronBudget, Trial
from agent.storage.facts import CampaignFacts, FactChanges, InstrumentLink
from instrument.models import Record

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


_DISK_FULL = (
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_IOERR_WRITE,
    sqlite3.SQLITE_IOERR_FSYNC,
    sqlite3.SQLITE_IOERR_TRUNCATE,
    sqlite3.SQLITE_IOERR_SHMSIZE,
)
"""What SQLite says where disk, quota or the limit of file sizes are reached."""
_NO_ROOM = "the disk is full: the journal could not be written; free some and resume"

_REQUIRED = {name for name, field in CampaignFacts.model_fields.items() if field.is_required()}


class Entry(Record):
    """One line of the history."""

    number: int
    time: str
    kind: str
    trial: int | None
    value: JsonValue


class Journal:
    """The journal of one campaign folder, held by one agent at a time.

    Use `create` or `open` as a context manager; every method that writes has committed to disk when it returns.

    Attributes:
        folder: of the campaign.
        facts: what is known of the campaign besides its trials, as it is on disk.
    """

    def __init__(self, folder: Path, connection: sqlite3.Connection, lock: int, facts: CampaignFacts) -> None:
        self.folder = folder
        self.facts = facts
        self._connection = connection
        self._lock = lock

    @classmethod
    def create(cls, folder: Path, facts: CampaignFacts) -> Self:
        """Start the journal of a new campaign, in one transaction.

        Args:
            folder: of the campaign; made if missing.
            facts: what is known so far.

        Raises:
            BadInputError: the folder exists and is not empty, or cannot be written.
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
            journal = cls(folder, connection, lock, facts)
            with _transaction(connection):
                connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
                for statement in filter(str.strip, _SCHEMA.split(";")):
                    connection.execute(statement)
                journal._put(facts, [name for name in CampaignFacts.model_fields if name in facts.model_fields_set])
        except BaseException:
            os.close(lock)
            raise
        return journal

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Continue the journal of a campaign.

        Args:
            folder: of the campaign.

        Raises:
            BadInputError: the folder holds no campaign, is damaged, is of a newer version, or another agent has it.
        """
        _require(folder)
        lock = _take_lock(folder)
        try:
            connection = _connect(folder)
            _check_version(folder, connection)
            with _damage(folder):
                facts = CampaignFacts.model_validate(_read_facts(folder, connection, _REQUIRED))
        except BaseException:
            os.close(lock)
            raise
        return cls(folder, connection, lock, facts)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file and let another agent have the folder."""
        self._connection.close()
        os.close(self._lock)

    def write(self, **changes: Unpack[FactChanges]) -> None:
        """Write facts, new or changed, in one transaction."""
        facts = CampaignFacts.model_validate({**dict(self.facts), **changes})
        with _transaction(self._connection):
            self._put(facts, changes)
        self.facts = facts

    def write_trial(self, trial: Trial) -> None:
        """Write the state of a trial, new or changed."""
        text = trial.model_dump_json()
        with _transaction(self._connection):
            self._connection.execute(
                "INSERT INTO trials VALUES (?, ?) ON CONFLICT(number) DO UPDATE SET record = excluded.record",
                (trial.number, text),
            )
            self._append(f"trial {trial.state}", trial.number, text)

    def note(self, kind: str, trial: int | None = None, **value: str) -> None:
        """Append to the history what is neither fact nor trial: an operator's command, an alarm, a connection.

        Args:
            kind: what happened, in a word or two.
            trial: number of the trial that it concerns, if any.
            value: whatever belongs to it.
        """
        with _transaction(self._connection):
            self._append(kind, trial, json.dumps(value))

    def trials(self) -> list[Trial]:
        """All trials in order."""
        with _damage(self.folder):
            return _read_trials(self._connection)

    def record(self) -> CampaignRecord:
        """The campaign as it stands."""
        return _read_record(self.folder, self._connection)

    def _put(self, facts: CampaignFacts, names: Iterable[str]) -> None:
        for key in names:
            text = to_json(getattr(facts, key)).decode()
            self._connection.execute(
                "INSERT INTO facts VALUES (?, ?) ON CONFLICT(key) DO UPDATE SET value = excluded.value", (key, text)
            )
            self._append(key, None, text)

    def _append(self, kind: str, trial: int | None, text: str) -> None:
        self._connection.execute(
            "INSERT INTO entries (time, kind, trial, value) VALUES (?, ?, ?, ?)", (utc_now(), kind, trial, text)
        )


def is_begun(folder: Path) -> bool:
    """Whether a campaign has a journal; before it is complete nothing is exposed. One that cannot be read counts as begun.

    Args:
        folder: of the campaign, or of none.
    """
    path = folder / JOURNAL
    if not path.is_file():
        return False
    connection = sqlite3.connect(path.resolve().as_uri() + "?mode=ro", uri=True, timeout=10)
    try:
        (version,) = connection.execute("PRAGMA user_version").fetchone()
    except sqlite3.Error:
        return True
    finally:
        connection.close()
    return bool(version)


def load_campaign(folder: Path | str) -> CampaignRecord:
    """Read a campaign, running or finished, without disturbing whoever runs it.

    Args:
        folder: of the campaign.

    Raises:
        BadInputError: the folder holds no campaign, is damaged or of another journal version.
    """
    folder = Path(folder)
    with _reading(folder) as connection:
        return _read_record(folder, connection)


def load_link(folder: Path | str) -> InstrumentLink:
    """How a campaign reached its instrument. Raises BadInputError."""
    folder = Path(folder)
    with _reading(folder) as connection, _damage(folder):
        return InstrumentLink.model_validate(_read_facts(folder, connection, {"link"})["link"])


def load_history(folder: Path | str) -> list[Entry]:
    """Everything that was journalled, in order. Raises BadInputError."""
    with _reading(Path(folder)) as connection, _damage(Path(folder)):
        rows = connection.execute("SELECT number, time, kind, trial, value FROM entries ORDER BY number")
        return [Entry(number=n, time=t, kind=k, trial=trial, value=json.loads(v)) for n, t, k, trial, v in rows]


def require_new(folder: Path) -> None:
    """Refuse a folder that cannot hold a new campaign because something is in it.

    Args:
        folder: may exist where nothing but a started instrument's own state is in it.

    Raises:
        BadInputError: it is a file, or not empty.
    """
    if folder.is_dir() and any(entry.name != INSTRUMENT for entry in folder.iterdir()):
        resumed = f"`ptychopilot resume {folder}` continues the campaign in it"
        hint = resumed if (folder / JOURNAL).exists() else "is not empty"
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
        if _errorcode(error) in _DISK_FULL:
            raise StoppedError(_NO_ROOM) from error
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
    except sqlite3.DatabaseError as error:
        if _errorcode(error) in _DISK_FULL:
            raise StoppedError(_NO_ROOM) from error
        if isinstance(error, sqlite3.OperationalError):
            raise
        msg = f"{JOURNAL}: damaged ({error}); what has been acquired lies in the folder's other files"
        raise BadInputError(msg) from error


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
    if version == 0 and not any((folder / "acquisitions").glob("*")):
        msg = f"{folder}: this campaign was ended before it began, and nothing was exposed; delete the folder and run it again"
        raise BadInputError(msg)
    if version != SCHEMA_VERSION:
        msg = f"{folder / JOURNAL}: written with journal version {version}, this program reads version {SCHEMA_VERSION}"
        raise BadInputError(msg)


def _errorcode(error: sqlite3.Error) -> int | None:
    """What SQLite calls it; None where Python itself has found it, such as text that is none."""
    return getattr(error, "sqlite_errorcode", None)


@contextmanager
def _damage(folder: Path) -> Iterator[None]:
    """What SQLite or the records refuse becomes a BadInputError."""
    try:
        yield
    except (sqlite3.Error, ValidationError, ValueError, TypeError, KeyError, AttributeError, LookupError) as error:
        msg = f"{folder / JOURNAL}: damaged ({(str(error) or type(error).__name__).splitlines()[0][:200]})"
        raise BadInputError(msg) from error


def _read_facts(folder: Path, connection: sqlite3.Connection, required: Set[str]) -> dict[str, JsonValue]:
    """The facts that are known, as JSON values by the names of CampaignFacts."""
    rows = connection.execute("SELECT key, value FROM facts")
    known: dict[str, JsonValue] = {key: json.loads(text) for key, text in rows if key in CampaignFacts.model_fields}
    if not required <= known.keys():
        msg = f"{folder}: the journal is incomplete; run the campaign again in another folder"
        raise BadInputError(msg)
    config = known.get("config")
    # what began before there were two passes, a prior, a choice of the model, or final passes, goes on without
    if isinstance(config, dict):
        config.setdefault("passes", 1)
        config.setdefault("prior", "none")
        if isinstance(chosen := config.get("reconstruction"), dict):
            config["reconstruction"] = {"model": "given", "final_passes": 0, **chosen}
    return known


def _read_trials(connection: sqlite3.Connection) -> list[Trial]:
    rows = connection.execute("SELECT record FROM trials ORDER BY number")
    return [Trial.model_validate_json(text) for (text,) in rows]


def _read_record(folder: Path, connection: sqlite3.Connection) -> CampaignRecord:
    with _damage(folder):
        with _transaction(connection, "DEFERRED"):  # one consistent view while the agent writes
            known = _read_facts(folder, connection, {"config", "description"})
            trials = _read_trials(connection)
        shared = {name: value for name, value in known.items() if name in CampaignRecord.model_fields}
        record = CampaignRecord.model_validate({"folder": str(folder), "trials": trials, **shared})
    spent = ElectronBudget.of_campaign(record.config, trials).spent
    return record.model_copy(update={"electrons_spent": spent})
