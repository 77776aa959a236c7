"""What a campaign remembers: settings, suggestions, scores, trials. Frozen, JSON-able, shared by every room of the agent."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from typing import Any, Literal, Self

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer

from agent.cleaning_record import Cleaning
from agent.config import CampaignConfig
from agent.encoding import OsText
from agent.live_choice import StoppedScan
from agent.model_record import ChosenModel
from agent.plugins import load_attribute
from agent.scan_prices import ScanPrices
from instrument.models import AcquisitionPlan, Description, Record, Rectangle


class Settings(Record):
    """The numbers the agent chooses. `defocus` is the nominal set-point."""

    step: float = Field(gt=0, description="scan step size, Å")
    defocus: float = Field(description="nominal defocus, Å, positive for underfocus")
    dose: float = Field(gt=0, description="e/Å² (counts/Å² where counts per electron are not known)")
    semiangle: float | None = Field(
        default=None,
        gt=0,
        description="which aperture, mrad; None: the instrument's present one, as there is no choice",
    )

    @model_serializer(mode="wrap")
    def _as_without_a_choice(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Three numbers where there is no choice of apertures, as they always were."""
        told: dict[str, Any] = handler(self)
        if self.semiangle is None:
            told.pop("semiangle", None)
        return told

    def aperture_text(self) -> str:
        """The semi-angle in words; "" where there is no choice."""
        return "" if self.semiangle is None else f"{self.semiangle:g} mrad"

    def place_text(self) -> str:
        """All but the dose, as a phrase."""
        return ", ".join(filter(None, (f"{self.step:.3g} Å, {self.defocus:+.4g} Å", self.aperture_text())))


class Alternative(Record):
    """A candidate that was not chosen, and why."""

    settings: Settings
    predicted: float
    predicted_sd: float
    reason: str


Origin = Literal["policy", "edited", "manual", "proposed"]
"""Who chose settings: the policy; a person in its place; a person besides; another program, and a person agreed."""


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
    data_share: float | None = Field(
        default=None,
        description="part of what was uncertain about these settings that trials have settled; the rest is prior",
    )
    explore_share: float | None = Field(
        default=None, description="part of the improvement that comes from not knowing: 0 exploits, 1 explores"
    )
    improvement: float | None = Field(default=None, description="expected of the final picture, bit/Å²")
    model: str | None = Field(default=None, description="what predicts: the prior of an ensemble, or trials alone")
    origin: Origin = "policy"
    request: str | None = Field(default=None, description="id of the command that asked for it; None: nobody did")

    def rejected_texts(self) -> list[str]:
        """The alternatives with their reasons, a phrase each."""
        return [f"{a.settings.place_text()}: {a.reason}" for a in self.alternatives]

    def shares_text(self) -> str:
        """How much is known and how much is tried, in words; "" where no model chose."""
        told = []
        if self.explore_share is not None:
            kind = "explores" if self.explore_share > 0.5 else "exploits"
            told.append(f"{kind} ({100 * self.explore_share:.0f} % of the gain expected is from not knowing)")
        if self.data_share is not None:
            told.append(f"{100 * self.data_share:.0f} % from data, the rest from {self.model or 'the prior'}")
        return "; ".join(told)

    def _repr_html_(self) -> str:
        """What a notebook shows; `agent.report` draws it."""
        return str(load_attribute("agent.report.notebook:suggestion_html")(self))


HalvesKind = Literal["passes", "positions", "thinned"]
"""What the halves of a score are: two passes over the field; every other position, or counts assigned at random, of one pass."""


