"""The contract: every message that an agent and those who watch it exchange over MQTT, as a model with units in its keys.

A topic is `emagent/1/<site>/<instrument>/<agent>/<leaf>`, and 1 the contract's major version: within it keys are added, never
taken away, renamed or given another meaning. Each object is flat (numbers, strings, booleans and null, never NaN), so that a
stock panel shows it; the grid of `model` alone holds lists. Units are suffixes: `_a` Å, `_s` s, `_kv` kV,
`_pa` pA. Scores are in bit/Å².
"""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

MAJOR_VERSION = 1
AGENT = "ptychopilot"
FACILITY_AGENT = "serve"
"""The agent that publishes a facility's queue; its `instrument` is the facility's own name."""
LARGEST_IMAGE = 150_000
"""Bytes of a picture."""
LARGEST_COMMAND = 4096
"""Bytes of a command; longer ones are not read."""
HEARTBEAT_S = 2.0
"""s between two publications of an unchanged state."""
STALE_S = 5.0
"""s without any message after which what is known has to be shown as stale."""

DoseUnit = Literal["e/Å²", "counts/Å²"]
Severity = Literal["info", "warning", "error"]
Autonomy = Literal["observe", "advise", "confirm", "auto"]
"""observe: nothing is suggested. advise: suggested, never carried out. confirm: after approval. auto: carried out."""
AUTONOMIES: tuple[Autonomy, ...] = ("observe", "advise", "confirm", "auto")
Verb = Literal["pause", "resume", "stop", "approve", "veto", "edit", "trial", "propose", "autonomy", "blank"]
Setting = Literal["step", "defocus", "dose", "semiangle"]
Number = float | None


def topic_root(site: str, instrument: str, agent: str = AGENT) -> str:
    """Root of an agent's topics; characters with a meaning in topics become underscores.

    Args:
        site: the facility's name.
        instrument: its own name, as it describes itself.
        agent: name of the program.

    >>> topic_root("site", "simulated MoS2 / bilayer")
    'emagent/1/site/simulated_MoS2_bilayer/ptychopilot'
    """
    parts = (re.sub(r"[^A-Za-z0-9._-]+", "_", part).strip("_") or "unnamed" for part in (site, instrument, agent))
    return "/".join(("emagent", str(MAJOR_VERSION), *parts))


class Message(BaseModel):
    """What every object has. A reader leaves out keys that it does not know: a newer agent may send more."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)

    ts: str = Field(description="when it was made, ISO 8601, UTC")
    seq: int = Field(ge=1, description="rises with every message of a session")


class SessionMessage(Message):
    """Who works on what; published when a session begins (the birth)."""

    id: str = Field(description="of the campaign in the instrument's ledger")
    session: str = Field(default="", description="of this process; another one after a restart")
    campaign: str = Field(description="name of the campaign")
    folder: str = Field(description="where its files are, on the agent's machine")
    version: str = Field(description="of the agent")
    contract: int = Field(default=MAJOR_VERSION, description="major version of this contract")
    started: str = Field(description="of this session, ISO 8601, UTC")
    resumed: bool
    instrument: str
    goal: str
    policy: str
    sample: str
    operator: str
    proposal: str
    dose_unit: DoseUnit = "e/Å²"
    k_max_per_a: Number = Field(default=None, description="highest scored spatial frequency, 1/Å")
    semiangle_mrad: Number = Field(default=None, description="convergence semi-angle")
    area_y_a: Number = Field(default=None, description="upper edge of what can be scanned, specimen frame")
    area_x_a: Number = None
    area_height_a: Number = None
    area_width_a: Number = None


class StateMessage(Message):
    """What the campaign does now; repeated every 2 s as a sign of life."""

    phase: str = Field(
        description="connecting, suggesting, preparing, acquiring, reconstructing, recommending, waiting, finished"
    )
    campaign: str
    trial: int | None = Field(description="that it is about; null for what belongs to none")
    role: str | None
    text: str
    n_trials: int = Field(description="acquisitions planned in all, and those that came on top")
    eta_s: Number = Field(description="estimated time left")
    autonomy: Autonomy = "auto"
    paused: bool = False
    needs_approval: int | None = Field(default=None, description="trial that waits for an operator; null: none does")
    held: int | None = Field(
        default=None, description="trial that is suggested and not begun: what it asks for can be edited; null: none is"
    )
    autonomy_step: Autonomy = Field(default="auto", description="over suggestions that change the step")
    autonomy_defocus: Autonomy = "auto"
    autonomy_dose: Autonomy = "auto"
    autonomy_semiangle: Autonomy = "auto"
    unacknowledged: str = Field(
        default="", description="parts that have not acknowledged the pause: loop, acquisition, worker"
    )
    since: str = Field(default="", description="when this phase began, ISO 8601, UTC")
    outcome: str | None = Field(default=None, description="at the end: done, stopped or failed")


class BeamMessage(Message):
    """The beam as the agent commands it; the instrument's own status is what counts."""

    blanked: bool
    current_pa: Number
    ht_kv: float


