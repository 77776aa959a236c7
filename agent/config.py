"""The campaign file: one typed value, bounds in the type, the documentation beside the default."""

from __future__ import annotations

import re
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, Field, ValidationError, field_validator, model_validator
from pydantic_core import ErrorDetails

from agent.aims import AreaOfInterest, Budget, Goal, Positive, SpecimenClass
from agent.encoding import OsPath, read_text
from agent.errors import BadInputError
from agent.known_geometry import KnownGeometry
from agent.live_choice import LiveChoice
from agent.reconstruction_choice import ReconstructionChoice
from agent.search_choice import Search
from agent.steering_choice import SteeringChoice
from agent.strict_numbers import NO_NUMBER, no_numbers
from agent.strict_yaml import Lines, parse_yaml
from instrument.models import Description, Interlacing, Record, same_angle

Parsed = TypeVar("Parsed", bound=BaseModel)


class Metadata(Record):
    """What a facility wants to find in every file."""

    sample: str = Field(default="", description="what lies under the beam")
    operator: str = Field(default="", description="who is responsible at the microscope")
    proposal: str = Field(default="", description="the facility's number for this beam time")
    comment: str = Field(default="", description="anything else worth keeping")
    specimen: SpecimenClass | None = Field(
        default=None, description="layered, light, crystal, amorphous, for `exploration.twin`; None: all by turns"
    )


class Exploration(Record):
    """Small fresh regions beside the area of interest, at doses of the agent's choice."""

    trials: Annotated[int, Field(ge=1, le=500)] = Field(default=8, description="number of exploratory acquisitions")
    height: Positive = Field(description="height of a trial's field, Å", examples=[24.0])
    width: Positive = Field(description="width of a trial's field, Å", examples=[24.0])
    share: Annotated[float, Field(gt=0, lt=1)] = Field(
        default=0.5, description="largest part of the budget it may spend"
    )
    stop: Literal["trials", "cost"] = Field(
        default="trials",
        description="when exploration ends; cost: also once a trial's electrons are worth more in the final picture (botorch)",
    )
    initial: Annotated[int, Field(ge=1)] = Field(default=4, description="without a prior: Sobol trials first")
    twin: bool = Field(default=True, description="refine the prior: simulate columns like this one on idle cores")


MAX_RINGS = 10_000
Split = Literal["counts", "positions"]
"""How an acquisition is halved for the score, see agent.scoring.splitting."""


class ScoreChoice(Record):
    """Fixed for a whole campaign, because scores are compared."""

    k_min: Annotated[float, Field(ge=0)] = Field(default=0.15, description="lowest frequency that counts, 1/Å")
    k_max: Positive = Field(default=1.25, description="highest frequency that counts, 1/Å")
    ring_width: Positive = Field(default=0.05, description="width of a ring of the correlation, 1/Å")
    field: Positive | None = Field(
        default=None, description="edge of the scored square, Å; None: what every trial's field surely illuminates"
    )
    taper: Annotated[float, Field(ge=0, le=1)] = Field(
        default=0.3, description="Tukey window: tapered part of the edge"
    )
    split: Split = Field(
        default="counts",
        description="halves: counts drawn at random; positions: every other one, where an electron gives several counts",
    )
    function: str | None = Field(
        default=None,
        description="module:attribute called as f(tiles, pixel_size, ScoreChoice) -> Score; None: built in",
    )

    @model_validator(mode="after")
    def _has_rings(self) -> ScoreChoice:
        if self.k_min + 2 * self.ring_width > self.k_max * (1 + 1e-9):
            msg = (
                f"fewer than two rings of {self.ring_width:g} 1/Å fit between k_min {self.k_min:g} and "
                f"k_max {self.k_max:g} 1/Å; lower ring_width"
            )
            raise ValueError(msg)
        if (n_rings := (self.k_max - self.k_min) / self.ring_width) > MAX_RINGS:
            msg = f"{n_rings:.3g} rings of {self.ring_width:g} 1/Å up to {self.k_max:g} 1/Å; at most {MAX_RINGS} are drawn"
            raise ValueError(msg)
        return self


class Mqtt(Record):
    """Live status. The campaign does not care whether the broker is there."""

    host: str = Field(description="name or address of the broker", examples=["broker.example.org"])
    port: Annotated[int, Field(gt=0, lt=65536)] = Field(default=1883, description="TCP port of the broker")
    site: Annotated[str, Field(pattern=r"^[^/+#\s]+$")] = Field(
        default="site", description="the facility's name in the topics, emagent/1/<site>/…"
    )
    username: str | None = Field(default=None, description="None: anonymous")
    password_file: OsPath | None = Field(default=None, description="file that holds the password and nothing else")
    tls: bool = Field(
        default=False, description="encrypt, and check the broker's certificate; its port is 8883 as a rule"
    )
    ca_file: OsPath | None = Field(default=None, description="tls: certificate of the authority; None: the system's")
    certificate_file: OsPath | None = Field(
        default=None, description="tls: own certificate, where the broker asks for one"
    )
    key_file: OsPath | None = Field(default=None, description="tls: private key of the own certificate")
    websocket: bool = Field(default=False, description="MQTT over WebSocket, path /mqtt")

    @field_validator("host")
    @classmethod
    def _is_a_host(cls, host: str) -> str:
        if re.fullmatch(r"[^\s:/\[\]]+", host):
            return host
        try:
            return str(ip_address(host.removeprefix("[").removesuffix("]")))
        except ValueError:
            msg = "only a name or an address belongs here; a port has a key of its own, `port: 1883`"
            raise ValueError(msg) from None


