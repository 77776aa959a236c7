"""Copies of the books, by SQLite's own backup: of a server that runs, and of a database that nobody writes.

A ledger is three files, the database, the head of its audit trail and the note of SAFE. The database is copied first: one that
is ahead of its head is whole, one that is behind has lost its end.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from instrument.audit import head_of
from instrument.errors import BadInputError
from instrument.ledger import Ledger
from instrument.ledger_file import FILE_NAME
from instrument.safe_note import note_of

log = logging.getLogger(__name__)

INTERVAL = 60.0
"""s between two copies of a ledger that changes."""
BACKUP_HELP = (
    "folder for a copy of the ledger, renewed within a minute of every change while nothing is exposed, and at the end"
)


class Backups:
    """Keeps a copy of a ledger that a server has open.

    Args:
        ledger: the books; used from its own thread.
        folder: of the copy; None: none is made.
        clock: monotonic time, s.
    """

    def __init__(self, ledger: Ledger, folder: Path | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._ledger = ledger
        self._folder = folder
        self._clock = clock
        self._copied = -1
        self._next = clock()

    def look(self) -> None:
        """Renew the copy where that is due. Called regularly, while nothing is exposed."""
        if self._folder is not None and self._clock() >= self._next:
            self.renew()

    def renew(self) -> None:
        """Renew the copy if the books have changed. A disk that takes none is no reason to stop."""
        if self._folder is None or self._ledger.changes == self._copied:
            return
        self._next = self._clock() + INTERVAL
        changes = self._ledger.changes
        try:
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._ledger.copy_to(lambda database: copy_database(database, _in(self._folder)))
            _copy_beside(self._ledger.path, _in(self._folder))
        except (OSError, sqlite3.Error) as error:
            log.warning("%s: the ledger could not be copied there (%s)", self._folder, error)
        else:
            self._copied = changes


def copy_ledger(state_dir: Path, folder: Path) -> None:
    """Copy the ledger of a server that does not run: a backup, or a restored one.

    Args:
        state_dir: holds the ledger.
        folder: must hold none yet; made if missing.

    Raises:
        BadInputError: there is no ledger, it is in use, or the folder has one.
    """
    source, target = state_dir / FILE_NAME, folder / FILE_NAME
    if not source.is_file():
        msg = f"{state_dir}: no {FILE_NAME} there; name the --state-dir of a server, or a copy of it"
        raise BadInputError(msg)
    if target.exists():
        msg = f"{target} exists, and a ledger is not replaced; move it away first"
        raise BadInputError(msg)
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with closing(sqlite3.connect(f"{source.resolve().as_uri()}?mode=rw", uri=True, timeout=0.5)) as database:
            copy_database(database, target)
        _copy_beside(source, target)
    except sqlite3.OperationalError as error:
        msg = f"{source} cannot be read ({error}); of a server that runs, `serve --backup FOLDER` keeps a copy"
        raise BadInputError(msg) from error
    except (OSError, sqlite3.DatabaseError) as error:
        msg = f"{source} cannot be copied to {folder} ({error})"
        raise BadInputError(msg) from error


def copy_database(source: sqlite3.Connection, target: Path) -> None:
    """Copy a database, as it stands after its last transaction, into a file that is whole or not there.

    Args:
        source: the database.
        target: is replaced.

    Raises:
        sqlite3.OperationalError: another program has it to itself.
    """
    # A backup waits for ever where another program has the database to itself; a look at it does not.
    source.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()
    part = target.with_name(f"{target.name}.part")
    part.unlink(missing_ok=True)
    with closing(sqlite3.connect(part)) as copy:
        source.backup(copy)
    _publish(part, target)


def _in(folder: Path | None) -> Path:
    assert folder is not None
    return folder / FILE_NAME


def _copy_beside(source: Path, target: Path) -> None:
    for place in (head_of, note_of):
        file, copy = place(source), place(target)
        if file.exists():  # an earlier version had none
            part = copy.with_name(f"{copy.name}.part")
            part.write_bytes(file.read_bytes())
            _publish(part, copy)
        elif place is note_of:  # it is missing in the copy as well, and counts as SAFE
            copy.unlink(missing_ok=True)


def _publish(part: Path, target: Path) -> None:
    descriptor = os.open(part, os.O_RDWR)
    try:
        os.fchmod(descriptor, 0o600) if hasattr(os, "fchmod") else None
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    part.replace(target)