class DoseMessage(Message):
    """Electrons of the campaign."""

    budget: float
    spent: float = Field(description="as booked by the instrument")
    reserved: float = Field(default=0.0, description="set aside for acquisitions that have not ended")
    remaining: float = Field(description="budget − spent − reserved, at least 0")
    unit: Literal["e", "counts"]


class SettingsMessage(Message):
    """A trial's settings."""

    trial: int
    step_a: float = Field(description="scan step size")
    defocus_a: float = Field(description="nominal, positive for underfocus")
    dose: float
    dose_unit: DoseUnit
    semiangle_mrad: Number = Field(default=None, description="which aperture; null: there is no choice")


class SuggestionMessage(SettingsMessage):
    """The next settings and why; cleared by an empty payload at the end."""

    role: str = "exploration"
    predicted: Number
    predicted_sd: Number
    reason: str
    source: str
    constraint: str | None
    needs_approval: bool = False
    nearest_trial: int | None = Field(default=None, description="the scored trial with the nearest settings")
    improvement: Number = Field(default=None, description="expected of the final picture")
    data_share: Number = Field(default=None, description="part of what was uncertain that trials have settled, 0 to 1")
    explore_share: Number = Field(
        default=None, description="part of the improvement that comes from not knowing, 0 to 1"
    )
    predicted_by: str | None = Field(default=None, description="the prior of an ensemble, or trials alone")
    rejected: str = Field(default="", description="the best candidates that were not chosen, with the reasons")


class TrialMessage(SettingsMessage):
    """One trial, from suggestion to score. `campaign` says whose: a trial of an earlier campaign may still be retained."""

    campaign: str = Field(description="`id` of the session message")
    role: str
    state: str = Field(
        description="suggested, vetoed, abandoned, reserved, acquiring, acquired, reconstructing, done, failed"
    )
    origin: str = Field(
        default="policy",
        description="who chose the settings: policy, edited or manual (a person), proposed (a program)",
    )
    electrons: float = 0.0
    predicted: Number = None
    predicted_sd: Number = None
    score: Number = None
    score_sd: Number = None
    halves: str | None = Field(default=None, description="passes, positions or thinned; null: not known")
    resolution_a: Number = Field(default=None, description="half-bit resolution")
    deviance: Number = Field(default=None, description="misfit over what counting noise explains; 1 is perfect")
    veto: str | None = Field(default=None, description="why the score must not be trusted")
    reason: str = Field(default="", description="why it was chosen or, where it did not end well, why")
    defocus_measured_a: Number = None
    defocus_measured_sd_a: Number = None
    rotation_rad: Number = None
    rotation_sd_rad: Number = None
    astigmatism_a: Number = Field(default=None, description="C12 as measured; null: not measured")
    astigmatism_sd_a: Number = None
    source_size_a: Number = Field(default=None, description="FWHM of the source's image; null: not measured")
    field_y_a: Number = Field(default=None, description="upper edge of its field, specimen frame")
    field_x_a: Number = None
    field_height_a: Number = None
    field_width_a: Number = None
    stopped_at: Number = Field(
        default=None, description="part of the scan after which it was stopped; null: it was not"
    )
    electrons_saved: Number = Field(default=None, description="by stopping it")
    picture_file: str | None = Field(default=None, description="its reconstruction, relative to the campaign's folder")


class BestMessage(SettingsMessage):
    """The best trusted score so far."""

    role: str
    score: float
    score_sd: float
    halves: str | None
    resolution_a: Number


class OptimizerMessage(Message):
    """What the model expects of the final picture."""

    step: int = Field(description="scores that it knows")
    best: Number
    expected_final: Number
    expected_final_sd: Number


class ModelMessage(Message):
    """The model over two settings. The one message with lists: not for a panel, but for a map."""

    x_name: str
    y_name: str
    x: list[float]
    y: list[float]
    mean: list[Number] = Field(description="row by row, len(y) · len(x), bit/Å²; null where the setting is illegal")
    sd: list[Number]


class ProposalMessage(Message):
    """Settings that a program proposes, a language model for one; nothing happens until an operator approves of them."""

    number: int = Field(description="names it in `approve` and `veto`")
    by: str
    reason: str
    step_a: float
    defocus_a: float
    dose: float
    semiangle_mrad: Number = Field(default=None, description="which aperture; null: the present one")
    electrons: float = Field(description="what a trial with them would cost")
    expires: str = Field(description="ISO 8601, UTC; it is dropped then")