class Score(Record):
    """Information per area of an acquisition from the Fourier ring correlation of its two half-count reconstructions.

    value = (1/ln 2) ∫ atanh F(k) 2πk dk, bit/Å²; sd from the variance of Fisher's z.
    """

    value: float
    sd: float = Field(ge=0)
    resolution: float | None = Field(default=None, description="half-bit resolution, Å; None: no signal anywhere")
    halves: HalvesKind | None = Field(default=None, description="what was compared; None: it is not known")
    thinned: float | None = Field(default=None, description="of two passes: score of halves drawn from both, bit/Å²")
    frequency: tuple[float, ...] = Field(default=(), description="ring centres, 1/Å")
    frc: tuple[float, ...] = Field(default=(), description="F(k) between the half-count phase images")
    pairs: tuple[float, ...] = Field(default=(), description="independent Fourier pairs per ring")
    deviance: float | None = Field(
        default=None,
        description="Poisson deviance of the full fit over what counting noise alone explains; 1 is perfect",
    )
    heldout_gain: float | None = Field(
        default=None, description="log-likelihood of held-out counts over a vacuum's, nat per electron"
    )
    fourier_error: float | None = Field(
        default=None, description="Σ(√n − √I)²/Σn of the first half's counts n and model I"
    )
    grid: float | None = Field(default=None, description="power at the scan's harmonics over that of their rings")
    veto: str | None = Field(default=None, description="why this score must not be trusted (overfit, misfit), if so")

    @property
    def one_pass(self) -> bool:
        """Whether the halves are of one pass, and so share what it has not seen: such a score tends to claim too much."""
        return self.halves in ("positions", "thinned")

    def halves_text(self) -> str:
        """What the halves are, in words; "" where it is not known."""
        if self.halves == "passes":
            beside = "" if self.thinned is None else f" (halves thinned from both: {self.thinned:.3g} bit/Å²)"
            return f"two passes{beside}"
        return {"positions": "every other position of one pass", "thinned": "thinned from one pass"}.get(
            self.halves or "", ""
        )

    def _repr_html_(self) -> str:
        """What a notebook shows; `agent.report` draws it."""
        return str(load_attribute("agent.report.notebook:score_html")(self))


class Optics(Record):
    """The optics that an acquisition was reconstructed with, and how well they are known.

    What has a standard deviation was measured, in this acquisition or in an earlier one of the same column. What has none was
    taken from the set-point or from the instrument.
    """

    defocus: float = Field(description="Å, positive for underfocus")
    rotation: float = Field(description="from the detector's axes to the scan's, rad (optics.detector_to_scan)")
    mirrored: bool = Field(description="whether the detector is seen from behind")
    centre: tuple[float, float] = Field(description="(row, column) of the zero beam, detector pixels")
    aberrations: dict[str, float] = Field(default_factory=dict, description="others, Krivanek polar, Å and rad")
    sd: dict[str, float] = Field(
        default_factory=dict,
        description="standard deviation of defocus, rotation, row and column of the centre, and aberrations, in their units",
    )
    handedness: float | None = Field(
        default=None,
        description="by how many sd this hand explains the counts better than the other; None: the instrument says it",
    )
    source_size: float = Field(
        default=0.0, description="FWHM of the source's image on the specimen, Å; 0: not measured"
    )
    focal_spread: float = Field(default=0.0, description="sd of the defocus, Å; 0: not measured")


Role = Literal["exploration", "reference", "final", "expert"]


class TrialState(StrEnum):
    """Where a trial is in its life. The strings are those of the journal, of MQTT and of `result.json`."""

    SUGGESTED = "suggested"
    VETOED = "vetoed"
    ABANDONED = "abandoned"
    RESERVED = "reserved"
    ACQUIRING = "acquiring"
    ACQUIRED = "acquired"
    RECONSTRUCTING = "reconstructing"
    DONE = "done"
    FAILED = "failed"

    def may_become(self, state: TrialState) -> bool:
        """Whether a trial in this state may be in `state` next. It may stay as it is, while other fields change."""
        return state is self or state in _NEXT[self]


OPEN = (TrialState.SUGGESTED, TrialState.RESERVED, TrialState.ACQUIRING)
"""Not on disk yet. After an interruption the instrument says what became of such a trial: suggested again, acquired or failed."""
ENDED = (TrialState.DONE, TrialState.FAILED, TrialState.VETOED, TrialState.ABANDONED)
"""Nothing more happens to such a trial, except that `resume` reconstructs once more what cannot be acquired again."""
_SETTLED = {TrialState.SUGGESTED, TrialState.ACQUIRED, TrialState.FAILED}
_NEXT: dict[TrialState, set[TrialState]] = {
    TrialState.SUGGESTED: {TrialState.VETOED, TrialState.ABANDONED, TrialState.RESERVED, *_SETTLED},
    TrialState.VETOED: set(),
    TrialState.ABANDONED: set(),
    TrialState.RESERVED: {TrialState.ACQUIRING, *_SETTLED},
    TrialState.ACQUIRING: {TrialState.DONE, *_SETTLED},
    TrialState.ACQUIRED: {TrialState.RECONSTRUCTING},
    TrialState.RECONSTRUCTING: {TrialState.DONE, TrialState.FAILED},
    TrialState.DONE: set(),
    TrialState.FAILED: {TrialState.RECONSTRUCTING},
}


