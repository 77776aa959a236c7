"""The audit trail: who did what is there, and a ledger that was damaged or cut short never opens with fewer electrons booked."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from damaged_ledgers import open_damaged, use
from examples import check, plan

from instrument.__main__ import main
from instrument.audit import ACTING, head_of
from instrument.errors import InstrumentError
from instrument.ledger import Ledger
from instrument.ledger_file import _SCHEMA, _SCHEMA_2, FILE_NAME


@pytest.fixture(scope="module")
def states(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """State directories of a server that was closed, and of one that was killed: its newest lines are in the log beside it."""
    closed, killed = tmp_path_factory.mktemp("closed"), tmp_path_factory.mktemp("killed") / "state"
    ledger = Ledger(closed)
    use(ledger)
    shutil.copytree(closed, killed)
    ledger.close()
    return [closed, killed]


@pytest.mark.parametrize("seed", [20])
def test_a_damaged_ledger_never_opens_with_fewer_electrons_booked(states: list[Path], tmp_path: Path, seed: int):
    refused = open_damaged(states, tmp_path, 100, seed)
    assert refused > 40


def test_an_older_copy_is_not_taken_for_the_newest(tmp_path: Path):
    ledger = Ledger(tmp_path)
    use(ledger)
    ledger.close()
    copy = (tmp_path / FILE_NAME).read_bytes()
    ledger = Ledger(tmp_path)
    scan = plan("later", 10.0, 300.0, 0.0)
    ledger.reserve(scan, check(scan), None)
    ledger.close()
    (tmp_path / FILE_NAME).write_bytes(copy)
    with pytest.raises(
        InstrumentError, match=r"ends with entry \d+, \d+ have been written.* restore a copy of it and of"
    ):
        Ledger(tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE audit SET who = 'somebody else' WHERE number = 5",
        "DELETE FROM audit WHERE number = 5",
        "DELETE FROM audit WHERE number > 20",
        "UPDATE acquisitions SET plan = replace(plan, '100.0', '200.0') WHERE id = 'c0'",
        "UPDATE campaigns SET budget = 9e9",
        "DELETE FROM events",
        "UPDATE events SET reason = 'nothing'",
        "DROP TRIGGER sums_of_an_end",
        "UPDATE fence SET number = -1",
    ],
)
def test_books_that_are_not_what_their_trail_says_are_not_opened(states: list[Path], tmp_path: Path, change: str):
    shutil.copytree(states[0], tmp_path / "state")
    with sqlite3.connect(tmp_path / "state" / FILE_NAME) as database:
        database.executescript(change)
    database.close()
    with pytest.raises(InstrumentError, match=r"is damaged .*audit trail|is damaged .*(line|tables|fence)"):
        Ledger(tmp_path / "state")


def test_without_its_head_a_ledger_is_not_opened(states: list[Path], tmp_path: Path):
    shutil.copytree(states[0], tmp_path / "state")
    head_of(tmp_path / "state" / FILE_NAME).unlink()
    with pytest.raises(InstrumentError, match=r"ledger\.head, the head of its audit trail, is missing"):
        Ledger(tmp_path / "state")


def test_a_ledger_of_the_version_before_gets_a_trail_and_keeps_its_books(tmp_path: Path):
    with sqlite3.connect(tmp_path / FILE_NAME) as database:
        database.executescript(_SCHEMA + _SCHEMA_2 + "PRAGMA user_version=2;")
        scan = plan("old", 10.0)
        database.execute("INSERT INTO campaigns VALUES ('c', 1e6, '2026-01-01', 1000.0)")
        database.execute(
            "INSERT INTO acquisitions (id, campaign, region, state, plan, plan_check, electrons, dose, reserved_at, y1, x1) "
            "VALUES ('old', 'c', 'r', 'done', ?, ?, 1000.0, 10.0, '2026-01-01', 10.0, 10.0)",
            (scan.model_dump_json(), check(scan).model_dump_json()),
        )
    database.close()
    for _ in range(2):
        ledger = Ledger(tmp_path)
        assert ledger.account("c").spent == 1000.0
        assert ledger.exposure("old").plan == scan
        ledger.close()
    assert main(["audit", str(tmp_path)]) == 0
    with sqlite3.connect(tmp_path / FILE_NAME) as database:
        database.execute("UPDATE acquisitions SET reserved_at = '2025-01-01'")
    database.close()
    assert main(["audit", str(tmp_path)]) == 2, "a line from before the trail"


def test_an_operator_reads_who_did_what_and_that_nothing_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    ledger = Ledger(tmp_path)
    ACTING.set("agent-7 (key lab)")
    use(ledger)
    ledger.close()
    assert main(["audit", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    reserved = next(line for line in lines if "acquisitions c0" in line)
    assert "agent-7 (key lab)" in reserved
    assert "electrons=10000" in reserved
    assert any("Ada" in line and "resume" in line and "looked at it" in line for line in lines)
    assert "none missing or changed" in lines[-1]
    assert main(["audit", str(tmp_path), "--last", "2", "--json"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2
    with sqlite3.connect(tmp_path / FILE_NAME) as database:
        database.execute("UPDATE audit SET at = '2020-01-01' WHERE number = 7")
    database.close()
    assert main(["audit", str(tmp_path)]) == 2
    heard = capsys.readouterr()
    assert len(heard.out.splitlines()) == 6
    assert "entry 7 of its audit trail does not follow from the one before" in heard.err


_WRITER = """
import sys
from pathlib import Path
from examples import check, plan
from instrument.ledger import Ledger
ledger = Ledger(Path(sys.argv[1]))
ledger.open_campaign("c", 1e9)
for number in range(10**6):
    scan = plan(f"a{number}", 2.0)
    ledger.reserve(scan, check(scan), None)
    ledger.finish(scan.id, "done", frames=4, electrons=scan.electrons)
    if number == 20:
        print("under way", flush=True)
