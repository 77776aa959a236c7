"""How long a campaign will still take, from the pace so far."""

from __future__ import annotations

from collections.abc import Iterable
from statistics import fmean

from agent.campaign.trials import ENDED
from agent.config import CampaignConfig
from agent.records import CampaignLayout, Trial


def time_left(trials: Iterable[Trial], config: CampaignConfig, layout: CampaignLayout) -> float | None:
    """Seconds of wall-clock time until the campaign is done; None before a first trial is.

    Acquisition and reconstruction overlap, so a trial takes as long as the slower of the two; final and expert are
    scaled by their area.
    """
    known = list(trials)
    done = [t for t in known if t.role == "exploration" and t.state == "done"]
    if not done:
        return None
    acquire = fmean(_seconds(t, "suggest", "prepare", "acquire") for t in done)
    process = fmean(_seconds(t, "process") for t in done)
    ended = sum(t.role == "exploration" and t.state in ENDED for t in known)
    large = layout.final.area / layout.exploration[0].area
    left = (config.exploration.trials - ended) * max(acquire, process)
    for role in ("final", *(["expert"] if config.expert is not None else [])):
        if not any(t.role == role and t.state in ENDED for t in known):
            left += large * (acquire + process)
    return left


def _seconds(trial: Trial, *phases: str) -> float:
    return sum(trial.seconds.get(phase, 0.0) for phase in phases)
