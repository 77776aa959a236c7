"""What stays the same while one agent runs one campaign, over however many connections to the instrument."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from agent.campaign.steering import Steering
from agent.campaign.stop import Control
from agent.campaign.trials import TrialBook
from agent.config import CampaignConfig
from agent.events import Audience
from agent.records import CampaignLayout
from agent.storage.journal import Journal


@dataclass(frozen=True)
class Session:
    """One agent's work on one campaign.

    Attributes:
        journal: of the campaign; facts that change are read from it.
        audience: told what happens.
        control: says when to stop.
        book: all trials.
        steering: what a person asks of it.
        failures_after: trials up to this number belong to an earlier session; their failures have had their say.
    """

    journal: Journal
    audience: Audience
    control: Control
    book: TrialBook
    steering: Steering
    failures_after: int

    @property
    def folder(self) -> Path:
        """Of the campaign."""
        return self.journal.folder

    @property
    def config(self) -> CampaignConfig:
        """What the campaign was told."""
        return self.journal.facts.config

    @property
    def layout(self) -> CampaignLayout:
        """Where on the specimen everything happens."""
        return self.journal.facts.layout
