"""A finished campaign asked again: what would have been suggested after the same trials by the same or another policy.

The trials' outcomes are those that were measured, so a different choice is not followed up: each suggestion is compared with
the one that was made, on the data that there were.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

from pydantic import Field

from agent.campaign.digital_twin import twins_of
from agent.campaign.layout import plan_layout
from agent.campaign.planning import make_problem
from agent.campaign.trials import observe
from agent.config import CampaignConfig
from agent.errors import BadInputError
from agent.policy import make_policy
from agent.records import CampaignRecord, ElectronBudget, Role, Settings, Trial, TrialState
from agent.storage.journal import load_campaign
from instrument.models import Record

SAME = 1e-12
"""Relative difference of settings that are the same."""


class Decision(Record):
    """A choice of a campaign and what would have been chosen instead."""

    study: str = "counterfactual"
    policy: str
    column: str = Field(description="name of the campaign")
    seed: int
    trial: int
    role: Role
    made: Settings
    instead: Settings | None = Field(default=None, description="None: nothing would have been suggested")
    same: bool = Field(description="whether both are equal, but for the last bits, in which processors differ")
    reason: str = Field(default="", description="of what would have been chosen")


def decisions(
    folder: Path, policy: str | None = None, seed: int | None = None, electrons: float | None = None
) -> Iterator[Decision]:
    """Every choice of a finished campaign, made again.

    Args:
        folder: of the campaign.
        policy: in place of its own; None: its own.
        seed: likewise.
        electrons: of the whole budget, likewise.

    Raises:
        BadInputError: the folder holds no campaign, or a recording was used up, whose rations are not repeated.
    """
    record = load_campaign(folder)
    if record.description.consumable:
        msg = f"{folder}: the campaign has used up a recording; what was legal for each of its trials is not known any more"
        raise BadInputError(msg)
    changes = {"policy": policy, "seed": seed, "electrons": electrons}
    config = record.config.model_copy(update={name: value for name, value in changes.items() if value is not None})
    for trial in record.trials:
        if trial.suggestion.source == "operator" or trial.role not in ("exploration", "final"):
            continue
        yield _again(record, config, trial)


def _again(record: CampaignRecord, config: CampaignConfig, trial: Trial) -> Decision:
    """One choice."""
    known = [t for t in record.trials if t.number < trial.number and t.role in ("reference", "exploration")]
    known = [t for t in known if t.state is not TrialState.ABANDONED]
    last = trial.number - 1
    told = [
        observe(t, pending=trial.role == "exploration" and t.number == last and t.role == "exploration") for t in known
    ]
    before = [t for t in record.trials if t.number < trial.number]
    budget = ElectronBudget.of_campaign(config, before)
    layout = plan_layout(record.description, config)
    decision = Decision(
        policy=config.policy,
        column=record.config.name,
        seed=config.seed,
        trial=trial.number,
        role=trial.role,
        made=trial.settings,
        same=False,
    )
    try:
        problem = make_problem(
            record.description, config, layout, record.target, budget, record.prices, twins_of(record, trial)
        )
        asked = make_policy(problem, config.seed)
        asked.ingest(told)
        if trial.role == "final":
            found = asked.recommend(budget.left)
            instead, reason = found.settings, found.reason
        else:
            suggested = asked.suggest(1)
            if not suggested:
                return decision.model_copy(update={"reason": "exploration would have ended"})
            instead, reason = suggested[0].settings, suggested[0].reason
    except BadInputError as error:
        return decision.model_copy(update={"reason": str(error)})
    return decision.model_copy(update={"instead": instead, "same": _equal(instead, trial.settings), "reason": reason})


def _equal(one: Settings, other: Settings) -> bool:
    """Whether settings are the same: to the last bit on one processor, whose exponential function differs from others' there."""
    pairs = zip(one.model_dump().values(), other.model_dump().values(), strict=True)
    return all(a == b or (a is not None and b is not None and math.isclose(a, b, rel_tol=SAME)) for a, b in pairs)
