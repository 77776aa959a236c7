"""What a running campaign tells whoever watches it: progress display, status publisher, log file.

Events are frozen records, JSON-able, sent in the order in which things happened. Watching is not taking part: an
observer that raises is logged and left out from then on; the campaign goes on.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Literal, Protocol

from pydantic import Field

from agent.config import CampaignConfig
from agent.encoding import OsText
from agent.records import ModelView, Recommendation, Role, Settings, Trial
from instrument.models import Description, Record

logger = logging.getLogger(__name__)

Phase = Literal[
    "connecting", "suggesting", "preparing", "acquiring", "reconstructing", "recommending", "waiting", "finished"
]


class CampaignStarted(Record):
    """The instrument has described itself and the journal is open."""

    campaign: str = Field(description="id in the instrument's ledger")
    folder: OsText
    config: CampaignConfig
    description: Description
    trials_planned: int = Field(description="acquisitions in all: reference, exploration, final and expert")
    resumed: bool = False
    notes: tuple[str, ...] = ()


class PhaseChanged(Record):
    """What the campaign does now; `trial` is None for what belongs to no single trial."""

    phase: Phase
    trial: int | None = None
    role: Role | None = None
    message: str = ""


class FramesReceived(Record):
    """Progress of the running acquisition (a few times a second, and at its end)."""

    trial: int
    received: int
    total: int


class ReconstructionProgress(Record):
    """Progress of a reconstruction, `fraction` of `phase` done. It overlaps the next acquisition."""

    trial: int
    phase: str
    fraction: float


class TrialChanged(Record):
    """A trial has a new state; with state `done` it carries its score."""

    trial: Trial


class BudgetChanged(Record):
    """Electrons spent of the campaign's budget, as booked by the instrument."""

    spent: float
    budget: float


class TimeLeft(Record):
    """Estimate of the wall-clock time until the campaign is done, s, from the pace so far."""

    seconds: float


class ModelChanged(Record):
    """What the policy's model believes now: after each suggestion, and for the final picture."""

    view: ModelView


class TargetSet(Record):
    """Goal `cheapest`: the score to reach, bit/Å²."""

    target: float
    reason: str


class SteeringChanged(Record):
    """A person has changed how the campaign goes on, or is asked to."""

    autonomy: Literal["observe", "advise", "confirm", "auto"]
    paused: bool
    needs_approval: int | None = Field(default=None, description="trial that waits for an operator")
    held: int | None = Field(default=None, description="trial that is suggested and not begun, and can be edited")
    parameters: dict[str, Literal["observe", "advise", "confirm", "auto"]] = Field(
        default_factory=dict, description="autonomy over step, defocus and dose"
    )
    unacknowledged: tuple[str, ...] = Field(default=(), description="parts that have not acknowledged the pause")
    code: str = Field(default="", description="what was done, in a word: PAUSED, EDITED, NEEDS_APPROVAL, REFUSED, …")
    text: str = Field(default="", description="what was done, and by whom")


InstrumentState = Literal["well", "suspended", "safe", "unreachable"]


class InstrumentChanged(Record):
    """Whether the instrument can expose now; `reason` says why it cannot."""

    state: InstrumentState
    reason: str = ""


class ProposalChanged(Record):
    """A program proposes settings; or, where `settings` is None, no proposal waits any more."""

    number: int
    by: str = ""
    reason: str = ""
    settings: Settings | None = None
    electrons: float = Field(default=0.0, description="what a trial with them would cost")
    expires: str = Field(default="", description="ISO 8601, UTC")


class PicturesDrawn(Record):
    """Phase and Fourier transform of a trial, ready to be looked at elsewhere."""

    trial: int
    role: Role
    extent: tuple[float, float] = Field(description="(height, width), Å")
    levels: tuple[float, float] = Field(description="phases at the ends of the colour scale, rad")
    k_edge: float = Field(description="spatial frequency at the edge of the transform, 1/Å")
    resolution: float | None = Field(description="half-bit resolution, Å")
    phase: bytes = Field(description="PNG", repr=False)
    spectrum: bytes = Field(description="PNG", repr=False)


class LivePictureDrawn(Record):
    """Phase and Fourier transform of a scan that still runs, from the frames so far."""

    trial: int
    role: Role
    received: int = Field(description="frames that they are made from")
    total: int
    extent: tuple[float, float] = Field(description="(height, width) of the whole field, Å")
    levels: tuple[float, float] = Field(description="phases at the ends of the colour scale, rad")
    k_edge: float = Field(description="spatial frequency at the edge of the transform, 1/Å")
    phase: bytes = Field(description="PNG", repr=False)
    spectrum: bytes = Field(description="PNG", repr=False)
    files: tuple[OsText, OsText] = Field(description="the same as files, relative to the campaign's folder")


class TwinChanged(Record):
    """A further column was simulated as this one was measured; or, where there is `trouble`, none are any more."""

    columns: int = Field(description="so far")
    trouble: str = ""


class Recommended(Record):
    """What the final acquisition will use."""

    recommendation: Recommendation


class CampaignEnded(Record):
    """The last event."""

    state: Literal["done", "stopped", "failed"]
    reason: str = ""
    electrons_spent: float = 0.0


Event = (
    CampaignStarted
    | PhaseChanged
    | FramesReceived
    | ReconstructionProgress
    | TrialChanged
    | BudgetChanged
    | TimeLeft
    | ModelChanged
    | TargetSet
    | SteeringChanged
    | InstrumentChanged
    | ProposalChanged
    | PicturesDrawn
    | LivePictureDrawn
    | TwinChanged
    | Recommended
    | CampaignEnded
)


class Observer(Protocol):
    """Something that watches a campaign. Called from the event loop: return at once, hand long work elsewhere."""

    def on_event(self, event: Event) -> None:
        """Take note of `event`."""
        ...


class Audience:
    """All observers of a campaign; none of them can hurt it."""

    def __init__(self, observers: Iterable[Observer] = ()) -> None:
        self._observers = list(observers)

    def add(self, observer: Observer) -> None:
        """Let one more observer watch from now on."""
        self._observers.append(observer)

    def tell(self, event: Event) -> None:
        """Pass `event` on. An observer that raises is logged and dropped."""
        for observer in tuple(self._observers):
            try:
                observer.on_event(event)
            except Exception:
                logger.exception("%s no longer watches the campaign", type(observer).__name__)
                self._observers.remove(observer)
