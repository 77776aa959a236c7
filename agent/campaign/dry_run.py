"""What a campaign would do and cost, before it exposes anything."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterable
from functools import partial
from pathlib import Path

from pydantic import Field

from agent.campaign.connection import PATIENCE_S, connected, waiting
from agent.campaign.planning import (
    acquisitions_planned,
    first_policy,
    needs_reference,
    planned_budget,
    reference_settings,
)
from agent.campaign.rehearsal import made_up_plan, preflight
from agent.campaign.stop import Control
from agent.config import CampaignConfig, interlacing
from agent.errors import BadInputError, NoResultError
from agent.events import Audience, Observer
from agent.records import CampaignLayout, Recommendation, Settings, Suggestion
from agent.storage.facts import InstrumentLink
from instrument import Description, InstrumentClient, Rectangle
from instrument.models import Record


class DryRun(Record):
    """What a campaign would do and cost. Nothing has been exposed or reserved."""

    trials: int = Field(description="exploratory acquisitions")
    acquisitions: int = Field(description="all of them: reference, exploration, final, expert")
    passes: int = Field(default=1, description="scans of which each of them consists")
    electrons: float = Field(description="the budget; counts where counts per electron are not known")
    budget_told: str = Field(default="", description="how it is told where not in electrons")
    reference_electrons: float = Field(
        default=0.0, description="part of it that the reference acquisition takes; 0 where none is needed"
    )
    exploration_electrons: float = Field(description="largest part of it that exploration may spend")
    final_dose: float = Field(
        description="dose that the rest buys over the area of interest, in the description's unit"
    )
    duration: float = Field(description="estimated beam time of all acquisitions, s, without reconstruction")
    first: Suggestion = Field(description="the first settings that would be tried")
    layout: CampaignLayout
    description: Description
    expected: Recommendation | None = Field(
        default=None, description="of the final picture before the first trial; None: the policy has no prior"
    )


async def dry_run(
    config: CampaignConfig,
    endpoint: str,
    *,
    observers: Iterable[Observer] = (),
    keys: Path | None = None,
    patience: float = PATIENCE_S,
) -> DryRun:
    """Find out what a campaign would do and cost; nothing is reserved or exposed.

    Args:
        config: the campaign.
        endpoint: control endpoint of the instrument, tcp://…
        observers: told what is being waited for.
        keys: folder of CURVE keys; None: see run_campaign.
        patience: s to wait for an instrument that does not answer.

    Raises:
        BadInputError: the campaign is not feasible.
        InstrumentUnavailableError: the instrument is not there.
    """
    link = InstrumentLink(endpoint=endpoint, keys=keys or config.keys)
    async with connected(link, "ptychopilot", patience, Control(), waiting(Audience(observers))) as client:
        config, description, layout, first = await preflight(client, config)
        scan = partial(_duration, client, config, description)
        budget = planned_budget(config, description)
        final_dose = min(budget.final_share / layout.final.area, config.budget.dose or math.inf)
        final = first.settings.model_copy(update={"dose": final_dose})
        duration = config.exploration.trials * await scan(layout.exploration[0], first.settings)
        duration += (1 + (config.expert is not None)) * await scan(layout.final, final)
        if needs_reference(config):
            settings = reference_settings(description, config).settings
            duration += await scan(layout.exploration[0], settings)
    expected = await asyncio.to_thread(_expected, config, description, layout, budget.final_share)
    return DryRun(
        expected=expected,
        trials=config.exploration.trials,
        acquisitions=acquisitions_planned(config),
        passes=1 if interlacing(config, description) is None else 2,
        electrons=budget.total,
        budget_told=config.budget.words(),
        reference_electrons=budget.reference,
        exploration_electrons=budget.exploration_share,
        final_dose=final_dose,
        duration=duration,
        first=first,
        layout=layout,
        description=description,
    )


def _expected(
    config: CampaignConfig, description: Description, layout: CampaignLayout, electrons: float
) -> Recommendation | None:
    """What the policy would recommend before it knows any score."""
    try:
        found = first_policy(config, description, layout).recommend(electrons)
    except (BadInputError, NoResultError):
        return None
    return found if found.predicted is not None else None


async def _duration(
    client: InstrumentClient, config: CampaignConfig, description: Description, field: Rectangle, settings: Settings
) -> float:
    """Beam time, s, of a field at `settings`, with no more electrons per pattern than the instrument can give."""
    plan = made_up_plan(config, description, field, settings)
    return (await client.check(plan)).duration