class Trial(Record):
    """One acquisition from suggestion to score. `number` counts from 1 over the whole campaign."""

    number: int
    role: Role
    state: TrialState
    suggestion: Suggestion
    plan: AcquisitionPlan | None = None
    electrons: float = Field(default=0.0, description="booked by the instrument's ledger")
    score: Score | None = None
    defocus_measured: float | None = None
    optics: Optics | None = Field(default=None, description="as measured; None: it was not, or not yet")
    cleaning: Cleaning | None = Field(default=None, description="what was left out, masked and found in its patterns")
    model: ChosenModel | None = Field(default=None, description="as held-out counts chose it; None: as configured")
    reason: str = Field(default="", description="why it failed, was vetoed, abandoned or stopped")
    stopped: StoppedScan | None = Field(default=None, description="why its scan was stopped; None: it was not")
    acquisition_file: str | None = Field(default=None, description="relative to the campaign folder")
    reconstruction_file: str | None = None
    seconds: dict[str, float] = Field(default_factory=dict, description="phase of the loop -> wall-clock time, s")

    @property
    def settings(self) -> Settings:
        """The settings that were acquired (or suggested)."""
        return self.suggestion.settings

    @property
    def veto(self) -> str | None:
        """Why the score must not be trusted; None where it can be, or where there is none."""
        return self.score.veto if self.score is not None else None


class ElectronBudget(Record):
    """The electrons of a campaign: what there is, what each role has spent, and what is left for which.

    The reference comes off first, exploration may spend `share` of the rest, what is left is for the final picture.
    """

    total: float
    share: float = Field(description="largest part of what the reference leaves that exploration may spend")
    reference: float = Field(default=0.0, description="what the reference has taken, or will take")
    exploration: float = Field(default=0.0, description="spent by exploration")
    final: float = Field(default=0.0, description="spent on the final picture")

    @classmethod
    def booked(cls, total: float, share: float, spending: Iterable[tuple[Role, float]]) -> Self:
        """Add up what was spent.

        Args:
            total: what there is.
            share: see the class.
            spending: (role, electrons) of each acquisition, in any order.
        """
        spent: dict[Role, float] = dict.fromkeys(("reference", "exploration", "final", "expert"), 0.0)
        for role, electrons in spending:
            spent[role] += electrons
        del spent["expert"]
        return cls(total=total, share=share, **spent)

    @classmethod
    def of_campaign(cls, config: CampaignConfig, trials: Iterable[Trial]) -> Self:
        """The budget of a campaign after `trials`, as the instrument has booked them."""
        return cls.booked(config.electrons, config.exploration.share, ((t.role, t.electrons) for t in trials))

    @property
    def after_reference(self) -> float:
        """What exploration and final picture have together."""
        return self.total - self.reference

    @property
    def exploration_share(self) -> float:
        """The most that exploration may spend."""
        return self.share * self.after_reference

    @property
    def exploration_left(self) -> float:
        """What exploration may still spend; below 0 where it has spent more than its share."""
        return self.exploration_share - self.exploration

    @property
    def final_share(self) -> float:
        """What exploration must leave for the final picture."""
        return self.after_reference - self.exploration_share

    @property
    def spent(self) -> float:
        """All that was spent."""
        return self.reference + self.exploration + self.final

    @property
    def left(self) -> float:
        """What nobody has spent, at least 0: before the final acquisition, what that may take."""
        return max(self.total - self.spent, 0.0)


class Recommendation(Record):
    """What the campaign would do with the electrons that are left."""

    settings: Settings
    predicted: float | None = None
    predicted_sd: float | None = None
    reason: str = ""
    front: tuple[Alternative, ...] = Field(default=(), description="what other doses would give, each at its best")


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


CampaignState = Literal["running", "done", "stopped", "failed"]


class CampaignRecord(Record):
    """A whole campaign as its journal tells it."""

    folder: OsText
    config: CampaignConfig
    description: Description
    state: CampaignState
    reason: str = Field(default="", description="why it stopped or failed")
    trials: tuple[Trial, ...] = ()
    recommended: Recommendation | None = None
    target: float | None = Field(default=None, description="goal cheapest: score to reach, bit/Å²")
    prices: ScanPrices | None = Field(default=None, description="what scans take besides their dose; None: not asked")
    model_view: ModelView | None = None
    twins: dict[int, int] = Field(default={}, description="trial -> columns of twin.jsonl it was suggested with")
    electrons_spent: float = 0.0
    started: str = Field(default="", description="ISO 8601, UTC")
    finished: str = ""
    versions: dict[str, str] = Field(default_factory=dict)

    def trial(self, role: Role) -> Trial | None:
        """The last trial of a role that is done, if any."""
        done = [t for t in self.trials if t.role == role and t.state == "done"]
        return done[-1] if done else None

    def _repr_html_(self) -> str:
        """What a notebook shows; `agent.report` draws it."""
        return str(load_attribute("agent.report.notebook:campaign_html")(self))