class CampaignConfig(Record):
    """Everything a campaign is told. Units: Å, mrad, e/Å² (counts/Å² where a detector's gain is not known)."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,47}$")] = Field(
        description="name of the campaign and of its folder", examples=["my-specimen"]
    )
    metadata: Metadata = Metadata()
    goal: Goal = Goal()
    electrons: Annotated[float, Field(ge=0)] = Field(
        default=0.0,
        description="the budget: electrons for exploration and final picture together; 0: what `budget` allows",
        json_schema_extra={"shown": 1.2e7},
    )
    budget: Budget = Budget()
    area: AreaOfInterest
    exploration: Exploration
    search: Search = Search()
    passes: Literal[1, 2] = Field(
        default=2,
        description="scans of which an acquisition consists; 2: at half the dose each, one between the other, each is one half "
        "of the score (one where the instrument cannot)",
    )
    scan: Literal["raster", "serpentine", "spiral"] = Field(
        default="raster", description="in which order a field is visited, where the instrument offers it"
    )
    policy: str = Field(
        default="botorch",
        description="botorch, sobol, random, grid, expert, ncem, phaser, seed, seed-4, module:attribute, or "
        "gest:module:attribute for a generator of the gest-api",
    )
    prior: str = Field(
        default="zoo",
        description="what botorch knows before the first trial: zoo (simulated columns that come with it), none, or a file of "
        "`ptychopilot twin build`; trials overrule it",
    )
    earlier: OsPath | None = Field(
        default=None,
        description="folder of an earlier campaign on this column, aligned as it was: its calibration and model are the start",
    )
    expert: tuple[Positive, float] | None = Field(
        default=None,
        description="(step, defocus) of the expert to compare with: same final electrons, fresh region; None: no comparison",
    )
    geometry: KnownGeometry = KnownGeometry()
    reconstruction: ReconstructionChoice = ReconstructionChoice()
    score: ScoreChoice = ScoreChoice()
    steering: SteeringChoice = SteeringChoice()
    live: LiveChoice = LiveChoice()
    processing: str = Field(
        default="agent.processing:process", description="module:function that turns an acquisition into a score"
    )
    mqtt: Mqtt | None = None
    keys: OsPath | None = Field(
        default=None,
        description="folder with your CURVE key pair and the instrument's public key; None: that of --keys, or else, for an "
        "instrument on another machine, ~/.config/ptychopilot/keys where it exists",
    )
    time_limit: Positive | None = Field(
        default=None, description="s of wall-clock time, then stop and keep everything; None: no limit"
    )
    seed: Annotated[int, Field(ge=0)] = Field(default=0, description="of everything random")

    @model_validator(mode="after")
    def _has_a_budget(self) -> CampaignConfig:
        if not self.electrons and self.budget == Budget():
            msg = "a budget is missing: write electrons, budget.dose (e/Å²) or budget.minutes"
            raise ValueError(msg)
        return self


EXPERT_SEMIANGLE = 21.4
"""mrad, of the expert that everything is compared with."""


def expert_semiangle(description: Description, config: CampaignConfig) -> float | None:
    """The aperture of the expert: the usual one where it is offered, else the present one; None where there is no choice.

    Args:
        description: of the instrument.
        config: of the campaign.
    """
    if not config.search.has_apertures(description):
        return None
    usual = (angle for angle in description.semiangles if same_angle(angle, EXPERT_SEMIANGLE))
    return next(usual, description.semiangle)


def interlacing(config: CampaignConfig, description: Description) -> Interlacing | None:
    """How the campaign's acquisitions are scanned in two passes; None: in one.

    Args:
        config: of the campaign.
        description: of the instrument.
    """
    return description.two_passes if config.passes == 2 else None


def electrons_per_cell(config: CampaignConfig, description: Description) -> tuple[float, float]:
    """Smallest and largest dose · step² of an acquisition: two offset passes share the dose of a cell between two patterns.

    Args:
        config: of the campaign.
        description: of the instrument.
    """
    values = description.electrons_per_pattern_values
    fewest, most = description.electrons_per_pattern if values is None else (values[0], values[-1])
    patterns = _patterns_per_cell(config, description)
    return patterns * fewest, patterns * most


def dwell_electrons_per_cell(config: CampaignConfig, description: Description) -> tuple[float, ...] | None:
    """The only legal dose · step² of an acquisition where the scan engine has fixed dwell times, ascending; None: any.

    Args:
        config: of the campaign.
        description: of the instrument.
    """
    values = description.electrons_per_pattern_values
    return None if values is None else tuple(_patterns_per_cell(config, description) * value for value in values)


def _patterns_per_cell(config: CampaignConfig, description: Description) -> int:
    return 2 if interlacing(config, description) == "offset" else 1


def load_config(path: Path | str) -> CampaignConfig:
    """Read a campaign file.

    Args:
        path: of a YAML file, in UTF-8, UTF-16 or ANSI.

    Raises:
        BadInputError: it cannot be read or is no campaign; one sentence per mistake, with its line.
    """
    path = Path(path)
    try:
        text = read_text(path)
    except OSError as error:
        msg = f"{path}: cannot be read ({error.strerror}); `ptychopilot init` writes a campaign file"
        raise BadInputError(msg) from error
    raw, lines = parse_yaml(text, str(path))
    return parse_config(raw, str(path), lines)


def load_settings(path: Path | str) -> ReconstructionChoice:
    """Read how to reconstruct from a file.

    Args:
        path: of a YAML file with the keys of a campaign's `reconstruction` section, or a campaign file with one.

    Raises:
        BadInputError: it cannot be read or holds something else; one sentence per mistake, with its line.
    """
    path = Path(path)
    try:
        text = read_text(path)
    except OSError as error:
        msg = f"{path}: cannot be read ({error.strerror}); it holds the keys of a campaign's `reconstruction` section"
        raise BadInputError(msg) from error
    raw, lines = parse_yaml(text, str(path))
    if isinstance(raw, dict) and "reconstruction" in raw:
        raw, lines = raw["reconstruction"], {place[1:]: line for place, line in lines.items() if len(place) > 1}
    return parse_settings(raw, str(path), lines)


def parse_settings(raw: Any, source: str, lines: Lines | None = None) -> ReconstructionChoice:
    """Validate a mapping as a campaign's `reconstruction` section.

    Args:
        raw: keys and values as YAML, JSON or options give them; None: all defaults.
        source: names it in messages.
        lines: where each value stands, if that is known.

    Raises:
        BadInputError: it is none; one phrase per mistake.
    """
    if not isinstance(raw, dict | None):
        msg = f"{source}: holds no settings (a mapping of keys to values is expected)"
        raise BadInputError(msg)
    return parse_section(raw or {}, ReconstructionChoice, source, lines)


def parse_config(raw: Any, source: str, lines: Lines | None = None) -> CampaignConfig:
    """Validate a mapping as a campaign.

    Args:
        raw: keys and values as YAML or JSON give them.
        source: names it in messages.
        lines: where each value stands, if that is known.

    Raises:
        BadInputError: it is no campaign; one phrase per mistake.
    """
    if not isinstance(raw, dict):
        msg = f"{source}: not a campaign file (a mapping of keys to values is expected)"
        raise BadInputError(msg)
    return parse_section(raw, CampaignConfig, source, lines)


def parse_section(raw: dict[str, Any], model: type[Parsed], source: str, lines: Lines | None = None) -> Parsed:
    """Validate a mapping as a part of a campaign, or the whole of it.

    Args:
        raw: keys and values as YAML, JSON or options give them.
        model: of that part.
        source: names it in messages.
        lines: where each value stands, if that is known.

    Raises:
        BadInputError: it is none; one phrase per mistake.
    """
    mistakes = [(place, f"{_key(place)}: {_short(value)} {NO_NUMBER}") for place, value in no_numbers(raw, model)]
    try:
        config = model.model_validate(raw)
    except ValidationError as error:
        told = {place for place, _ in mistakes}
        mistakes += [(e["loc"], describe_mistake(e)) for e in error.errors() if e["loc"] not in told]
    else:
        if not mistakes:
            return config
    raise BadInputError(f"{source}: " + "; ".join(_in_line(place, text, lines or {}) for place, text in mistakes))


def describe_mistake(error: ErrorDetails) -> str:
    """One mistake as a phrase: which key, which value, what is legal.

    Args:
        error: an element of `ValidationError.errors()`.
    """
    key = _key(error["loc"])
    if error["type"] == "extra_forbidden":
        return f"unknown key {key}"
    if error["type"] == "missing":
        return f"{key} is missing"
    if error["type"] == "string_type" and isinstance(error["input"], int | float):
        return f"{key}: text is expected here; put {error['input']} in quotes"
    shown = "" if isinstance(error["input"], dict) else f" (got {_short(error['input'])})"
    meaning = f"{error['msg'].removeprefix('Value error, ')}{shown}"
    return f"{key}: {meaning}" if error["loc"] else meaning


def _short(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= 80 else f"{shown[:80]}…"


def _key(place: tuple[str | int, ...]) -> str:
    return ".".join(map(str, place)) or "file"


def _in_line(place: tuple[str | int, ...], text: str, lines: Lines) -> str:
    """The text after the line of the value, or of what should hold it."""
    while place and place not in lines:
        place = place[:-1]
    return f"line {lines[place]}: {text}" if place in lines and place else text
