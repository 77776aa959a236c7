"""What a campaign would do and cost, before it exposes anything."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterable
from functools import partial
from pathlib import Path

import numpy as np
from pydantic import Field

from agent.aims import Goal
from agent.campaign.connection import PATIENCE_S, connected, waiting
from agent.campaign.planning import (
    acquisitions_planned,
    first_policy,
    needs_reference,
    overheads,
    planned_budget,
    reference_settings,
)
from agent.campaign.rehearsal import Ready, made_up_plan, preflight
from agent.campaign.stop import Control
from agent.config import CampaignConfig, interlacing
from agent.errors import BadInputError, NoResultError
from agent.events import Audience, Observer
from agent.records import CampaignLayout, Recommendation, Settings, Suggestion
from agent.storage.facts import InstrumentLink
from instrument import Description, InstrumentClient, Rectangle
from instrument.models import PlanCheck, Record


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
    trial_electrons: float = Field(default=0.0, description="of the first trial, with flyback, margins and dead time")
    trial_duration: float = Field(default=0.0, description="of the first trial, s")
    duration: float = Field(description="estimated beam time of all acquisitions, s, without reconstruction")
    first: Suggestion = Field(description="the first settings that would be tried")
    layout: CampaignLayout
    description: Description
    goal: Goal = Goal()
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
        ready = await preflight(client, config)
        config, description, layout, first = ready.config, ready.description, ready.layout, ready.first
        scan = partial(_scan, client, config, description)
        budget = planned_budget(config, description)
        expected = await asyncio.to_thread(_expected, ready, budget.final_share)
        known = first.settings if expected is None else expected.settings
        besides = overheads(config, description, layout, ready.prices).through(description, known.semiangle)
        final_dose = budget.final_share / layout.final.area - float(besides.final(np.array([known.step]))[0])
        final_dose = max(min(final_dose, config.budget.dose or math.inf), description.dose.bounds[0])
        final = await scan(layout.final, known.model_copy(update={"dose": final_dose}))
        trial = await scan(layout.exploration[0], first.settings)
        duration = config.exploration.trials * trial.duration + (1 + (config.expert is not None)) * final.duration
        if needs_reference(config):
            settings = reference_settings(description, config).settings
            duration += (await scan(layout.exploration[0], settings)).duration
    return DryRun(
        goal=config.goal,
        expected=expected,
        trials=config.exploration.trials,
        acquisitions=acquisitions_planned(config),
        passes=1 if interlacing(config, description) is None else 2,
        electrons=budget.total,
        budget_told=config.budget.words(),
        reference_electrons=budget.reference,
        exploration_electrons=budget.exploration_share,
        final_dose=final_dose,
        trial_electrons=trial.electrons,
        trial_duration=trial.duration,
        duration=duration,
        first=first,
        layout=layout,
        description=description,
    )


def _expected(ready: Ready, electrons: float) -> Recommendation | None:
    """What the policy would recommend before it knows any score."""
    try:
        found = first_policy(ready.config, ready.description, ready.layout, ready.prices).recommend(electrons)
    except (BadInputError, NoResultError):
        return None
    return found if found.predicted is not None else None


async def _scan(
    client: InstrumentClient, config: CampaignConfig, description: Description, field: Rectangle, settings: Settings
) -> PlanCheck:
    """What a field at `settings` costs, with no more electrons per pattern than the instrument can give."""
    return await client.check(made_up_plan(config, description, field, settings))
