"""The books of an instrument: campaigns, reservations, exposures, the fence counter and operator events in SQLite.

One file in the server's state directory (WAL, synchronous=FULL): what a method has returned from survives a kill and a power
cut. Electrons are reserved before they are spent, and what was left open counts as spent, on the side of the specimen.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from instrument.dose_map import check_region, peak_dose
from instrument.errors import BudgetError, ConflictError, NotReservedError
from instrument.ledger_file import FILE_NAME, close_ledger, open_ledger
from instrument.models import AcquisitionPlan, Outcome, PlanCheck, Rectangle
from instrument.status import CampaignAccount, LedgerEntry, OperatorEvent

PAGE_BYTES = 1 << 20
"""Lines of the ledger that are answered together; one that is longer goes alone."""
_DRY = "json_extract(plan_check, '$.dry') IS 1 AS dry"


def utc_now() -> datetime:
    """Wall-clock time with its zone."""
    return datetime.now(UTC)


class Ledger:
    """The SQLite file of one instrument. Used from one thread; only one process may have it open.

    Opening it books what ran at an unclean end, `interrupted`, as failed and with all its electrons spent.

    Args:
        state_dir: where the file lives; made if it is missing.
        now: wall clock for the time stamps.

    Raises:
        ConflictError: another server has this state directory open.
        InstrumentError: the file is not a ledger, or one of a later version.
    """

    def __init__(self, state_dir: Path, now: Callable[[], datetime] = utc_now) -> None:
        state_dir.mkdir(parents=True, exist_ok=True)
        self.path = state_dir / FILE_NAME
        self._now = now
        self._db = sqlite3.connect(self.path, isolation_level=None, timeout=0.5)
        self._db.row_factory = sqlite3.Row
        try:
            self._map, self._trail, self.safe_note = open_ledger(self._db, self.path, self._stamp())
            self.interrupted = self._reconcile()
        except BaseException:
            self._db.close()
            raise

    def close(self) -> None:
        """Release the file."""
        self._trail.close()
        self.safe_note.close()
        close_ledger(self._db, self.path)

    @property
    def changes(self) -> int:
        """Rises with every change of the books."""
        return self._db.total_changes + self.safe_note.changes

    def copy_to(self, copy: Callable[[sqlite3.Connection], None]) -> None:
        """Have somebody copy the database."""
        copy(self._db)

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._db.rollback()  # nothing where SQLite has done it itself, as it does on a full disk
            raise
        self._db.execute("COMMIT")
        self._trail.seal()

    def _stamp(self) -> str:
        return self._now().isoformat(timespec="milliseconds")

    def _reconcile(self) -> tuple[str, ...]:
        reason = "the server ended while it was exposing; all reserved electrons are counted as spent"
        with self._transaction():
            rows = self._db.execute(
                "SELECT id, campaign, electrons FROM acquisitions WHERE state = 'running' ORDER BY series"
            ).fetchall()
            for row in rows:
                self._db.execute(
                    "UPDATE acquisitions SET state = 'failed', finished_at = ?, reason = ? WHERE id = ?",
                    (self._stamp(), reason, row["id"]),
                )
                self._spend(row["campaign"], row["electrons"])
                self._note("failed", row["id"], electrons=row["electrons"], reason=reason)
            if rows:  # a start that comes no further than this is remembered by the next
                self.safe_note.enter(reason)
        return tuple(row["id"] for row in rows)

    def open_campaign(self, campaign: str, budget: float) -> CampaignAccount:
        """Open an account of `budget` electrons, or find the one there is.

        Raises:
            ConflictError: it was opened with another budget.
        """
        with self._transaction():
            added = self._db.execute(
                "INSERT INTO campaigns (id, budget, opened_at) VALUES (?, ?, ?) ON CONFLICT DO NOTHING",
                (campaign, budget, self._stamp()),
            ).rowcount
            if added:
                self._trail.add(self._stamp(), "campaign", "campaigns", campaign, electrons=budget)
            account = self.account(campaign)
            if account.budget != budget:
                msg = (
                    f"campaign {campaign} was opened with a budget of {account.budget:g} electrons, not {budget:g}; "
                    "keep the budget or choose another campaign name"
                )
                raise ConflictError(msg, campaign=campaign, budget=account.budget)
        return account

    def account(self, campaign: str) -> CampaignAccount:
        """The account of a campaign. Raises BudgetError where none was opened."""
        row = self._db.execute("SELECT budget, spent FROM campaigns WHERE id = ?", (campaign,)).fetchone()
        if row is None:
            msg = f"campaign {campaign} has no budget on this instrument; open it first"
            raise BudgetError(msg, campaign=campaign)
        reserved = self._sum(
            "electrons", "acquisitions WHERE state IN ('reserved', 'running') AND campaign = ?", campaign
        )
        return CampaignAccount(id=campaign, budget=row["budget"], spent=row["spent"], reserved=reserved)

    def totals(self) -> tuple[float, float]:
        """(reserved, spent) electrons of all campaigns."""
        reserved = self._sum("electrons", "acquisitions WHERE state IN ('reserved', 'running')")
        return reserved, self._sum("spent", "campaigns")

    def _sum(self, column: str, where: str, *values: str) -> float:
        return float(self._db.execute(f"SELECT COALESCE(SUM({column}), 0.0) FROM {where}", values).fetchone()[0])

    def _spend(self, campaign: str, electrons: float) -> None:
        self._db.execute("UPDATE campaigns SET spent = spent + ? WHERE id = ?", (electrons, campaign))

    def reserve(
        self,
        plan: AcquisitionPlan,
        check: PlanCheck,
        region_dose_limit: float | None,
        accumulated: float | None = None,
    ) -> CampaignAccount:
        """Set the electrons of an accepted plan aside, in one transaction with the test that there are enough.

        The same plan again changes nothing, whatever became of it. Returns the campaign's account afterwards.

        Args:
            plan: to be reserved.
            check: what the microscope says it costs.
            region_dose_limit: largest accumulated dose of any point, e/Å²; None: no limit.
            accumulated: dose, e/Å², of the place, computed since the last reservation; None: it is computed here.

        Raises:
            ConflictError: the id is known with another plan.
            BudgetError: campaign or region have fewer electrons left; nothing is reserved.
        """
        with self._transaction():
            known = self.exposure(plan.id)
            if known is not None:
                if known.plan != plan:
                    msg = f"acquisition {plan.id} is known with another plan; give the new plan a new id"
                    raise ConflictError(msg, id=plan.id, state=known.state)
                return self.account(plan.campaign)
            electrons = 0.0 if check.dry else max(check.electrons, plan.electrons)
            account = self.account(plan.campaign)
            if electrons > account.left:
                msg = (
                    f"acquisition {plan.id} needs {electrons:g} electrons, campaign {plan.campaign} has "
                    f"{account.left:g} of {account.budget:g} left; lower dose or field"
                )
                raise BudgetError(msg, needed=electrons, left=account.left, budget=account.budget)
            dose = electrons * plan.crowding / (plan.n_cells * plan.step**2)
            if region_dose_limit is not None and not check.dry:
                if accumulated is None:
                    accumulated = peak_dose(self.overlapping(check.illuminated), check.illuminated)
                check_region(plan, accumulated, dose, region_dose_limit)
            self._insert(plan, check, electrons, dose)
            return self.account(plan.campaign)

    def _insert(self, plan: AcquisitionPlan, check: PlanCheck, electrons: float, dose: float) -> None:
        lit = check.illuminated
        line: dict[str, Any] = {
            "id": plan.id,
            "campaign": plan.campaign,
            "region": plan.region,
            "state": "reserved",
            "plan": plan.model_dump_json(),
            "plan_check": check.model_dump_json(),
            "electrons": electrons,
            "dose": dose,
            "reserved_at": self._stamp(),
            **{"y0": lit.y, "x0": lit.x, "y1": lit.y + lit.height, "x1": lit.x + lit.width},
        }
        series = self._db.execute(
            f"INSERT INTO acquisitions ({', '.join(line)}) VALUES ({', '.join('?' * len(line))})", tuple(line.values())
        ).lastrowid
        assert series is not None
        if dose:
            self._map.add(series, lit)
        self._note("reserved", plan.id, campaign=plan.campaign, region=plan.region, electrons=electrons, dose=dose)

    def _note(self, what: str, acquisition: str, **told: Any) -> None:
        self._trail.add(self._stamp(), what, "acquisitions", acquisition, **told)

    def overlapping(self, area: Rectangle, after: int = 0, limit: int = -1) -> NDArray[np.float64]:
        """What has been given a dose, or has been promised one, and overlaps an area; see `DoseMap.overlapping`.

        Args:
            area: specimen frame, Å.
            after: only acquisitions with a higher number.
            limit: so many at most; -1: all.

        Returns:
            (n, 6): number of the acquisition, y and x of two corners, Å, and dose, e/Å².
        """
        return self._map.overlapping(area, after, limit)

    def accumulated_dose(self, rectangle: Rectangle) -> float:
        """The largest dose, e/Å², that any point of an area has been given or has been promised.

        Args:
            rectangle: the area, Å, specimen frame.
        """
        return peak_dose(self.overlapping(rectangle), rectangle)

    def mark_running(self, acquisition: str) -> None:
        """Book that the beam is about to be unblanked for a reservation. Raises NotReservedError where there is none."""
        with self._transaction():
            changed = self._db.execute(
                "UPDATE acquisitions SET state = 'running', started_at = ? WHERE id = ? AND state = 'reserved'",
                (self._stamp(), acquisition),
            ).rowcount
            if changed == 1:
                self._note("started", acquisition)
        if changed != 1:
            msg = f"acquisition {acquisition} has no reservation; prepare it first"
            raise NotReservedError(msg, id=acquisition)

    def finish(
        self,
        acquisition: str,
        state: Literal["done", "aborted", "failed"],
        *,
        frames: int,
        electrons: float,
        reason: str = "",
    ) -> Outcome:
        """Book how an acquisition ended.

        Args:
            acquisition: its id.
            state: how it ended.
            frames: that the microscope delivered.
            electrons: that it took. Where they are more than were reserved, the dose of the place rises with them.
            reason: why it did not end well; "" where it did.
        """
        with self._transaction():
            row = self._db.execute(
                "SELECT series, campaign, dose FROM acquisitions WHERE id = ? AND state IN ('reserved', 'running')",
                (acquisition,),
            ).fetchone()
            if row is not None:
                if electrons and not row["dose"]:  # of a dry run whose beam was on
                    self._light(acquisition, electrons)
                self._db.execute(
                    "UPDATE acquisitions SET state = ?, frames = ?, reason = ?, finished_at = ?, electrons = ?, "
                    "dose = CASE WHEN ? > 0 THEN dose * MAX(1.0, ? / electrons) ELSE 0.0 END WHERE series = ?",
                    (state, frames, reason, self._stamp(), electrons, electrons, electrons, row["series"]),
                )
                self._spend(row["campaign"], electrons)
                if not electrons:
                    self._map.remove(row["series"])
                self._note(state, acquisition, electrons=electrons, frames=frames, reason=reason)
        outcome = self.outcome(acquisition)
        assert outcome is not None
        return outcome

    def _light(self, acquisition: str, electrons: float) -> None:
        entry = self.exposure(acquisition)
        assert entry is not None
        dose = electrons * entry.plan.crowding / (entry.plan.n_cells * entry.plan.step**2)
        self._db.execute(
            "UPDATE acquisitions SET electrons = ?, dose = ? WHERE series = ?", (electrons, dose, entry.series)
        )
        self._map.add(entry.series, entry.illuminated)

    def cancel(self, acquisition: str) -> Outcome:
        """Release an unused reservation; one that was used keeps its outcome. Raises NotReservedError if unknown."""
        outcome = self.outcome(acquisition)
        if outcome is None:
            msg = f"acquisition {acquisition} is not known here; there is nothing to release"
            raise NotReservedError(msg, id=acquisition)
        if outcome.state != "reserved":
            return outcome
        return self.finish(acquisition, "aborted", frames=0, electrons=0.0, reason="cancelled before it was started")

    def outcome(self, acquisition: str) -> Outcome | None:
        """How an acquisition ended, or that it has not; None where the id is not known."""
        row = self._db.execute(
            f"SELECT id, state, frames, electrons, reason, {_DRY} FROM acquisitions WHERE id = ?", (acquisition,)
        ).fetchone()
        return None if row is None else Outcome(**dict(row))

    def exposure(self, acquisition: str) -> LedgerEntry | None:
        """The line of one acquisition; None where the id is not known."""
        row = self._db.execute("SELECT * FROM acquisitions WHERE id = ?", (acquisition,)).fetchone()
        return None if row is None else _to_exposure(row)

    def exposures(self, campaign: str | None = None, after: int = 0) -> list[LedgerEntry]:
        """A page of lines, in the order they were reserved; the next one begins after the last number of this one.

        Args:
            campaign: whose; None: everybody's.
            after: only lines with a higher number.

        Returns:
            As many as fit into PAGE_BYTES, and at least one where there is one.
        """
        rows = self._db.execute(
            "SELECT * FROM acquisitions WHERE series > ? ORDER BY series"
            if campaign is None
            else "SELECT * FROM acquisitions WHERE series > ? AND campaign = ? ORDER BY series",
            (after,) if campaign is None else (after, campaign),
        )
        page: list[LedgerEntry] = []
        size = 0
        for row in rows:
            size += 512 + len(row["plan"]) + len(row["plan_check"]) + len(row["reason"])
            if page and size > PAGE_BYTES:
                break
            page.append(_to_exposure(row))
        rows.close()
        return page

    def next_fence(self) -> int:
        """A fence number higher than every one before, also across restarts."""
        with self._transaction():
            row = self._db.execute("UPDATE fence SET number = number + 1 RETURNING number").fetchone()
        return int(row["number"])

    def fence(self) -> int:
        """The last fence number given."""
        return int(self._db.execute("SELECT number FROM fence").fetchone()["number"])

    def record_event(self, kind: Literal["safe", "resume"], reason: str, operator: str = "") -> None:
        """Write an event that an operator wants to find; `operator` is "" for the server itself."""
        with self._transaction():
            number = self._db.execute(
                "INSERT INTO events (at, kind, operator, reason) VALUES (?, ?, ?, ?)",
                (self._stamp(), kind, operator, reason),
            ).lastrowid
            assert number is not None
            self._trail.add(self._stamp(), kind, "events", number, who=operator, reason=reason)

    def events(self) -> list[OperatorEvent]:
        """All events, oldest first."""
        rows = self._db.execute("SELECT at, kind, operator, reason FROM events ORDER BY number")
        return [OperatorEvent(**dict(row)) for row in rows]

    def safe_reason(self) -> str:
        """Why the instrument is in SAFE according to its last event; "" where it was released or never was."""
        row = self._db.execute("SELECT kind, reason FROM events ORDER BY number DESC LIMIT 1").fetchone()
        return "" if row is None or row["kind"] == "resume" else str(row["reason"])


def _to_exposure(row: sqlite3.Row) -> LedgerEntry:
    check = PlanCheck.model_validate_json(row["plan_check"])
    return LedgerEntry(
        id=row["id"],
        series=row["series"],
        campaign=row["campaign"],
        region=row["region"],
        state=row["state"],
        electrons=row["electrons"],
        frames=row["frames"],
        dose=row["dose"],
        illuminated=check.illuminated,
        plan=AcquisitionPlan.model_validate_json(row["plan"]),
        check=check,
        reason=row["reason"],
        reserved_at=row["reserved_at"],
        started_at=row["started_at"],
        finished_at=row["finished_at"],
    )
