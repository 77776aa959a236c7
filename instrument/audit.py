"""The audit trail: who did what to the books, and when, as a chain of hashes in the ledger itself.

Every entry carries the SHA-256 of itself and of the entry before, the hash of the line that it wrote, and the sums of the books
after it. A file beside the ledger, its head, says how far the chain goes, so that a ledger whose end is missing is noticed too.
Opening checks the last `CHECKED` entries with their lines, and all sums; `python -m instrument audit` checks everything. It tells
damage and mistakes, not a forger: who can write both files can make another chain.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import sqlite3
from collections.abc import Container, Iterable, Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import Any, BinaryIO, Literal, NamedTuple

log = logging.getLogger(__name__)

SERVER = "the server"
ACTING: ContextVar[str] = ContextVar("acting", default=SERVER)
"""Whose request is being carried out: the holder of the lease and the name of the client's key; tasks inherit it."""
CHECKED = 10_000
"""Entries at the end of the chain that are checked whenever a ledger is opened."""
BEGINNING = ("version", "carried over")
"""What is written when a ledger is made or brought up to date, before there is a head."""

Table = Literal["campaigns", "acquisitions", "events"]
_LINES = {
    "campaigns": ("SELECT id, budget, opened_at FROM campaigns", "id"),
    "acquisitions": ("SELECT * FROM acquisitions", "id"),
    "events": ("SELECT * FROM events", "number"),
}
_SUMS = """
SELECT (SELECT COUNT(*) FROM campaigns), (SELECT TOTAL(budget) FROM campaigns), (SELECT TOTAL(spent) FROM campaigns),
    COUNT(*), TOTAL(electrons), TOTAL(dose), TOTAL(y0 + 3 * x0 + 7 * y1 + 11 * x1), TOTAL(frames),
    (SELECT COUNT(*) FROM events) FROM acquisitions
"""
_NAMES = (
    *("campaigns", "budgets", "electrons spent", "acquisitions", "electrons charged", "doses", "corners", "frames"),
    "events",
)


class AuditEntry(NamedTuple):
    """One entry of the trail.

    Attributes:
        number: counts from 1.
        at: ISO 8601 with zone.
        who: the server; or the holder of the lease, with the name of the client's key; or an operator.
        what: version, carried over, campaign, reserved, started, done, aborted, failed, safe, resume.
        detail: canonical JSON: the line of the books that was written, its hash, and the sums afterwards.
        hash: SHA-256 of the entry before and of this one.
    """

    number: int
    at: str
    who: str
    what: str
    detail: str
    hash: str

    def follows(self, before: str) -> bool:
        """Whether it was written after the entry whose hash is `before`."""
        return self.hash == _hash_of(before, self[:5])

    @property
    def told(self) -> dict[str, Any]:
        """The detail as JSON values."""
        found: dict[str, Any] = json.loads(self.detail)
        return found


