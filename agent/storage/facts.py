"""What a journal knows of a campaign besides its trials."""

from __future__ import annotations

from typing import TypedDict

from pydantic import Field

from agent.config import CampaignConfig
from agent.encoding import OsPath, OsText
from agent.records import CampaignLayout, CampaignState, ModelView, Recommendation, Role, Suggestion
from agent.scan_prices import ScanPrices
from instrument.models import Description, Record


class InstrumentLink(Record):
    """How the campaign reaches its instrument."""

    endpoint: str = Field(description="ZeroMQ control endpoint")
    command: tuple[OsText, ...] | None = Field(
        default=None, description="the command that starts the instrument again, where the agent had started it"
    )
    keys: OsPath | None = Field(default=None, description="folder of the CURVE keys that were used; None: none")


class Request(Record):
    """Settings that a person has asked for and that are no trial yet."""

    role: Role
    suggestion: Suggestion


class CampaignFacts(Record):
    """The facts of a campaign. Each is a row of its own in the journal, and is missing there until it is known."""

    config: CampaignConfig
    description: Description = Field(description="of the instrument when the campaign began")
    campaign: str = Field(description="id in the instrument's ledger")
    layout: CampaignLayout
    link: InstrumentLink
    processing: str = Field(description="module:function that turns an acquisition into a score")
    versions: dict[str, str] = Field(default_factory=dict, description="of Python and the packages it began with")
    started: str = Field(default="", description="ISO 8601, UTC")
    state: CampaignState = "running"
    reason: str = Field(default="", description="why it stopped or failed")
    finished: str = Field(default="", description="ISO 8601, UTC; empty while it runs")
    target: float | None = Field(default=None, description="goal cheapest: score to reach, bit/Å²")
    prices: ScanPrices | None = Field(default=None, description="what scans take besides their dose; None: not asked")
    recommended: Recommendation | None = None
    model_view: ModelView | None = None
    requests: tuple[Request, ...] = Field(default=(), description="what a person has asked for, in order")
    twins: dict[int, int] = Field(
        default_factory=dict,
        description="trial -> columns of twin.jsonl, from the first on, that it was suggested with",
    )


class FactChanges(TypedDict, total=False):
    """The facts that change while a campaign runs; see CampaignFacts."""

    link: InstrumentLink
    state: CampaignState
    reason: str
    finished: str
    target: float
    recommended: Recommendation
    model_view: ModelView
    requests: tuple[Request, ...]
    twins: dict[int, int]
