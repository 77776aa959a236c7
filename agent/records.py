"""What a campaign remembers: settings, suggestions, scores, trials. Frozen, JSON-able, shared by every room of the agent."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from agent.config import CampaignConfig
from instrument.models import AcquisitionPlan, Description, Record, Rectangle


class Settings(Record):
    """The three numbers the agent chooses. `defocus` is the nominal set-point."""

    step: float = Field(gt=0, description="scan step size, Å")
    defocus: float = Field(description="nominal defocus, Å, positive for underfocus")
    dose: float = Field(gt=0, description="e/Å² (counts/Å² where counts per electron are not known)")


class Alternative(Record):
    """A candidate that was not chosen, and why."""

    settings: Settings
    predicted: float
    predicted_sd: float
    reason: str


class Suggestion(Record):
    """The next settings with their reason.

    `predicted` ± `predicted_sd` is the score (bit/Å²) expected of the *trial as suggested*; None before there is a model.
    """

    settings: Settings
    source: str = Field(description="which policy or person: expert, random, sobol, botorch, operator, …")
    reason: str = Field(description="one sentence a microscopist understands")
    predicted: float | None = None
    predicted_sd: float | None = None
    constraint: str | None = Field(default=None, description="the constraint that was active, if any")
    nearest_trial: int | None = None
    alternatives: tuple[Alternative, ...] = ()


class Score(Record):
    """Information per area of an acquisition from the Fourier ring correlation of its two half-count reconstructions.

    value = (1/ln 2) ∫ atanh F(k) 2πk dk, bit/Å²; sd from the variance of Fisher's z.
    """

    value: float
    sd: float = Field(ge=0)
    resolution: float | None = Field(default=None, description="half-bit resolution, Å; None: no signal anywhere")
    frequency: tuple[float, ...] = Field(default=(), description="ring centres, 1/Å")
    frc: tuple[float, ...] = Field(default=(), description="F(k) between the half-count phase images")
    pairs: tuple[float, ...] = Field(default=(), description="independent Fourier pairs per ring")
    deviance: float | None = Field(
        default=None,
        description="Poisson deviance of the full fit over what counting noise alone explains; 1 is perfect",
    )
    heldout_gain: float | None = Field(
        default=None, description="log-likelihood of held-out counts over the empty object's, nat per electron"
    )
    veto: str | None = Field(default=None, description="why this score must not be trusted (overfit, misfit), if so")


Role = Literal["exploration", "reference", "final", "expert"]
State = Literal["suggested", "vetoed", "reserved", "acquiring", "acquired", "reconstructing", "done", "failed"]


class Trial(Record):
    """One acquisition from suggestion to score. `number` counts from 1 over the whole campaign."""

    number: int
    role: Role
    state: State
    suggestion: Suggestion
    plan: AcquisitionPlan | None = None
    electrons: float = Field(default=0.0, description="booked by the instrument's ledger")
    score: Score | None = None
    defocus_measured: float | None = None
    reason: str = Field(default="", description="why it failed or was vetoed")
    acquisition_file: str | None = Field(default=None, description="relative to the campaign folder")
    reconstruction_file: str | None = None
    seconds: dict[str, float] = Field(default_factory=dict, description="phase of the loop -> wall-clock time, s")

    @property
    def settings(self) -> Settings:
        """The settings that were acquired (or suggested)."""
        return self.suggestion.settings


class Recommendation(Record):
    """What the campaign would do with the electrons that are left."""

    settings: Settings
    predicted: float | None = None
    predicted_sd: float | None = None
    reason: str = ""


class CampaignLayout(Record):
    """The regions of one campaign, specimen frame, Å."""

    final: Rectangle = Field(description="the area of interest")
    expert: Rectangle | None = Field(description="a region of the same size for the expert's comparison, if wanted")
    exploration: tuple[Rectangle, ...] = Field(description="one field per trial")
    margin: float = Field(ge=0, description="width of the rim around a field that the widest probe illuminates, Å")


class ModelView(Record):
    """What the model believes over two settings: predicted score, mean and sd, on a grid."""

    x_name: Literal["step", "defocus", "dose"]
    y_name: Literal["step", "defocus", "dose"]
    x: tuple[float, ...]
    y: tuple[float, ...]
    mean: tuple[tuple[float, ...], ...] = Field(description="(len(y), len(x)), bit/Å²")
    sd: tuple[tuple[float, ...], ...]
    legal: tuple[tuple[bool, ...], ...] = Field(description="whether instrument and campaign allow the point")
    fixed: dict[str, float] = Field(default_factory=dict, description="the settings that are not on an axis")


class CampaignRecord(Record):
    """A whole campaign as its journal tells it."""

    folder: str
    config: CampaignConfig
    description: Description
    state: Literal["running", "done", "stopped", "failed"]
    reason: str = Field(default="", description="why it stopped or failed")
    trials: tuple[Trial, ...] = ()
    recommended: Recommendation | None = None
    target: float | None = Field(default=None, description="goal cheapest: score to reach, bit/Å²")
    model_view: ModelView | None = None
    electrons_spent: float = 0.0
    started: str = Field(default="", description="ISO 8601, UTC")
    finished: str = ""
    versions: dict[str, str] = Field(default_factory=dict)

    def trial(self, role: Role) -> Trial | None:
        """The last trial of a role that is done, if any."""
        done = [t for t in self.trials if t.role == role and t.state == "done"]
        return done[-1] if done else None