class AuditTrail:
    """Writes the trail of one ledger.

    Args:
        database: of the ledger, with its tables.
        path: of the ledger's file.
    """

    def __init__(self, database: sqlite3.Connection, path: Path) -> None:
        self._db = database
        self._path = head_of(path)
        self._file: BinaryIO | None = None
        self._sealed: AuditEntry | None = None
        self._schema = _schema_of(database)

    def add(
        self, at: str, what: str, table: Table | None = None, key: str | int = "", *, who: str = "", **told: Any
    ) -> None:
        """Write an entry, in the transaction that changes the books, after the change.

        Args:
            at: ISO 8601 with zone.
            what: has been done.
            table: of the line that it was done to; None: to no line.
            key: of that line.
            who: has done it; "": whose request is being carried out.
            told: what a reader wants to know besides.
        """
        last = last_entry(self._db)
        before, number = (last.hash, last.number + 1) if last else ("", 1)
        sums = tuple(self._db.execute("SELECT * FROM sums").fetchone())
        told |= {"sums": sums, "fence": _fence(self._db), "schema": self._schema}
        if table is not None:
            told |= {"table": table, "key": key, "line": _line_of(self._db, table, key)}
        words = (number, at, who or ACTING.get(), what, _canonical(told))
        self._db.execute("INSERT INTO audit VALUES (?, ?, ?, ?, ?, ?)", (*words, _hash_of(before, words)))

    def begin(self, at: str, version: int, before: int) -> None:
        """Write the first entries, of what the books hold already.

        Args:
            at: ISO 8601 with zone.
            version: of the tables.
            before: version that they had; 0: they are new.
        """
        still_open = "SELECT id FROM acquisitions WHERE state IN ('reserved', 'running')"
        open_ones = {row[0] for row in self._db.execute(still_open)}
        until = int(self._db.execute("SELECT COALESCE(MAX(series), 0) FROM acquisitions").fetchone()[0])
        carried = _digest(self._db, until, open_ones)
        self.add(at, "version", version=version, before=before, until=until, carried=carried)
        known: tuple[tuple[Table, str], ...] = (
            ("campaigns", "SELECT id FROM campaigns"),
            ("acquisitions", still_open),
            ("events", "SELECT number FROM events"),
        )
        for table, select in known:
            for row in self._db.execute(select).fetchall():
                self.add(at, "carried over", table, row[0])

    def seal(self) -> None:
        """Write down how far the chain goes. Called after every commit: a kill in between leaves a head that is behind."""
        last = last_entry(self._db)
        if last is None or last == self._sealed:
            return
        try:
            if first := self._file is None:
                self._path.touch()
                self._file = self._path.open("r+b", buffering=0)
            assert self._file is not None
            self._file.seek(0)
            self._file.write(f"{last.number:020d} {last.hash}\n".encode("ascii"))
            if first:
                os.fsync(self._file.fileno())
            self._sealed = last
        except OSError as error:
            log.warning("%s cannot be written (%s); that the ledger lost its end would not be seen", self._path, error)

    def close(self) -> None:
        """Release the head's file."""
        if self._file is not None:
            self._file.close()


def head_of(path: Path) -> Path:
    """The file beside a ledger that says how far its trail goes."""
    return path.with_suffix(".head")


def last_entry(database: sqlite3.Connection) -> AuditEntry | None:
    """The end of the chain; None where there is none yet."""
    row = database.execute("SELECT * FROM audit ORDER BY number DESC LIMIT 1").fetchone()
    return None if row is None else AuditEntry(*row)


def entries(database: sqlite3.Connection, after: int = 0) -> Iterator[AuditEntry]:
    """The trail from one entry on.

    Args:
        database: of the ledger.
        after: number of the entry before the first.
    """
    rows = database.execute("SELECT * FROM audit WHERE number > ? ORDER BY number", (after,))
    return (AuditEntry(*row) for row in rows)


def check_end(database: sqlite3.Connection, path: Path) -> str:
    """What is wrong with the end of the trail, its head, the sums of the books or the lines written last; "" if nothing.

    Args:
        database: of the ledger.
        path: of its file.
    """
    last = last_entry(database)
    if last is None:
        return "its audit trail is missing"
    after = max(0, last.number - CHECKED)
    lines: dict[tuple[str, str | int], str] = {}
    for _, wrong in chained(entries(database, after), _hash_at(database, after), lines):
        if wrong:
            return wrong
    return check_head(database, path, last) or check_sums(database, last) or check_lines(database, lines)


def chained(
    found: Iterable[AuditEntry], before: str, lines: dict[tuple[str, str | int], str]
) -> Iterator[tuple[AuditEntry, str]]:
    """Entries, and what is wrong with each: "" where it follows from the one before.

    Args:
        found: in their order.
        before: hash of the entry before the first.
        lines: takes the newest hash of every line of the books.
    """
    number = None
    for each in found:
        if not each.follows(before) or each.number != (number or each.number):
            yield each, f"entry {each.number} of its audit trail does not follow from the one before"
            return
        before, number = each.hash, each.number + 1
        told = each.told
        if "line" in told:
            lines[told["table"], told["key"]] = told["line"]
        yield each, ""


def check_head(database: sqlite3.Connection, path: Path, last: AuditEntry) -> str:
    """What is wrong with the head; "" if nothing.

    Args:
        database: of the ledger.
        path: of its file.
        last: entry of the trail.
    """
    file = head_of(path)
    try:
        text = file.read_bytes()
    except OSError:
        text = b""
    if not text:
        return "" if last.what in BEGINNING else f"{file.name}, the head of its audit trail, is missing or empty"
    number, _, digest = text.decode("ascii", "replace").strip().partition(" ")
    if not number.isdecimal() or len(text) != 86:
        return f"{file.name}, the head of its audit trail, is not one"
    if int(number) > last.number:
        return f"its audit trail ends with entry {last.number}, {int(number)} have been written"
    if _hash_at(database, int(number)) != digest:
        return f"entry {int(number)} of its audit trail is not the one that {file.name} tells of"
    return ""


