"""The file of a ledger: its tables, its versions, and how it is opened."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from instrument.audit import AuditTrail, check_end, head_of
from instrument.dose_map import DoseMap
from instrument.errors import ConflictError, InstrumentError
from instrument.safe_note import SafeNote

FILE_NAME = "ledger.sqlite"
SCHEMA_VERSION = 3
HAS_NOTE = 0x70747953
"""SQLite's application id of a ledger beside which there is a note of SAFE; 0 where there never was one."""

_SCHEMA = """
CREATE TABLE campaigns (
    id TEXT PRIMARY KEY,
    budget REAL NOT NULL CHECK (budget > 0),
    opened_at TEXT NOT NULL
) STRICT;
CREATE TABLE acquisitions (
    series INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    campaign TEXT NOT NULL REFERENCES campaigns (id),
    region TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('reserved', 'running', 'done', 'aborted', 'failed')),
    plan TEXT NOT NULL,
    plan_check TEXT NOT NULL,
    electrons REAL NOT NULL CHECK (electrons >= 0),
    dose REAL NOT NULL CHECK (dose >= 0),
    frames INTEGER NOT NULL DEFAULT 0,
    reason TEXT NOT NULL DEFAULT '',
    reserved_at TEXT NOT NULL,
    started_at TEXT NOT NULL DEFAULT '',
    finished_at TEXT NOT NULL DEFAULT ''
) STRICT;
CREATE INDEX acquisitions_by_campaign ON acquisitions (campaign);
CREATE TABLE fence (number INTEGER NOT NULL) STRICT;
INSERT INTO fence VALUES (0);
CREATE TABLE events (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    at TEXT NOT NULL,
    kind TEXT NOT NULL CHECK (kind IN ('safe', 'resume')),
    operator TEXT NOT NULL,
    reason TEXT NOT NULL
) STRICT;
"""
# Version 2: nothing that is asked while a campaign runs needs a look at every line.
_SCHEMA_2 = """
ALTER TABLE campaigns ADD COLUMN spent REAL NOT NULL DEFAULT 0.0;
ALTER TABLE acquisitions ADD COLUMN y0 REAL NOT NULL DEFAULT 0.0;
ALTER TABLE acquisitions ADD COLUMN x0 REAL NOT NULL DEFAULT 0.0;
ALTER TABLE acquisitions ADD COLUMN y1 REAL NOT NULL DEFAULT 0.0;
ALTER TABLE acquisitions ADD COLUMN x1 REAL NOT NULL DEFAULT 0.0;
UPDATE acquisitions SET
    y0 = json_extract(plan_check, '$.illuminated.y') + 0.0,
    x0 = json_extract(plan_check, '$.illuminated.x') + 0.0,
    y1 = json_extract(plan_check, '$.illuminated.y') + json_extract(plan_check, '$.illuminated.height') + 0.0,
    x1 = json_extract(plan_check, '$.illuminated.x') + json_extract(plan_check, '$.illuminated.width') + 0.0;
UPDATE campaigns SET spent = (
    SELECT COALESCE(SUM(electrons), 0.0) FROM acquisitions
    WHERE campaign = campaigns.id AND state NOT IN ('reserved', 'running')
);
CREATE INDEX acquisitions_open ON acquisitions (campaign, electrons) WHERE state IN ('reserved', 'running');
CREATE INDEX acquisitions_by_place ON acquisitions (y0, y1, x0, x1) WHERE dose > 0;
"""
# Version 3: who did what, as a chain of hashes, with the sums of the books after every change.
_SCHEMA_3 = """
CREATE TABLE audit (
    number INTEGER PRIMARY KEY,
    at TEXT NOT NULL,
    who TEXT NOT NULL,
    what TEXT NOT NULL,
    detail TEXT NOT NULL,
    hash TEXT NOT NULL
) STRICT;
CREATE TABLE sums (
    campaigns INTEGER NOT NULL,
    budget REAL NOT NULL,
    spent REAL NOT NULL,
    acquisitions INTEGER NOT NULL,
    electrons REAL NOT NULL,
    dose REAL NOT NULL,
    corners REAL NOT NULL,
    frames INTEGER NOT NULL,
    events INTEGER NOT NULL
) STRICT;
INSERT INTO sums SELECT (SELECT COUNT(*) FROM campaigns), (SELECT TOTAL(budget) FROM campaigns),
    (SELECT TOTAL(spent) FROM campaigns), COUNT(*), TOTAL(electrons), TOTAL(dose),
    TOTAL(y0 + 3 * x0 + 7 * y1 + 11 * x1), TOTAL(frames), (SELECT COUNT(*) FROM events) FROM acquisitions;
CREATE TRIGGER sums_of_a_campaign AFTER INSERT ON campaigns BEGIN
    UPDATE sums SET campaigns = campaigns + 1, budget = budget + NEW.budget, spent = spent + NEW.spent;
END;
CREATE TRIGGER sums_of_spending AFTER UPDATE OF spent ON campaigns BEGIN
    UPDATE sums SET spent = spent + NEW.spent - OLD.spent;
END;
CREATE TRIGGER sums_of_an_acquisition AFTER INSERT ON acquisitions BEGIN
    UPDATE sums SET acquisitions = acquisitions + 1, electrons = electrons + NEW.electrons, dose = dose + NEW.dose,
        corners = corners + NEW.y0 + 3 * NEW.x0 + 7 * NEW.y1 + 11 * NEW.x1, frames = frames + NEW.frames;
END;
CREATE TRIGGER sums_of_an_end AFTER UPDATE OF electrons, dose, frames ON acquisitions BEGIN
    UPDATE sums SET electrons = electrons + NEW.electrons - OLD.electrons, dose = dose + NEW.dose - OLD.dose,
        frames = frames + NEW.frames - OLD.frames;
END;
CREATE TRIGGER sums_of_events AFTER INSERT ON events BEGIN
    UPDATE sums SET events = events + 1;
END;
"""


