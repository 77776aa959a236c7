"""The campaign file: one typed value, bounds in the type, the documentation beside the default."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, ValidationError, model_validator
from pydantic_core import ErrorDetails

from agent.errors import BadInputError
from instrument import optics
from instrument.models import Description, Record

Positive = Annotated[float, Field(gt=0)]
Range = tuple[float, float]


class Metadata(Record):
    """What a facility wants to find in every file."""

    sample: str = Field(default="", description="what lies under the beam")
    operator: str = Field(default="", description="who is responsible at the microscope")
    proposal: str = Field(default="", description="the facility's number for this beam time")
    comment: str = Field(default="", description="anything else worth keeping")


class AreaOfInterest(Record):
    """Where the final picture is taken. Without y, x it lies in the middle of what the instrument can reach."""

    height: Positive = Field(description="height of the final picture, Å", examples=[32.0])
    width: Positive = Field(description="width of the final picture, Å", examples=[32.0])
    y: float | None = Field(default=None, description="upper edge in the specimen frame, Å; None: centred")
    x: float | None = Field(default=None, description="left edge in the specimen frame, Å; None: centred")


class Exploration(Record):
    """Small fresh regions beside the area of interest, at doses of the agent's choice."""

    trials: Annotated[int, Field(ge=1, le=500)] = Field(default=8, description="number of exploratory acquisitions")
    height: Positive = Field(description="height of a trial's field, Å", examples=[24.0])
    width: Positive = Field(description="width of a trial's field, Å", examples=[24.0])
    share: Annotated[float, Field(gt=0, lt=1)] = Field(
        default=0.5, description="largest part of the budget exploration may spend"
    )
    initial: Annotated[int, Field(ge=1)] = Field(default=4, description="Sobol trials before the model chooses")


class Search(Record):
    """What the policy may choose from; narrowed further by what the instrument can do. None: all the instrument offers."""

    step: Range | None = Field(default=None, description="scan step size, Å")
    defocus: Range | None = Field(default=None, description="nominal defocus, Å, positive for underfocus")
    dose: Range | None = Field(default=None, description="dose of a trial, e/Å²")
    overlap: Annotated[float, Field(ge=0, lt=1)] = Field(
        default=0.4, description="smallest linear overlap 1 − step/probe diameter"
    )
    window: Annotated[float, Field(gt=0, le=1)] = Field(
        default=0.8, description="largest part of the window 1/Δk the geometric probe disc may fill"
    )

    def largest_defocus(self, description: Description) -> float:
        """Largest |defocus|, Å, at which the geometric probe disc fills no more than `window` of one pattern's 1/Δk."""
        detector = description.detector
        return self.window * optics.largest_defocus(description.semiangle, detector.angular_pixel, description.voltage)

    @model_validator(mode="after")
    def _ordered(self) -> Search:
        for name in ("step", "defocus", "dose"):
            value = getattr(self, name)
            if value is not None and value[0] > value[1]:
                msg = f"{name}: the lower limit {value[0]:g} is above the upper limit {value[1]:g}"
                raise ValueError(msg)
            if value is not None and name != "defocus" and value[0] <= 0:
                msg = f"{name}: {value[0]:g} is not positive; the lower limit must be more than 0"
                raise ValueError(msg)
        return self


class Goal(Record):
    """best_picture: the highest score of the final picture. cheapest: the fewest electrons that reach a score."""

    kind: Literal["best_picture", "cheapest"] = Field(default="best_picture", description="what the campaign is after")
    score: Positive | None = Field(default=None, description="cheapest: the score to reach, bit/Å²")
    fraction: Annotated[float, Field(gt=0, le=1)] = Field(
        default=0.9, description="cheapest, without score: this part of the score of everything the instrument can give"
    )


