"""What an earlier campaign on the same column knows: its calibration and its trials."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from agent.campaign.trials import observe
from agent.config import CampaignConfig
from agent.policy import Observation
from agent.records import TrialState
from agent.storage.journal import load_campaign


def earlier_observations(config: CampaignConfig) -> tuple[Observation, ...]:
    """The earlier campaign's trials, final pictures included; none where there was no campaign.

    Args:
        config: that names its folder.

    Raises:
        BadInputError: the folder holds no campaign.
    """
    return () if config.earlier is None else _observations(Path(config.earlier))


def earlier_column(config: CampaignConfig) -> Path | None:
    """The file with what the earlier campaign measured of the column last; None: there is none.

    Args:
        config: that names its folder.
    """
    if config.earlier is None:
        return None
    files = sorted((Path(config.earlier) / "columns").glob("*.json"))
    return files[-1] if files else None


@lru_cache(maxsize=4)
def _observations(folder: Path) -> tuple[Observation, ...]:
    ended = (trial for trial in load_campaign(folder).trials if trial.state is TrialState.DONE)
    return tuple(observe(trial, pending=False) for trial in ended)
