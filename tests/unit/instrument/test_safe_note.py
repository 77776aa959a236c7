"""SAFE outlives a server that was killed, whatever its disk would take."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import sqlite3
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from examples import check, plan
from fail_points import dies_at
from striped_microscope import StripedMicroscope

from instrument import safe_note
from instrument.backup import copy_ledger
from instrument.errors import InstrumentError
from instrument.guard import BeamGuard
from instrument.ledger import Ledger
from instrument.safe_note import SIZE, SafeNote, note_of
from instrument.server import _make_guard
from instrument.terms import Terms

REASON = "blanked by hand"


def opened(folder: Path) -> tuple[Ledger, BeamGuard]:
    """The books and the guard of a server that has just started."""

    async def start() -> tuple[Ledger, BeamGuard]:
        ledger = Ledger(folder)
        return ledger, _make_guard(Terms(StripedMicroscope()), ledger, lambda: 0.0)

    return asyncio.run(start())


def phase(folder: Path) -> tuple[str, str]:
    ledger, guard = opened(folder)
    ledger.close()
    return guard.status().phase, guard.status().reason


async def fill_and_go_safe(folder: Path) -> None:
    ledger = Ledger(folder)
    guard = _make_guard(Terms(StripedMicroscope()), ledger, lambda: 0.0)
    fill(ledger)
    guard.go_safe(REASON)
    assert ledger.safe_reason() == ""


async def release(folder: Path) -> None:
    ledger = Ledger(folder)
    guard = _make_guard(Terms(StripedMicroscope()), ledger, lambda: 0.0)
    assert ledger.events()[-1].reason == guard.status().reason, "an operator finds it in the books"
    ledger.record_event("resume", "looked at it", "Ada")
    guard.resume()
    await asyncio.sleep(0)
    ledger.close()


def fill(ledger: Ledger) -> None:
    """Its disk takes no page more, and there is no room in those that it has."""
    pages = ledger._db.execute("PRAGMA page_count").fetchone()[0]
    ledger._db.execute(f"PRAGMA max_page_count={pages}")
    for length in (1000, 1):
        with suppress(sqlite3.OperationalError):
            while True:
                ledger.record_event("resume", length * "x", "Ada")


def killed(folder: Path) -> None:
    """A server with a full disk went to SAFE and was killed."""

    def serve(_: Any) -> None:
        asyncio.run(fill_and_go_safe(folder))
        os.kill(os.getpid(), signal.SIGKILL)

    died, _ = dies_at(1 << 30, serve)
    assert died


def test_safe_that_a_full_disk_did_not_take_holds_after_a_kill_until_it_is_released(tmp_path: Path):
    killed(tmp_path)
    assert phase(tmp_path) == ("safe", REASON)
    assert phase(tmp_path) == ("safe", REASON), "as often as it is started"
    asyncio.run(release(tmp_path))
    assert phase(tmp_path) == ("idle", "")


def test_a_file_system_that_refuses_even_the_overwriting_has_safe_by_the_missing_note(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def full(self: SafeNote, reason: str) -> Any:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    ledger, guard = opened(tmp_path)
    fill(ledger)
    monkeypatch.setattr(SafeNote, "_write", full)
    guard.go_safe(REASON)
    assert ledger.safe_reason() == ""
    ledger.close()
    ledger, guard = opened(tmp_path)
    with pytest.raises(InstrumentError, match=r"takes no note of the release .*No space left"):
        guard.resume()
    assert guard.status().phase == "safe"
    ledger.close()
    monkeypatch.undo()
    assert phase(tmp_path)[0] == "safe"


@pytest.mark.parametrize("harm", ["missing", "cut off", "changed"])
def test_a_note_that_is_lost_counts_as_safe_and_says_why(tmp_path: Path, harm: str):
    opened(tmp_path)[0].close()
    note = next(tmp_path.glob("*.safe"))
    told = note.read_bytes()
    note.unlink() if harm == "missing" else note.write_bytes(told[:9] if harm == "cut off" else b"X" + told[1:])
    state, reason = phase(tmp_path)
    assert state == "safe"
    assert (
        f"{note} is {'missing' if harm == 'missing' else 'damaged'}, so the instrument may have been in SAFE" in reason
    )
    asyncio.run(release(tmp_path))
    assert phase(tmp_path) == ("idle", "")


def test_a_ledger_from_before_there_was_a_note_gets_one(tmp_path: Path):
    ledger = Ledger(tmp_path)
    ledger._db.execute("PRAGMA application_id=0")
    ledger.close()
    note_of(ledger.path).unlink()
    assert phase(tmp_path) == ("idle", "")
    assert note_of(ledger.path).stat().st_size == SIZE


def test_a_backup_has_the_note_too(tmp_path: Path):
    killed(tmp_path / "state")
    copy_ledger(tmp_path / "state", tmp_path / "copy")
    assert phase(tmp_path / "copy") == ("safe", REASON)


def test_a_long_reason_is_noted_as_far_as_there_is_room(tmp_path: Path):
    note = SafeNote(tmp_path / "ledger.sqlite", expected=False)
    note.enter("ä vacuum\nvalve " * 100)
    note.close()
    again = SafeNote(tmp_path / "ledger.sqlite", expected=True)
    again.close()
    assert again.path.stat().st_size == safe_note.SIZE
    assert again.reason.startswith("ä vacuum valve ä")


def test_a_start_that_fails_after_a_crash_does_not_use_up_its_safe(tmp_path: Path):
    ledger = Ledger(tmp_path)
    ledger.open_campaign("c", 1e6)
    scan = plan("a1", 10.0, 0.0, 0.0)
    ledger.reserve(scan, check(scan), None)
    ledger.mark_running("a1")
    ledger.close()
    Ledger(tmp_path).close()  # its microscope does not answer: it ends before it has a guard
    state, reason = phase(tmp_path)
    assert state == "safe"
    assert "ended while it was exposing" in reason
