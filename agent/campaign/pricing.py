"""What the instrument says that scans take besides their dose, asked before the first of them."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from agent.campaign.layout import apertures_in_reach, defocus_range
from agent.config import CampaignConfig, electrons_per_cell
from agent.policy.limits import SMALLEST_RASTER
from agent.records import CampaignLayout, ElectronBudget, Settings
from agent.scan_prices import ScanPrices
from instrument import AcquisitionPlan, Description, InstrumentClient
from instrument.errors import ExhaustedError, OutOfLimitsError
from instrument.models import PlanCheck, Rectangle

STEPS = 4
"""Steps at which the instrument is asked: lines grow with 1/step, patterns with its square."""


def typical_settings(
    config: CampaignConfig, description: Description, layout: CampaignLayout
) -> list[tuple[Rectangle, Settings]]:
    """Settings over the whole range of steps, at the doses of a trial and of the final acquisition, each with its field.

    Args:
        config: of the campaign.
        description: of the instrument.
        layout: of the campaign.
    """
    low, high = description.step.bounds
    if config.search.step is not None:
        low, high = max(low, config.search.step[0]), min(high, config.search.step[1])
    field = layout.exploration[0]
    high = max(min(high, min(field.height, field.width) / SMALLEST_RASTER), low)
    steps = np.geomspace(low, high, STEPS)
    if description.step.kind != "continuous":
        offered = np.asarray(description.step.values)
        steps = np.unique(offered[np.abs(np.log(offered[:, None] / steps)).argmin(axis=0)])
    budget = ElectronBudget(total=config.electrons, share=config.exploration.share)
    even = budget.exploration_share / config.exploration.trials / field.area
    fewest, most = electrons_per_cell(config, description)
    # The instrument is asked with its present aperture; what another one takes follows from its current.
    defocus = defocus_range(apertures_in_reach(description, config)[0], config)[1]
    found = []
    for where, dose in ((field, even), (layout.final, budget.final_share / layout.final.area)):
        for step in steps:
            legal = float(np.clip(np.clip(dose, fewest / step**2, most / step**2), *description.dose.bounds))
            found.append((where, Settings(step=float(step), defocus=defocus, dose=legal)))
    return found


async def ask_prices(client: InstrumentClient, plans: Iterable[AcquisitionPlan]) -> ScanPrices:
    """Ask what plans would cost; nothing is reserved. What the instrument would refuse tells nothing and is left out.

    Args:
        client: connected; needs no lease.
        plans: at several steps.
    """
    answers: list[tuple[AcquisitionPlan, PlanCheck]] = []
    for plan in plans:
        try:
            answers.append((plan, await client.check(plan)))
        except (OutOfLimitsError, ExhaustedError):
            continue
    return ScanPrices.told(answers)
