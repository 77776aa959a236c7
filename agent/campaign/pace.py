"""How long a campaign will still take, from the pace so far."""

from __future__ import annotations

from collections.abc import Iterable
from statistics import fmean

from agent.campaign.session import Session
from agent.config import CampaignConfig
from agent.events import Event, TimeLeft, TrialChanged
from agent.records import ENDED, CampaignLayout, Trial, TrialState


class PaceSetter:
    """Estimates the time left whenever a trial has ended.

    Args:
        session: whose trials are watched, and whose audience is told.
    """

    def __init__(self, session: Session) -> None:
        self._session = session

    def on_event(self, event: Event) -> None:
        """Tell the estimate where there is a new one."""
        if isinstance(event, TrialChanged) and event.trial.state in ENDED:
            session = self._session
            seconds = time_left(session.book, session.config, session.layout)
            if seconds is not None:
                session.audience.tell(TimeLeft(seconds=seconds))


def time_left(trials: Iterable[Trial], config: CampaignConfig, layout: CampaignLayout) -> float | None:
    """Wall-clock time until the campaign is done.

    Acquisition and reconstruction overlap, so a trial takes as long as the slower of the two; final and expert are
    scaled by their area.

    Args:
        trials: all so far.
        config: of the campaign.
        layout: whose areas scale the time.

    Returns:
        The time in s; None before a first trial is done.
    """
    known = list(trials)
    done = [t for t in known if t.role == "exploration" and t.state is TrialState.DONE]
    if not done:
        return None
    acquire = fmean(_seconds(t, "suggest", "prepare", "acquire") for t in done)
    process = fmean(_seconds(t, "process") for t in done)
    over = [t for t in known if t.role == "exploration" and t.state in (TrialState.DONE, TrialState.FAILED)]
    ended = sum(t.suggestion.origin in ("policy", "edited") for t in over)
    large = layout.final.area / layout.exploration[0].area
    left = max(config.exploration.trials - ended, 0) * max(acquire, process)
    for role in ("final", *(["expert"] if config.expert is not None else [])):
        if not any(t.role == role and t.state in ENDED for t in known):
            left += large * (acquire + process)
    return left


def _seconds(trial: Trial, *phases: str) -> float:
    return sum(trial.seconds.get(phase, 0.0) for phase in phases)
