"""What a server says of itself and its books: state, leases, accounts and ledger lines, as frozen records."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from instrument.models import AcquisitionPlan, PlanCheck, Record, Rectangle

Phase = Literal["idle", "exposing", "safe"]
AcquisitionState = Literal["reserved", "running", "done", "aborted", "failed"]


class InstrumentStatus(Record):
    """The state of the instrument as its server knows it.

    Attributes:
        phase: idle, exposing, or safe (the beam stays off until an operator's `resume`).
        blanked: whether the beam is off the specimen.
        reason: why it is in SAFE; "" otherwise.
        electrons_spent: booked for finished exposures of all campaigns.
        electrons_reserved: set aside for acquisitions that have not ended.
        fence: number of the last lease given; 0 before the first.
        holder: of the live lease; "" where there is none.
        lease_left: s until it lapses, 0 where there is none.
        acquisition: id of the running acquisition; "" where there is none.
        uptime: s since the server started.
        suspended: why nothing may be exposed although it is not in SAFE; it ends by itself. "" otherwise.
        dry_run: whether the owner keeps the beam blanked, or a dry run is under way.
    """

    phase: Phase
    blanked: bool
    reason: str = ""
    electrons_spent: float = 0.0
    electrons_reserved: float = 0.0
    fence: int = 0
    holder: str = ""
    lease_left: float = 0.0
    acquisition: str = ""
    uptime: float = 0.0
    suspended: str = ""
    dry_run: bool = False


class Figures(Record):
    """What a server can be asked for from any thread, for `/metrics`.

    Attributes:
        name: of the instrument.
        status: now.
        frames: that the microscope has delivered since the server started.
        frames_lost: that it owed to exposures which nobody had stopped.
        exposures: that have ended, by how.
        leases_lapsed: that were not renewed in time.
        disk_free: bytes of the ledger's disk; -1 where it does not say.
    """

    name: str
    status: InstrumentStatus
    frames: int
    frames_lost: int
    exposures: dict[str, int]
    leases_lapsed: int
    disk_free: float


class Lease(Record):
    """The right to command the beam while it is being renewed."""

    holder: str
    fence: int
    ttl: float = Field(description="s after the last renewal at which the server blanks and goes to SAFE")


class CampaignAccount(Record):
    """The electrons of a campaign. What is left is budget − spent − reserved."""

    id: str
    budget: float
    spent: float
    reserved: float

    @property
    def left(self) -> float:
        """Electrons that can still be reserved."""
        return max(0.0, self.budget - self.spent - self.reserved)


class LedgerEntry(Record):
    """One line of the ledger: an acquisition from its reservation to its end.

    Attributes:
        id: of the acquisition.
        series: number of the acquisition on this instrument, counting from 1; `series_id` of its frames.
        campaign: whose electrons it takes.
        region: name of the place on the specimen.
        state: how far it has come.
        electrons: charged to the campaign: what was reserved until the acquisition has ended, what was spent then.
        frames: that were delivered.
        dose: e/Å² booked on the map for every point of `illuminated`; 0 where nothing was exposed.
        illuminated: area that the beam touches, Å, specimen frame.
        plan: as it was reserved.
        check: what the microscope said it would cost.
        reason: why it did not end well; "" otherwise.
        reserved_at, started_at, finished_at: ISO 8601 with zone; "" before.
    """

    id: str
    series: int
    campaign: str
    region: str
    state: AcquisitionState
    electrons: float
    frames: int
    dose: float
    illuminated: Rectangle
    plan: AcquisitionPlan
    check: PlanCheck
    reason: str = ""
    reserved_at: str = ""
    started_at: str = ""
    finished_at: str = ""


class OperatorEvent(Record):
    """Something an operator wants to find in the books: the beam went to SAFE, someone released it."""

    at: str
    kind: Literal["safe", "resume"]
    operator: str = ""
    reason: str = ""
