"""A note beside the ledger of whether the instrument is in SAFE, which a full disk cannot refuse.

A file of fixed size, written in full when a server starts and overwritten in place from then on. Where even that fails it is
removed: SAFE holds at the next start if the note says so, and also if it is missing or damaged.
"""

from __future__ import annotations

import logging
import os
import threading
import zlib
from contextlib import suppress
from io import FileIO
from pathlib import Path

from instrument.errors import InstrumentError

log = logging.getLogger(__name__)

SIZE = 512
"""Bytes; one sector, so that a power cut leaves the old note or the new one."""
_SAFE, _RELEASED = "SAFE", "released"
_TEXT = SIZE - 10


def note_of(path: Path) -> Path:
    """The note of a ledger.

    Args:
        path: of the ledger's file.
    """
    return path.with_suffix(".safe")


class SafeNote:
    """The note of one ledger, open while the ledger is; thread-safe.

    Args:
        path: of the ledger's file.
        expected: whether the ledger has had a note before, so that one that is missing has been lost.

    Attributes:
        reason: why the instrument was in SAFE when the note was opened; "" where it was not.
        changes: rises whenever it is written.
    """

    def __init__(self, path: Path, *, expected: bool) -> None:
        self.path = note_of(path)
        self.changes = 0
        self._lock = threading.Lock()
        self._file: FileIO | None = None
        self.reason = self._read(expected)
        try:
            self._write(self.reason)
            self._sync()
        except OSError as error:
            self.reason = (
                self.reason or f"{self.path} cannot be written ({error}); free space on its disk or mend its rights"
            )
            self.enter(self.reason)

    def _read(self, expected: bool) -> str:
        try:
            told = self.path.read_bytes()
        except FileNotFoundError:
            return _unknown(self.path, "is missing") if expected else ""
        except OSError as error:
            return _unknown(self.path, f"cannot be read ({error})")
        text = _decode(told)
        return _unknown(self.path, "is damaged") if text is None else text

    def enter(self, reason: str) -> None:
        """Note that the instrument is in SAFE: what has returned survives a kill, and after `sync` a power cut too.

        Args:
            reason: why; as much of it as there is room for.
        """
        with self._lock:
            try:
                self._write(reason)
            except (OSError, ValueError):
                log.exception("%s takes no note of SAFE and is removed, which counts as SAFE", self.path)
                self._remove()

    def release(self) -> None:
        """Note that an operator has released the instrument. Raises InstrumentError where that fails: it stays in SAFE."""
        with self._lock:
            try:
                self._write("")
            except (OSError, ValueError) as error:
                msg = f"{self.path} takes no note of the release ({error}); free space on its disk and release again"
                raise InstrumentError(msg) from error

    def sync(self) -> None:
        """Have what was noted survive a power cut."""
        with self._lock:
            try:
                self._sync()
            except OSError:
                log.exception("%s does not reach its disk and is removed, which counts as SAFE", self.path)
                self._remove()

    def close(self) -> None:
        """Let go of the file, which keeps what it says."""
        with self._lock:
            if self._file is not None:
                self._file.close()
            self._file = None

    def _write(self, reason: str) -> None:
        self.changes += 1
        if self._file is None:
            self._file = (
                self.path.open("r+b", buffering=0) if self.path.exists() else self.path.open("x+b", buffering=0)
            )
            _sync_folder(self.path.parent)
            self._file.truncate(SIZE)
        self._file.seek(0)
        if self._file.write(_encode(reason)) != SIZE:
            msg = "only a part of it was written"
            raise OSError(msg)

    def _sync(self) -> None:
        if self._file is not None:
            os.fsync(self._file.fileno())

    def _remove(self) -> None:
        if self._file is not None:
            with suppress(OSError):
                self._file.close()
        self._file = None
        try:
            self.path.unlink(missing_ok=True)
        except OSError:
            log.exception("%s cannot be removed either; SAFE holds until the server ends", self.path)


def _unknown(path: Path, wrong: str) -> str:
    return f"{path} {wrong}, so the instrument may have been in SAFE when its server ended; look at it before you release it"


def _encode(reason: str) -> bytes:
    text = " ".join([_SAFE, *reason.split()]) if reason else _RELEASED
    body = text.encode()[:_TEXT].decode(errors="ignore").encode().ljust(_TEXT)
    return body + b" %08x\n" % zlib.crc32(body)


def _decode(told: bytes) -> str | None:
    """The reason of SAFE; "": none; None: this is no note."""
    body = told[:_TEXT]
    if len(told) != SIZE or told[_TEXT:] != b" %08x\n" % zlib.crc32(body):
        return None
    state, _, reason = body.decode(errors="replace").strip().partition(" ")
    if state == _RELEASED:
        return ""
    return reason or "no reason was given" if state == _SAFE else None


def _sync_folder(folder: Path) -> None:
    if hasattr(os, "O_DIRECTORY"):
        with suppress(OSError):
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