def close_ledger(database: sqlite3.Connection, path: Path) -> None:
    """Close it, and note beside it what it looks like then, so that nobody has to read all of it to know that it is sound.

    Args:
        database: of the ledger.
        path: of its file.
    """
    database.close()
    with suppress(OSError):
        path.with_suffix(".closed").write_text(_looks(path), encoding="ascii")


def _looks(path: Path) -> str:
    found = path.stat()
    return f"{found.st_size} {found.st_mtime_ns}\n"


def _untouched(path: Path) -> bool:
    """Whether a server has closed it, and nobody has written to it since. True once only."""
    note = path.with_suffix(".closed")
    try:
        told = note.read_text(encoding="ascii", errors="replace")
        note.unlink()
        return told == _looks(path)
    except OSError:
        return False


def open_ledger(database: sqlite3.Connection, path: Path, now: str) -> tuple[DoseMap, AuditTrail, SafeNote]:
    """Take possession of the file; a new one gets its tables, one of an earlier version is brought up to date.

    Args:
        database: just connected to `path`.
        path: named in messages.
        now: ISO 8601 with zone.

    Returns:
        The map of its acquisitions, its audit trail, and its note of SAFE.

    Raises:
        ConflictError: another server has it open.
        InstrumentError: the file is not a ledger, or one of a later version.
    """
    try:
        # Exclusive locking keeps a second server away from the same books, on Windows too.
        database.execute("PRAGMA locking_mode=EXCLUSIVE")
        database.execute("PRAGMA journal_mode=WAL")
        database.execute("PRAGMA synchronous=FULL")
        database.execute("PRAGMA foreign_keys=ON")
        database.execute("BEGIN EXCLUSIVE")
        untouched = _untouched(path)
        version = database.execute("PRAGMA user_version").fetchone()[0]
        if version > SCHEMA_VERSION:
            msg = f"{path} was written by a later version (schema {version}); update this one"
            raise InstrumentError(msg)
        for statement in _statements("".join((_SCHEMA, _SCHEMA_2, _SCHEMA_3)[version:])):
            database.execute(statement)
        database.execute(f"PRAGMA user_version={SCHEMA_VERSION}")
        trail = AuditTrail(database, path)
        if version < SCHEMA_VERSION:
            trail.begin(now, SCHEMA_VERSION, version)
        _require_sound(database, path, structure=not untouched)
        dose_map = DoseMap(database)
        note = _open_note(database, path)
        try:
            database.execute("COMMIT")
        except sqlite3.Error:
            note.close()
            raise
        trail.seal()
    except sqlite3.OperationalError as error:
        if "locked" not in str(error):
            msg = f"{path} cannot be opened ({error}); look at its disk and its rights, or restore a copy"
            raise InstrumentError(msg) from error
        msg = f"{path} is in use by another server; stop it or give this one another state directory"
        raise ConflictError(msg) from error
    except (sqlite3.DatabaseError, ValueError) as error:  # sqlite3 cannot decode what it wants to complain of
        msg = f"{path} is not a ledger ({error}); move it away or give another state directory"
        raise InstrumentError(msg) from error
    return dose_map, trail, note


def _open_note(database: sqlite3.Connection, path: Path) -> SafeNote:
    expected = database.execute("PRAGMA application_id").fetchone()[0] == HAS_NOTE
    note = SafeNote(path, expected=expected)
    if not expected:
        database.execute(f"PRAGMA application_id={HAS_NOTE}")
    return note


def _statements(script: str) -> Iterator[str]:
    statement = ""
    for part in script.split(";")[:-1]:
        statement += part + ";"
        if sqlite3.complete_statement(statement):  # a trigger has semicolons inside
            yield statement
            statement = ""


_STRAY = (
    "SELECT 1 FROM acquisitions WHERE campaign NOT IN (SELECT id FROM campaigns) OR y1 < y0 OR x1 < x0 "
    "OR (electrons > 0 AND dose <= 0) LIMIT 1"
)


def _require_sound(database: sqlite3.Connection, path: Path, *, structure: bool) -> None:
    """Refuse books that contradict themselves: they would open with fewer electrons than have been spent.

    Every campaign has the sum of its lines beside them, so that damage to either is seen; SQLite looks at structure, types and
    the conditions of the columns, which takes the longest: not where a server closed the file and nobody has written since.
    """
    found = [str(row[0]) for row in database.execute("PRAGMA integrity_check(1)")] if structure else ["ok"]
    wrong = "" if found == ["ok"] else found[0]
    if not wrong:
        row = database.execute(
            "SELECT id, spent, told FROM (SELECT id, spent, (SELECT COALESCE(SUM(electrons), 0.0) FROM acquisitions "
            "WHERE campaign = campaigns.id AND state NOT IN ('reserved', 'running')) AS told FROM campaigns) "
            "WHERE ABS(spent - told) > 1 + 1e-6 * told LIMIT 1"
        ).fetchone()
        if row is not None:
            wrong = f"campaign {row[0]} has {row[1]:g} electrons booked, its exposures have {row[2]:g}"
    if not wrong and database.execute(_STRAY).fetchone() is not None:
        wrong = "an exposure belongs to no campaign, or has no area or no dose"
    wrong = wrong or check_end(database, path)
    if wrong:
        msg = (
            f"{path} is damaged ({wrong}); nothing is exposed with books that may be too low: restore a copy of it and of "
            f"{head_of(path).name}, or move both away and count the specimen as used"
        )
        raise InstrumentError(msg)