"""


def test_a_ledger_that_somebody_has_touched_since_it_was_closed_is_looked_at_again(tmp_path: Path):
    note = tmp_path / "ledger.closed"
    Ledger(tmp_path).close()
    assert note.exists()
    ledger = Ledger(tmp_path)
    assert not note.exists(), "while it is open, and after a kill, it is not known to be sound"
    use(ledger)
    ledger.close()
    with sqlite3.connect(tmp_path / FILE_NAME) as database:
        root = database.execute("SELECT rootpage FROM sqlite_master WHERE name = 'acquisitions_open'").fetchone()[0]
        size = database.execute("PRAGMA page_size").fetchone()[0]
    database.close()
    with (tmp_path / FILE_NAME).open("r+b") as file:
        file.seek((root - 1) * size)
        file.write(bytes(size))
    with pytest.raises(InstrumentError, match="is damaged"):
        Ledger(tmp_path)


def test_the_trail_of_a_server_that_runs_is_read_whole(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    with subprocess.Popen([sys.executable, "-c", _WRITER, tmp_path], stdout=subprocess.PIPE) as writer:
        try:
            assert writer.stdout is not None
            assert writer.stdout.readline() == b"under way\n"
            counts = []
            for _ in range(3):
                assert main(["audit", str(tmp_path), "--last", "1"]) == 0
                counts.append(int(capsys.readouterr().out.splitlines()[-1].split()[0]))
        finally:
            writer.kill()
    assert 40 < counts[0] <= counts[1] <= counts[2]


def test_a_kill_between_the_books_and_their_head_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    ledger = Ledger(tmp_path)
    ledger.open_campaign("c", 1e6)
    monkeypatch.setattr("instrument.audit.AuditTrail.seal", lambda self: None)
    scan = plan("a1", 10.0)
    ledger.reserve(scan, check(scan), None)
    ledger.close()
    monkeypatch.undo()
    ledger = Ledger(tmp_path)
    assert ledger.account("c").reserved == scan.electrons
    ledger.close()
