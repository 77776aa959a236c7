"""What an advisor is told of a campaign, read from its folder: status, trials, report, plan. Nothing is changed by reading."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from agent.dashboard.sources import FolderSource
from agent.dashboard.view import View
from agent.policy.apertures import search_space
from agent.records import CampaignRecord, ElectronBudget, Trial
from agent.report.headline import quantity_name, sentences
from agent.storage.journal import load_campaign

Told = dict[str, Any]


def status(folder: Path) -> Told:
    """What the campaign does now.

    Args:
        folder: of the campaign.

    Raises:
        BadInputError: it is none.
    """
    record, view = load_campaign(folder), _view(folder)
    told: Told = {
        "campaign": record.config.name,
        "journal_says": record.state,
        "reason": record.reason,
        "electrons": _budget(record),
        "trials": len(record.trials),
        "running": view.state is not None and not view.finished and not view.stale(time.monotonic()),
    }
    for message in (view.state, view.suggestion, view.proposal):
        if message is not None and not view.finished:
            told[type(message).__name__.removesuffix("Message").lower()] = message.model_dump(exclude={"ts", "seq"})
    return told


def trials(folder: Path) -> Told:
    """Every trial: settings, state, score with its uncertainty, why.

    Args:
        folder: of the campaign.

    Raises:
        BadInputError: it is none.
    """
    record = load_campaign(folder)
    unit = f"score bit/Å², step and defocus Å, dose {record.description.dose_unit}"
    return {"units": unit, "trials": [_trial(each) for each in record.trials]}


def report(folder: Path) -> Told:
    """What the campaign has found, in sentences, and what it recommends.

    Args:
        folder: of the campaign.

    Raises:
        BadInputError: it is none.
    """
    record = load_campaign(folder)
    recommended = None if record.recommended is None else record.recommended.model_dump(mode="json")
    return {"found": list(sentences(record)), "recommended": recommended, "state": record.state}


def plan(folder: Path) -> Told:
    """What the campaign is to do, what may be set, and what is left to pay with.

    Args:
        folder: of the campaign.

    Raises:
        BadInputError: it is none, or nothing is legal.
    """
    record = load_campaign(folder)
    space = search_space(record.description, record.config)
    config, field = record.config, record.config.exploration
    return {
        "goal": config.goal.model_dump(mode="json"),
        "area_a": config.area.model_dump(mode="json"),
        "trials_planned": field.trials,
        "trial_field_a": [field.height, field.width],
        "legal": {axis.name: axis.legal() for axis in space.axes},
        "also": "step, defocus and dose limit each other; a proposal that breaks a limit is refused with it",
        "electrons": _budget(record),
        "trial_costs": "about dose · field's area, and what margins and flyback take",
    }


def _view(folder: Path) -> View:
    source = FolderSource(folder)
    view = source.views[folder.absolute().name]
    source.read(view)
    return view


def _budget(record: CampaignRecord) -> Told:
    budget = ElectronBudget.of_campaign(record.config, record.trials)
    return {
        "unit": quantity_name(record),
        "budget": budget.total,
        "spent": budget.spent,
        "left": budget.left,
        "left_for_exploration": max(min(budget.exploration_left, budget.left), 0.0),
    }


def _trial(trial: Trial) -> Told:
    told: Told = {
        "number": trial.number,
        "role": trial.role,
        "state": str(trial.state),
        "chosen_by": trial.suggestion.source,
        "origin": trial.suggestion.origin,
        **trial.settings.model_dump(),
        "electrons": trial.electrons,
        "why": trial.reason or trial.suggestion.reason,
    }
    if trial.suggestion.predicted is not None:
        told |= {"predicted": trial.suggestion.predicted, "predicted_sd": trial.suggestion.predicted_sd}
    if (score := trial.score) is not None:
        told |= {"score": score.value, "score_sd": score.sd, "halves": score.halves, "not_trusted": score.veto}
    return told
