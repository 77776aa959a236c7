"""The books of an instrument: campaigns, reservations, exposures, the fence counter and operator events in SQLite.

One file in the server's state directory (WAL, synchronous=FULL): what a method has returned from survives a kill and a
power cut. Electrons are reserved before they are spent; a reservation that was left open counts as spent until somebody
reconciles it, so the books err on the side of the specimen.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from instrument.errors import BudgetError, ConflictError, InstrumentError, NotReservedError
from instrument.models import AcquisitionPlan, Outcome, PlanCheck, Rectangle
from instrument.status import CampaignAccount, LedgerEntry, OperatorEvent

FILE_NAME = "ledger.sqlite"
SCHEMA_VERSION = 1

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


def utc_now() -> datetime:
    """Wall-clock time with its zone."""
    return datetime.now(UTC)


class Ledger:
    """The SQLite file of one instrument. Used from one thread; only one process may have it open.

    Opening it reconciles what an unclean end left behind: acquisitions that were running become failed, with all
    their electrons counted as spent. `interrupted` names them.

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
            self._open_file()
            self.interrupted = self._reconcile()
        except BaseException:
            self._db.close()
            raise

    def close(self) -> None:
        """Release the file."""
        self._db.close()

    def _open_file(self) -> None:
        try:
            # Exclusive locking keeps a second server away from the same books, on Windows too.
            self._db.execute("PRAGMA locking_mode=EXCLUSIVE")
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=FULL")
            self._db.execute("PRAGMA foreign_keys=ON")
            self._db.execute("BEGIN EXCLUSIVE")
            version = self._db.execute("PRAGMA user_version").fetchone()[0]
            if version == 0:
                for statement in filter(None, map(str.strip, _SCHEMA.split(";"))):
                    self._db.execute(statement)
                self._db.execute(f"PRAGMA user_version={SCHEMA_VERSION}")
            self._db.execute("COMMIT")
        except sqlite3.OperationalError as error:
            if "locked" not in str(error):
                raise
            msg = f"{self.path} is in use by another server; stop it or give this one another state directory"
            raise ConflictError(msg) from error
        except sqlite3.DatabaseError as error:
            msg = f"{self.path} is not a ledger ({error}); move it away or give another state directory"
            raise InstrumentError(msg) from error
        if version > SCHEMA_VERSION:
            msg = f"{self.path} was written by a later version (schema {version}); update this one"
            raise InstrumentError(msg)

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")

    def _stamp(self) -> str:
        return self._now().isoformat(timespec="milliseconds")

    def _reconcile(self) -> tuple[str, ...]:
        with self._transaction():
            rows = self._db.execute("SELECT id FROM acquisitions WHERE state = 'running' ORDER BY series").fetchall()
            self._db.execute(
                "UPDATE acquisitions SET state = 'failed', finished_at = ?, reason = ? WHERE state = 'running'",
                (
                    self._stamp(),
                    "the server ended while it was exposing; all reserved electrons are counted as spent",
                ),
            )
        return tuple(row["id"] for row in rows)

    def open_campaign(self, campaign: str, budget: float) -> CampaignAccount:
        """Open an account of `budget` electrons, or find the one there is.

        Raises:
            ConflictError: it was opened with another budget.
        """
        with self._transaction():
            self._db.execute(
                "INSERT INTO campaigns VALUES (?, ?, ?) ON CONFLICT DO NOTHING", (campaign, budget, self._stamp())
            )
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
        row = self._db.execute("SELECT budget FROM campaigns WHERE id = ?", (campaign,)).fetchone()
        if row is None:
            msg = f"campaign {campaign} has no budget on this instrument; open it first"
            raise BudgetError(msg, campaign=campaign)
        reserved, spent = self._charged("WHERE campaign = ?", (campaign,))
        return CampaignAccount(id=campaign, budget=row["budget"], spent=spent, reserved=reserved)

    def totals(self) -> tuple[float, float]:
        """(reserved, spent) electrons of all campaigns."""
        return self._charged("", ())

    def _charged(self, where: str, values: tuple[str, ...]) -> tuple[float, float]:
        row = self._db.execute(
            "SELECT COALESCE(SUM(CASE WHEN state IN ('reserved', 'running') THEN electrons END), 0.0) AS reserved, "
            "COALESCE(SUM(CASE WHEN state NOT IN ('reserved', 'running') THEN electrons END), 0.0) AS spent "
            f"FROM acquisitions {where}",
            values,
        ).fetchone()
        return float(row["reserved"]), float(row["spent"])

    def reserve(self, plan: AcquisitionPlan, check: PlanCheck, region_dose_limit: float | None) -> CampaignAccount:
        """Set the electrons of an accepted plan aside, in one transaction with the test that there are enough.

        The same plan again changes nothing, whatever became of it. Returns the campaign's account afterwards.

        Args:
            plan: to be reserved.
            check: what the microscope says it costs.
            region_dose_limit: largest accumulated dose of any point, e/Å²; None: no limit.

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
            electrons = max(check.electrons, plan.electrons)
            account = self.account(plan.campaign)
            if electrons > account.left:
                msg = (
                    f"acquisition {plan.id} needs {electrons:g} electrons, campaign {plan.campaign} has "
                    f"{account.left:g} of {account.budget:g} left; lower dose or field"
                )
                raise BudgetError(msg, needed=electrons, left=account.left, budget=account.budget)
            dose = electrons / (plan.n_positions * plan.step**2)
            if region_dose_limit is not None:
                self._check_region(plan, check.illuminated, dose, region_dose_limit)
            self._db.execute(
                "INSERT INTO acquisitions (id, campaign, region, state, plan, plan_check, electrons, dose, reserved_at) "
                "VALUES (?, ?, ?, 'reserved', ?, ?, ?, ?, ?)",
                (
                    plan.id,
                    plan.campaign,
                    plan.region,
                    plan.model_dump_json(),
                    check.model_dump_json(),
                    electrons,
                    dose,
                    self._stamp(),
                ),
            )
            return self.account(plan.campaign)

    def _check_region(self, plan: AcquisitionPlan, illuminated: Rectangle, dose: float, limit: float) -> None:
        before = self.accumulated_dose(illuminated)
        if before + dose > limit * (1 + 1e-9):
            msg = (
                f"region {plan.region} would get {before + dose:g} e/Å² with the {before:g} it already has; at most "
                f"{limit:g} are allowed; move the field to a fresh place or lower the dose"
            )
            raise BudgetError(msg, accumulated=before, dose=dose, limit=limit)

    def accumulated_dose(self, rectangle: Rectangle) -> float:
        """The largest dose, e/Å², that any point of an area has been given or has been promised.

        Args:
            rectangle: the area, Å, specimen frame.
        """
        booked = [
            (exposure.illuminated, exposure.dose)
            for exposure in self.exposures()
            if exposure.dose > 0 and exposure.illuminated.overlaps(rectangle)
        ]
        # The dose is constant between the edges of the rectangles, and highest somewhere just inside the upper left
        # corner of an intersection: all such corners are pairs of a top and a left edge.
        tops = {max(r.y, rectangle.y) for r, _ in booked}
        lefts = {max(r.x, rectangle.x) for r, _ in booked}
        corners = (Rectangle(y=y, x=x, height=1e-3, width=1e-3) for y in tops for x in lefts)
        return max((sum(d for r, d in booked if r.overlaps(corner)) for corner in corners), default=0.0)

    def mark_running(self, acquisition: str) -> None:
        """Book that the beam is about to be unblanked for a reservation. Raises NotReservedError where there is none."""
        with self._transaction():
            changed = self._db.execute(
                "UPDATE acquisitions SET state = 'running', started_at = ? WHERE id = ? AND state = 'reserved'",
                (self._stamp(), acquisition),
            ).rowcount
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
            electrons: that it took; never more than were reserved are booked.
            reason: why it did not end well; "" where it did.
        """
        with self._transaction():
            self._db.execute(
                "UPDATE acquisitions SET state = ?, frames = ?, electrons = MIN(electrons, ?), reason = ?, "
                "finished_at = ?, dose = CASE WHEN ? > 0 THEN dose ELSE 0 END "
                "WHERE id = ? AND state IN ('reserved', 'running')",
                (state, frames, electrons, reason, self._stamp(), electrons, acquisition),
            )
        outcome = self.outcome(acquisition)
        assert outcome is not None
        return outcome

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
        exposure = self.exposure(acquisition)
        if exposure is None:
            return None
        return Outcome(
            id=exposure.id,
            state=exposure.state,
            frames=exposure.frames,
            electrons=exposure.electrons,
            reason=exposure.reason,
        )

    def exposure(self, acquisition: str) -> LedgerEntry | None:
        """The line of one acquisition; None where the id is not known."""
        row = self._db.execute("SELECT * FROM acquisitions WHERE id = ?", (acquisition,)).fetchone()
        return None if row is None else _to_exposure(row)

    def exposures(self, campaign: str | None = None) -> list[LedgerEntry]:
        """All lines, or those of one campaign, in the order they were reserved."""
        rows = self._db.execute(
            "SELECT * FROM acquisitions WHERE ?1 IS NULL OR campaign = ?1 ORDER BY series", (campaign,)
        )
        return [_to_exposure(row) for row in rows]

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
            self._db.execute(
                "INSERT INTO events (at, kind, operator, reason) VALUES (?, ?, ?, ?)",
                (self._stamp(), kind, operator, reason),
            )

    def events(self) -> list[OperatorEvent]:
        """All events, oldest first."""
        rows = self._db.execute("SELECT at, kind, operator, reason FROM events ORDER BY number")
        return [OperatorEvent(**dict(row)) for row in rows]

    def safe_reason(self) -> str:
        """Why the instrument is in SAFE according to the books; "" where it was released or never was."""
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
