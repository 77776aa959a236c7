"""Prints the audit trail of a ledger, and checks all of it: `python -m instrument audit`.

A server has its ledger to itself. While one runs, a copy of its files is read, which is as consistent as after a power cut:
SQLite's log has a checksum in every frame, and the copy is made again where the log began anew meanwhile.
"""

from __future__ import annotations

import json
import shutil
import sqlite3
import tempfile
from collections import deque
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from instrument.audit import AuditEntry, check_all, head_of
from instrument.errors import BadInputError, InstrumentError
from instrument.ledger_file import FILE_NAME
from instrument.text import visible, visible_all

_OURS = ("sums", "fence", "schema", "line", "carried", "until", "table", "key")
"""Of the details: what only the check needs."""
_COPIES = 20
_LOG_HEADER = 32
"""Bytes at the beginning of SQLite's log, which are others when it begins anew."""


def show_audit(state_dir: Path, last: int | None = None, *, as_json: bool = False) -> None:
    """Print the trail, oldest first, and a line that says whether it is whole.

    Args:
        state_dir: of a server, which may run.
        last: print only so many entries; all are checked.
        as_json: an object a line.

    Raises:
        BadInputError: there is no ledger with a trail, or a number that is none.
        InstrumentError: it is damaged, or changes faster than it can be copied.
    """
    if last is not None and last < 1:
        msg = f"--last {last}; legal: a number from 1 on"
        raise BadInputError(msg)
    path = state_dir / FILE_NAME
    if not path.is_file():
        msg = f"there is no ledger in {state_dir}; give the state directory of a server"
        raise BadInputError(msg)
    show = _as_json if as_json else _as_text
    kept: deque[str] = deque(maxlen=last)
    count, damage, digest = 0, "", ""
    try:
        with _opened(path) as (database, copy):
            if not database.execute("SELECT 1 FROM sqlite_master WHERE name = 'audit'").fetchone():
                msg = f"{path} is of an earlier version and has no audit trail; it gets one when a server opens it"
                raise BadInputError(msg)
            for entry, wrong in check_all(database, copy):
                damage = wrong
                if entry is not None and not wrong:
                    count, digest = count + 1, entry.hash
                    if last is None:
                        print(show(entry))
                    else:
                        kept.append(show(entry))
    except sqlite3.DatabaseError as error:
        damage = damage or str(error)
    for line in kept:
        print(line)
    if damage:
        msg = f"{path} is damaged ({damage}); {count} entries before that are as they were written"
        raise InstrumentError(msg)
    if not as_json:
        print(f"{count} entries, none missing or changed; hash of the last: {digest}")


@contextmanager
def _opened(path: Path) -> Iterator[tuple[sqlite3.Connection, Path]]:
    """The ledger, or a copy of it where a server has it open, and where what is read lies."""
    with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, timeout=0.5)) as database:
        try:
            database.execute("SELECT 1 FROM sqlite_master").fetchone()
        except sqlite3.OperationalError as error:
            if "locked" not in str(error):
                raise
        else:
            yield database, path
            return
    with tempfile.TemporaryDirectory(prefix="ptychopilot-audit-") as folder:
        copy = Path(folder) / path.name
        _copy(path, copy)
        with closing(sqlite3.connect(copy)) as database:
            yield database, copy


def _copy(path: Path, copy: Path) -> None:
    """Copy the files of a ledger that is being written: its head first, which is behind then, and its log last."""
    log, log_copy = (each.with_name(f"{each.name}-wal") for each in (path, copy))
    for _ in range(_COPIES):
        before = _header(log)
        if head_of(path).exists():
            shutil.copyfile(head_of(path), head_of(copy))
        shutil.copyfile(path, copy)
        if log.exists():
            shutil.copyfile(log, log_copy)
        if _header(log) == before:
            return
    msg = f"{path} is in use by a server that writes all the time; try again when nothing is exposed"
    raise InstrumentError(msg)


def _header(log: Path) -> bytes:
    try:
        with log.open("rb") as file:
            return file.read(_LOG_HEADER)
    except FileNotFoundError:
        return b""


def _as_json(entry: AuditEntry) -> str:
    return json.dumps(entry._asdict() | {"detail": entry.told}, ensure_ascii=False)


def _as_text(entry: AuditEntry) -> str:
    told = visible_all(entry.told)
    more = "  ".join(f"{name}={_short(value)}" for name, value in told.items() if name not in _OURS and value != "")
    line = f"{told['table']} {told['key']}" if "table" in told else ""
    return f"{entry.number:6}  {visible(entry.at)}  {visible(entry.who):24}  {visible(entry.what):12}  {line:28}  {more}".rstrip()


def _short(value: object) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)
