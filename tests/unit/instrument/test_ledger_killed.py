"""A server that is killed at any boundary of its ledger has lost nothing, and exposes nothing twice after it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from examples import check, plan
from fail_points import dies_at

from instrument.errors import NotReservedError
from instrument.ledger import Ledger

PLANS = [plan(f"a{number}", 10.0, 20.0 * number, 0.0) for number in range(3)]


def work(folder: Path, done: Callable[[str], None], exposed: Callable[[str], None] = lambda _: None) -> None:
    """Three acquisitions in the order in which a server books them: done, aborted, released; one visit to SAFE."""
    ledger = Ledger(folder)
    ledger.open_campaign("c", 1e6)
    done("campaign")
    for number, scan in enumerate(PLANS):
        ledger.reserve(scan, check(scan), None)
        done(f"reserved {scan.id}")
        if number < 2:
            try:
                ledger.mark_running(scan.id)
            except NotReservedError:
                continue
            exposed(scan.id)
            done(f"exposed {scan.id}")
            ledger.finish(scan.id, "aborted" if number else "done", frames=10, electrons=scan.electrons / (number + 1))
        else:
            ledger.cancel(scan.id)
        done(f"ended {scan.id}")
    ledger.record_event("safe", "the lease lapsed")
    done("safe")
    ledger.close()


def test_a_server_killed_at_every_boundary_of_its_ledger_loses_nothing_and_exposes_nothing_twice(tmp_path: Path):
    fatal = 0
    while True:
        fatal += 1
        folder = tmp_path / str(fatal)
        died, done = dies_at(fatal, lambda tell, folder=folder: work(folder, tell))
        if not died:
            break
        ledger = Ledger(folder)
        states = {line.id: line.state for line in ledger.exposures()}
        spent = ledger.account("c").spent + ledger.account("c").reserved if "campaign" in done else 0.0
        assert ("safe" not in done) or ledger.safe_reason() == "the lease lapsed"
        ledger.close()
        for scan in PLANS:
            assert f"reserved {scan.id}" not in done or scan.id in states
            assert f"exposed {scan.id}" not in done or states[scan.id] in ("done", "aborted", "failed")
        exposed = [word.split()[1] for word in done if word.startswith("exposed")]
        halves = {"a1": 0.5} if "ended a1" in done or states.get("a1") == "aborted" else {}
        assert spent >= sum(scan.electrons * halves.get(scan.id, 1.0) for scan in PLANS if scan.id in exposed)
        again: list[str] = []
        work(folder, lambda _: None, again.append)
        assert not set(again) & set(exposed)
        ledger = Ledger(folder)
        assert [line.state in ("done", "aborted", "failed") for line in ledger.exposures()] == [True] * 3
        ledger.close()
    assert fatal >= 24, "there are that many boundaries"
