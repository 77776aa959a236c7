"""A copy of a campaign folder, also while its agent runs: the journal by SQLite's own backup, then the files that it tells of."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

from agent.errors import BadInputError
from agent.storage.journal import JOURNAL
from instrument.backup import copy_database

_PASSING = (".part", ".lock", "-wal", "-shm")
_SECRET = "control.json"
"""Of a running agent only."""


def back_up(folder: Path, target: Path) -> int:
    """Copy a campaign.

    The journal is first: whatever it tells of lies in the folder already, since files are written before their entries.

    Args:
        folder: of the campaign.
        target: must not exist, or be empty.

    Returns:
        How many files were copied.

    Raises:
        BadInputError: the folder is no campaign, a database in it is in use, or `target` cannot be written.
    """
    if not (folder / JOURNAL).is_file():
        msg = f"{folder} is not a campaign folder (there is no {JOURNAL})"
        raise BadInputError(msg)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        msg = f"{target} is not empty; a backup goes into a new folder"
        raise BadInputError(msg)
    try:
        target.mkdir(parents=True, exist_ok=True)
        _copy_database(folder / JOURNAL, target / JOURNAL)
        files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path != folder / JOURNAL]
        wanted = [path for path in files if not path.name.endswith(_PASSING) and path.name != _SECRET]
        # Databases before the rest: the head of a ledger may be newer than the ledger's copy only by mistake.
        for path in sorted(wanted, key=lambda each: each.suffix != ".sqlite"):
            copy = target / path.relative_to(folder)
            copy.parent.mkdir(parents=True, exist_ok=True)
            if path.suffix == ".sqlite":
                _copy_database(path, copy)
            else:
                shutil.copy2(path, copy)
    except OSError as error:
        msg = f"{target}: {folder} cannot be copied there ({error.strerror or error})"
        raise BadInputError(msg) from error
    return len(wanted) + 1


def _copy_database(source: Path, target: Path) -> None:
    try:
        with closing(sqlite3.connect(f"{source.resolve().as_uri()}?mode=rw", uri=True, timeout=10)) as database:
            copy_database(database, target)
    except sqlite3.OperationalError as error:
        msg = f"{source} cannot be read ({error}); is its instrument still running? Stop the campaign first"
        raise BadInputError(msg) from error
    except sqlite3.DatabaseError as error:
        msg = f"{source} is damaged ({error}) and was not copied"
        raise BadInputError(msg) from error