class ReconstructionChoice(Record):
    """How patterns become an object. See agent.reconstruction.ReconstructionSettings for the meaning of each."""

    probe_modes: Annotated[int, Field(ge=1, le=16)] = Field(default=1, description="mutually incoherent probe states")
    passes: Annotated[int, Field(ge=1, le=1000)] = Field(default=10, description="passes over all patterns")
    device: Literal["auto", "cpu", "gpu"] = Field(default="auto", description="where to compute")
    background: bool = Field(default=True, description="model counts that no coherent wave explains")
    refine_probe: bool = Field(default=True, description="refine the probe within its aperture")
    regularise: bool = Field(
        default=False, description="expect no specimen where only noise is seen; the picture's, not the score's"
    )
    calibrate: bool = Field(default=True, description="measure rotation, handedness and defocus from the data")
    function: str | None = Field(
        default=None,
        description="module:attribute called as f(DiffractionData, ReconstructionSettings); None: built in",
    )


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
        return self


class Mqtt(Record):
    """Live status. The campaign does not care whether the broker is there."""

    host: str = Field(description="name or address of the broker", examples=["broker.example.org"])
    port: Annotated[int, Field(gt=0, lt=65536)] = Field(default=1883, description="TCP port of the broker")
    site: Annotated[str, Field(pattern=r"^[^/+#\s]+$")] = Field(
        default="site", description="the facility's name in the topics, emagent/1/<site>/…"
    )
    username: str | None = Field(default=None, description="None: anonymous")
    password_file: Path | None = Field(default=None, description="file that holds the password and nothing else")


class CampaignConfig(Record):
    """Everything a campaign is told. Units: Å, mrad, e/Å² (counts/Å² where a detector's gain is not known)."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,47}$")] = Field(
        description="name of the campaign and of its folder", examples=["my-specimen"]
    )
    metadata: Metadata = Metadata()
    goal: Goal = Goal()
    electrons: Positive = Field(
        description="the budget: electrons for exploration and final picture together", examples=[1.2e7]
    )
    area: AreaOfInterest
    exploration: Exploration
    search: Search = Search()
    policy: str = Field(default="botorch", description="botorch, sobol, random, expert, or module:attribute")
    expert: tuple[Positive, float] | None = Field(
        default=None,
        description="(step, defocus) of the expert to compare with: same final electrons, fresh region; None: no comparison",
    )
    reconstruction: ReconstructionChoice = ReconstructionChoice()
    score: ScoreChoice = ScoreChoice()
    mqtt: Mqtt | None = None
    time_limit: Positive | None = Field(
        default=None, description="s of wall-clock time, then stop and keep everything; None: no limit"
    )
    seed: Annotated[int, Field(ge=0)] = Field(default=0, description="of everything random")


def load_config(path: Path | str) -> CampaignConfig:
    """Read a campaign file.

    Args:
        path: of a YAML file.

    Raises:
        BadInputError: it cannot be read or is no campaign; one sentence per mistake.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        msg = f"{path}: cannot be read ({error.strerror}); `ptychopilot init` writes a campaign file"
        raise BadInputError(msg) from error
    try:
        raw = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" in line {mark.line + 1}" if mark is not None else ""
        msg = f"{path}: not valid YAML{where}"
        raise BadInputError(msg) from error
    return parse_config(raw, str(path))


def parse_config(raw: Any, source: str) -> CampaignConfig:
    """Validate a mapping as a campaign.

    Args:
        raw: keys and values as YAML or JSON give them.
        source: names it in messages.

    Raises:
        BadInputError: it is no campaign; one phrase per mistake.
    """
    if not isinstance(raw, dict):
        msg = f"{source}: not a campaign file (a mapping of keys to values is expected)"
        raise BadInputError(msg)
    try:
        return CampaignConfig.model_validate(raw)
    except ValidationError as error:
        raise BadInputError(f"{source}: " + "; ".join(describe_mistake(e) for e in error.errors())) from error


def describe_mistake(error: ErrorDetails) -> str:
    """One mistake as a phrase: which key, which value, what is legal.

    Args:
        error: an element of `ValidationError.errors()`.
    """
    key = ".".join(str(part) for part in error["loc"]) or "file"
    if error["type"] == "extra_forbidden":
        return f"unknown key {key}"
    if error["type"] == "missing":
        return f"{key} is missing"
    shown = "" if isinstance(error["input"], dict) else f" (got {error['input']!r})"
    return f"{key}: {error['msg'].removeprefix('Value error, ')}{shown}"