def check_sums(database: sqlite3.Connection, last: AuditEntry) -> str:
    """In which sum the books differ from the last entry; "" if in none.

    Args:
        database: of the ledger.
        last: entry of the trail.
    """
    told = last.told
    for name, then, now in zip(_NAMES, told["sums"], database.execute(_SUMS).fetchone(), strict=True):
        if abs(then - now) > 1e-9 * max(abs(then), abs(now)) + 1e-3:
            return f"the sum of {name} is {now:.12g}, the audit trail has {then:.12g}"
    if _fence(database) < told["fence"]:
        return f"its fence number is {_fence(database)}, it was {told['fence']}"
    return "" if _schema_of(database) == told["schema"] else "its tables are not as they were made"


def check_lines(database: sqlite3.Connection, lines: dict[tuple[str, str | int], str]) -> str:
    """Which line of the books is not as it was written last; "" if none.

    Args:
        database: of the ledger.
        lines: table and key of each, and its hash.
    """
    for (table, key), written in lines.items():
        if _line_of(database, table, key) != written:
            return f"line {key} of its {table} is not as it was written"
    return ""


def check_all(database: sqlite3.Connection, path: Path) -> Iterator[tuple[AuditEntry | None, str]]:
    """Every entry, and what is wrong with it; then None and what is wrong with the head, the sums and any line of the books.

    Args:
        database: of the ledger.
        path: of its file.
    """
    lines: dict[tuple[str, str | int], str] = {}
    first = last = None
    for each, wrong in chained(entries(database), "", lines):
        yield each, wrong
        if wrong:
            return
        first, last = first or each, each
    if first is None or last is None or first.number != 1:
        yield None, "its audit trail is missing"
        return
    wrong = check_head(database, path, last) or check_sums(database, last) or check_lines(database, lines)
    yield None, wrong or _check_carried(database, first.told, {key for table, key in lines if table == "acquisitions"})


def _check_carried(database: sqlite3.Connection, told: dict[str, Any], newer: Container[str | int]) -> str:
    if _digest(database, told["until"], newer) == told["carried"]:
        return ""
    return "one of the exposures from before its audit trail began is not as it was"


def _digest(database: sqlite3.Connection, until: int, newer: Container[str | int]) -> str:
    """Hash of the acquisitions up to a number, without those that have entries of their own."""
    digest = hashlib.sha256()
    cursor = database.cursor()
    cursor.row_factory = None
    for row in cursor.execute("SELECT id, * FROM acquisitions WHERE series <= ? ORDER BY series", (until,)):
        if row[0] not in newer:
            digest.update(_canonical(row[1:]).encode())
    return digest.hexdigest()


def _line_of(database: sqlite3.Connection, table: str, key: str | int) -> str:
    select, column = _LINES[table]
    row = database.execute(f"{select} WHERE {column} = ?", (key,)).fetchone()
    return "" if row is None else hashlib.sha256(_canonical(list(row)).encode()).hexdigest()


def _hash_at(database: sqlite3.Connection, number: int) -> str:
    row = database.execute("SELECT hash FROM audit WHERE number = ?", (number,)).fetchone()
    return "" if row is None else str(row[0])


def _fence(database: sqlite3.Connection) -> int:
    return int(database.execute("SELECT number FROM fence").fetchone()[0])


def _schema_of(database: sqlite3.Connection) -> str:
    """Hash of the tables, indices and triggers; those of the map differ with SQLite."""
    rows = database.execute("SELECT name, sql FROM sqlite_master WHERE name NOT LIKE 'map%' ORDER BY name")
    return hashlib.sha256(_canonical([list(row) for row in rows]).encode()).hexdigest()[:16]


def _canonical(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), sort_keys=True)


def _hash_of(before: str, words: tuple[Any, ...]) -> str:
    return hashlib.sha256((before + _canonical(list(words))).encode("utf-8", "surrogatepass")).hexdigest()
