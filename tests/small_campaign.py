"""A campaign file that is as small as it can be, for tests that need one and run none."""

from __future__ import annotations

from agent.config import CampaignConfig


def config(name: str = "c", **metadata: str) -> CampaignConfig:
    """The smallest one."""
    values = {
        "name": name,
        "electrons": 1e6,
        "area": {"height": 9, "width": 9},
        "exploration": {"height": 9, "width": 9},
        "metadata": metadata,
    }
    return CampaignConfig.model_validate(values)
