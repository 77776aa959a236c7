"""The autopilot: campaign, reconstruction, score, policy, journal, status and command line.

    >>> import asyncio
    >>> from agent import load_campaign, load_config, run_campaign
    >>> record = asyncio.run(run_campaign(load_config("mos2.yaml"), "tcp://127.0.0.1:5555", "out"))  # doctest: +SKIP
    >>> load_campaign("out").trial("final").score.value  # doctest: +SKIP

A policy, a reconstruction or a score of your own is named in the campaign file: `policy: my_module:MyPolicy`
(agent.policy.base.Policy), `reconstruction.function` and `score.function` (agent.scoring.halves).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from agent.campaign.dry_run import dry_run
    from agent.campaign.run import resume_campaign, run_campaign
    from agent.config import CampaignConfig, load_config
    from agent.records import CampaignRecord
    from agent.storage.acquisition_file import read_acquisition
    from agent.storage.journal import load_campaign
    from agent.storage.reconstruction_file import read_reconstruction

_HOMES = {
    "CampaignConfig": "agent.config",
    "CampaignRecord": "agent.records",
    "dry_run": "agent.campaign.dry_run",
    "load_campaign": "agent.storage.journal",
    "load_config": "agent.config",
    "read_acquisition": "agent.storage.acquisition_file",
    "read_reconstruction": "agent.storage.reconstruction_file",
    "resume_campaign": "agent.campaign.run",
    "run_campaign": "agent.campaign.run",
}
__all__ = [
    "CampaignConfig",
    "CampaignRecord",
    "dry_run",
    "load_campaign",
    "load_config",
    "read_acquisition",
    "read_reconstruction",
    "resume_campaign",
    "run_campaign",
]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used: `import agent` stays light, each process loads what it needs."""
    if name not in _HOMES:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
