"""The verbs of every policy, and what it is told about the problem."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

from pydantic import Field

from agent.config import CampaignConfig
from agent.policy.ensemble import Member
from agent.records import ModelView, Recommendation, Role, Settings, Suggestion
from agent.scan_prices import Overheads
from instrument.models import Description, Record

ObservationState = Literal["pending", "done", "failed"]


class Observation(Record):
    """A trial as the policy sees it. `score` and `variance` are None while it is pending; failed trials say so."""

    trial: int
    settings: Settings
    state: ObservationState
    score: float | None = Field(default=None, description="bit/Å²")
    variance: float | None = Field(default=None, description="of the score, (bit/Å²)²")
    knee: float | None = Field(
        default=None, description="e/Å², see agent.scoring.information.dose_knee; None: not known"
    )
    defocus_measured: float | None = Field(default=None, description="Å; None: the set-point is all that is known")
    resolution: float | None = Field(default=None, description="half-bit, Å; None: not known")
    electrons: float = Field(default=0.0, description="booked; 0: not known yet, what the settings ask for is assumed")
    role: Role = Field(
        default="exploration", description="only exploration counts as a trial and against exploration.share"
    )


@dataclass(frozen=True)
class Problem:
    """All a policy may know: what the instrument offers, what the campaign wants.

    Attributes:
        description: of the instrument.
        config: of the campaign.
        final_area: scanned area of the final acquisition, Å².
        trial_area: scanned area of a trial, Å².
        overheads: what scans take besides their dose, as the instrument told; None: nothing, or not known.
        earlier: trials of an earlier campaign on the same column; their numbers say nothing here.
        target: score to reach, bit/Å², where the goal is `cheapest`; None before it is known.
        twins: simulated columns that could have been measured as the campaign has measured its own.
    """

    description: Description
    config: CampaignConfig
    final_area: float
    trial_area: float
    target: float | None = None
    earlier: tuple[Observation, ...] = ()
    overheads: Overheads | None = None
    twins: tuple[Member, ...] = ()


@runtime_checkable
class Policy(Protocol):
    """suggest/ingest after the gest-api standard. A policy is a pure function of what it was told and its seed."""

    name: str

    def ingest(self, observations: Iterable[Observation]) -> None:
        """Replace what is known of the trials named (by number) and add new ones, pending ones included.

        Args:
            observations: in any order; the order must not matter.
        """
        ...

    def suggest(self, n_points: int = 1) -> list[Suggestion]:
        """The next settings, each legal for the instrument and the campaign, each with its reason.

        Args:
            n_points: how many trials are wanted.

        Returns:
            Suggestions; fewer than `n_points`, perhaps none, where exploration's share of the electrons pays for no more.
        """
        ...

    def recommend(self, electrons_left: float) -> Recommendation:
        """Step, defocus and dose for the final acquisition of the area.

        Args:
            electrons_left: electrons that the final acquisition may use.

        Returns:
            Legal settings with the reason.

        Raises:
            BadInputError: where no trial has a score, or where the electrons left pay for no legal acquisition.
        """
        ...

    def view(self, electrons_left: float) -> ModelView | None:
        """What the model believes over the two most telling settings.

        Args:
            electrons_left: electrons that the final acquisition may use.

        Returns:
            The view; None for a policy without a model, and before there is one.
        """
        ...