class AcquisitionMessage(Message):
    """Progress of the running acquisition."""

    trial: int
    frames: int
    expected: int


class ReconstructionMessage(Message):
    """Progress of a reconstruction."""

    trial: int
    phase: str
    fraction: float


class EventMessage(Message):
    """Something that a person may want to find later."""

    severity: Severity
    code: str
    text: str
    trial: int | None = None


class AlarmMessage(Message):
    """What needs a person, as long as it does; cleared by an empty payload."""

    severity: Severity
    code: str
    text: str
    action: str = Field(description="what to do about it")
    since: str


class PictureMessage(Message):
    """What the pictures `image/phase` and `image/spectrum` show."""

    trial: int
    role: str
    height_a: float
    width_a: float
    phase_low_rad: float
    phase_high_rad: float
    k_edge_per_a: float = Field(description="spatial frequency at the edge of the spectrum, 1/Å")
    resolution_a: Number


class LiveMessage(Message):
    """What the pictures `image/live-phase` and `image/live-spectrum` show: a scan that still runs, or is not scored yet."""

    trial: int
    role: str
    frames: int = Field(description="that they are made from")
    expected: int = Field(description="frames of the whole scan")
    height_a: float = Field(description="of the whole field")
    width_a: float
    phase_low_rad: float
    phase_high_rad: float
    k_edge_per_a: float = Field(description="spatial frequency at the edge of the spectrum, 1/Å")
    phase_file: str = Field(default="", description="the same picture, relative to the campaign's folder")
    spectrum_file: str = ""


class QueueMessage(Message):
    """A facility's queue of campaigns, and the reconstruction processes that they share; repeated every 2 s."""

    queued: int = Field(description="campaigns whose turn has not come")
    running: int
    interrupted: int = Field(description="that will be resumed")
    held: int = Field(description="that need a person")
    done: int
    failed: int
    cancelled: int
    instruments: int
    workers: int | None = Field(description="reconstruction processes; null: not known")
    workers_busy: int | None
    reconstructions_waiting: int | None = Field(description="for a process")


class JobMessage(Message):
    """One campaign of the queue; cleared when it has ended long ago."""

    number: int
    state: str = Field(description="queued, running, cancelling, interrupted, held, done, failed, cancelled")
    turn: int | None = Field(description="1 for the next one of its instrument; null: not queued")
    campaign: str = Field(description="its name")
    instrument: str
    priority: int = Field(description="higher comes first")
    proposal: str
    user: str
    title: str
    folder: str = Field(description="the campaign's, below the facility's; empty before it has begun")
    reason: str = Field(description="why it is in this state, where that needs saying")
    restarts: int
    added: str
    started: str
    finished: str


class Command(BaseModel):
    """What a person asks of the agent. Never retained; one that is too old or comes twice does nothing."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    id: Annotated[
        str, Field(pattern=r"^[A-Za-z0-9_-]{8,64}$", description="new for every command; names the reply's topic")
    ]
    issued_at: str = Field(description="ISO 8601 with zone")
    ttl_s: Annotated[float, Field(gt=0, le=60)] = Field(default=10.0, description="after that it is refused")
    by: Annotated[str, Field(max_length=80)] = Field(default="", description="who commands")
    trial: int | None = Field(default=None, description="approve, veto, edit: which")
    proposal: int | None = Field(default=None, description="approve, veto: a proposal's number in place of a trial's")
    step_a: Annotated[float, Field(gt=0)] | None = Field(
        default=None, description="edit, trial, propose: scan step; edit: null leaves it as suggested"
    )
    defocus_a: float | None = None
    dose: Annotated[float, Field(gt=0)] | None = Field(
        default=None, description="e/Å² or counts/Å²; over MQTT an edit cannot raise it"
    )
    semiangle_mrad: Annotated[float, Field(gt=0)] | None = Field(
        default=None, description="which aperture, where it may be chosen; null: the present one, edit: as suggested"
    )
    parameter: Setting | None = Field(default=None, description="autonomy: over this setting alone; null: over all")
    level: Autonomy | None = Field(
        default=None, description="autonomy: the new level; over MQTT it can only be lowered"
    )
    reason: Annotated[str, Field(max_length=400)] = ""


class Reply(Message):
    """What became of a command."""

    id: str
    verb: str
    accepted: bool
    code: str = Field(description="OK, or why not: RETAINED, EXPIRED, MALFORMED, NOT_ALLOWED, REFUSED")
    text: str
