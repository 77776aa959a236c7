"""What the list of all campaigns says of each: from its journal, or from an agent's messages."""

from __future__ import annotations

import math
from dataclasses import dataclass

from agent.dashboard.view import View
from agent.records import CampaignRecord, Trial

UNKNOWN = "–"


@dataclass(frozen=True)
class Row:
    """One campaign or agent in the list.

    Attributes:
        key: of its view.
        campaign, instrument, state, started: in words; started as ISO 8601.
        trials: how many there are.
        score, score_sd: of the final picture, or of the best trial before there is one; None: none is trusted.
        spent, budget: electrons or counts.
    """

    key: str
    campaign: str
    instrument: str
    state: str
    started: str
    trials: int
    score: float | None
    score_sd: float | None
    spent: float
    budget: float


def row_of_record(key: str, record: CampaignRecord) -> Row:
    """A campaign as its journal tells it.

    Args:
        key: of its view.
        record: of the campaign.
    """
    trusted = [t for t in record.trials if t.score is not None and t.veto is None and t.role != "expert"]
    shown: Trial | None = next((t for t in reversed(trusted) if t.role == "final"), None)
    if shown is None:
        shown = max(trusted, key=lambda t: t.score.value if t.score else -math.inf, default=None)
    score = shown.score if shown is not None else None
    return Row(
        key=key,
        campaign=record.config.name,
        instrument=record.description.name,
        state=record.state,
        started=record.started,
        trials=len(record.trials),
        score=score.value if score is not None else None,
        score_sd=score.sd if score is not None else None,
        spent=record.electrons_spent,
        budget=record.config.electrons,
    )


def row_of_view(view: View) -> Row:
    """An agent as its messages tell it.

    Args:
        view: of the agent.
    """
    session, state, best, dose = view.session, view.state, view.best, view.dose
    doing = (state.outcome or state.phase) if state is not None else UNKNOWN
    return Row(
        key=view.key,
        campaign=view.title,
        instrument=session.instrument if session is not None else UNKNOWN,
        state="offline" if view.online is False else doing,
        started=session.started if session is not None else "",
        trials=len(view.trials),
        score=best.score if best is not None else None,
        score_sd=best.score_sd if best is not None else None,
        spent=dose.spent if dose is not None else 0.0,
        budget=dose.budget if dose is not None else 0.0,
    )
