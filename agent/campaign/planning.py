"""Settings that are not the policy's to choose, the policy's problem, and what can be known beforehand to be impossible."""

from __future__ import annotations

import math
from collections.abc import Iterable

from agent.aims import Budget
from agent.campaign.layout import plan_layout, scored_edge
from agent.campaign.memory import earlier_observations
from agent.config import CampaignConfig, expert_semiangle, interlacing
from agent.errors import BadInputError
from agent.plugins import load_attribute
from agent.policy import make_policy
from agent.policy.base import Policy, Problem
from agent.policy.ensemble import Member
from agent.records import ENDED, CampaignLayout, ElectronBudget, Recommendation, Settings, Suggestion, Trial
from agent.scan_prices import Overheads, ScanPrices
from instrument import optics
from instrument.limits import with_legal_dose
from instrument.models import AcquisitionPlan, Description, Rectangle

CONSUMED_BY_REFERENCE = 0.5
"""Part of a recording that is used up which its reference acquisition takes; the rest is for the trials."""


def make_problem(
    description: Description,
    config: CampaignConfig,
    layout: CampaignLayout,
    target: float | None,
    budget: ElectronBudget,
    prices: ScanPrices | None = None,
    twins: tuple[Member, ...] = (),
) -> Problem:
    """The policy's problem.

    Args:
        description: what the instrument offers now.
        config: of the campaign.
        layout: whose fields have the areas to pay for.
        target: score to reach, bit/Å², where it was measured; None before.
        budget: electrons; what the reference takes of them is not the policy's to plan with.
        prices: what the instrument charges besides the dose; None: not known.
        twins: simulated columns that could have been measured as this one was.
    """
    trial = layout.exploration[0]
    return Problem(
        description=config.budget.limited(description),
        config=config.model_copy(update={"electrons": budget.after_reference}),
        final_area=layout.final.area,
        trial_area=trial.area,
        target=config.goal.score if config.goal.score is not None else target,
        earlier=earlier_observations(config),
        overheads=None if prices is None else overheads(config, description, layout, prices),
        twins=twins,
    )


def overheads(
    config: CampaignConfig, description: Description, layout: CampaignLayout, prices: ScanPrices
) -> Overheads:
    """What trials and the final acquisition take besides their dose.

    Args:
        config: of the campaign.
        description: of the instrument.
        layout: with the fields.
        prices: of the instrument.
    """
    how = interlacing(config, description)
    scanned = (2 if how == "offset" else 1, 1 if how is None else 2)
    return Overheads(prices.overhead(layout.exploration[0], *scanned), prices.overhead(layout.final, *scanned))


def with_electrons(
    config: CampaignConfig, description: Description, cost: float = 1.0, lit: float = 1.0
) -> CampaignConfig:
    """The configuration with what its budget is in electrons, where it is told in another way.

    Args:
        config: of the campaign.
        description: of the instrument.
        cost: electrons of a final picture over dose times area, as flyback and margins have it.
        lit: part of the beam time in which electrons are charged: less where the beam is off during flyback.

    Raises:
        BadInputError: the instrument does not say its beam current.
    """
    if config.budget == Budget():
        return config
    final = (config.budget.dose or 0.0) * config.area.height * config.area.width * cost
    # Minutes buy the fewest electrons through the smallest aperture, and have to suffice with each of them.
    currents = [each.beam_current for each in config.search.through(description)]
    slowest = None if None in currents else min(current for current in currents if current is not None)
    description = description.model_copy(update={"beam_current": slowest})
    allowed = config.budget.electrons(description, final, config.exploration.share, lit)
    return config.model_copy(update={"electrons": min(config.electrons or math.inf, allowed)})


def ration(
    description: Description, at_start: Description, trials: Iterable[Trial], config: CampaignConfig, *, final: bool
) -> Description:
    """What the next acquisition may take of a recording that is used up, so that those after it find counts as well.

    Each acquisition is assumed to have used up its counts at every position, which is the worst that can have happened.
    What is left is shared out: `exploration.share` of it evenly to the trials to come, the rest to the final acquisition.

    Args:
        description: of the instrument now.
        at_start: as it was when the campaign began.
        trials: all so far.
        config: of the campaign.
        final: whether the final acquisition is next, which may take everything that is left.

    Returns:
        The description with a lower limit of electrons per pattern.
    """
    exposed = [t for t in trials if t.electrons > 0 or t.state not in ENDED]
    low, now = description.electrons_per_pattern
    per_pattern = ElectronBudget.booked(
        at_start.electrons_per_pattern[1],
        config.exploration.share,
        ((t.role, t.settings.dose * t.settings.step**2) for t in exposed),
    )
    left = per_pattern.left
    if not final:
        to_come = config.exploration.trials - sum(t.role == "exploration" for t in exposed)
        left = per_pattern.exploration_left / max(to_come, 1)
    return description.model_copy(update={"electrons_per_pattern": (low, max(low, min(now, left)))})


def needs_reference(config: CampaignConfig) -> bool:
    """Whether the score to reach has to be measured first."""
    return config.goal.measured


def acquisitions_planned(config: CampaignConfig) -> int:
    """Acquisitions of a whole campaign: reference, exploration, final and expert."""
    return config.exploration.trials + needs_reference(config) + 1 + (config.expert is not None)


def planned_budget(config: CampaignConfig, description: Description) -> ElectronBudget:
    """The electrons before anything is exposed, with those that the reference will take.

    Args:
        config: of the campaign.
        description: of the instrument.

    Raises:
        BadInputError: as reference_settings.
    """
    reference = 0.0
    if needs_reference(config):
        reference = reference_settings(description, config).settings.dose * _trial_area(config)
    return ElectronBudget(total=config.electrons, share=config.exploration.share, reference=reference)


def reference_part(description: Description) -> float:
    """How much of what a recording holds its reference acquisition takes: all, unless that would use it up."""
    return CONSUMED_BY_REFERENCE if description.consumable else 1.0


def reference_settings(description: Description, config: CampaignConfig) -> Suggestion:
    """The acquisition that tells what the instrument can give: finest step, all or half of what the recording holds.

    Args:
        description: of the instrument; only a recording has a reference.
        config: of the campaign.

    Raises:
        BadInputError: the instrument is no recording, or the budget does not pay for it.
    """
    if not description.repeatable:
        msg = (
            "goal.score is missing: only a recording can tell by itself which score is the best it can give; "
            "write the score to reach, bit/Å², or goal.resolution, Å"
        )
        raise BadInputError(msg)
    part = reference_part(description)
    dose = part * description.full_dose
    cost = dose * _trial_area(config)
    if cost >= config.electrons:
        msg = f"electrons: the budget of {config.electrons:.4g} does not pay for the reference acquisition, {cost:.4g}"
        raise BadInputError(msg)
    low, high = description.defocus.bounds
    return Suggestion(
        settings=Settings(step=description.step.bounds[0], defocus=(low + high) / 2, dose=dose),
        source="reference",
        reason=f"finest step and {part:.0%} of what the recording holds: its score says which score is to be reached",
    )


def expert_settings(
    config: CampaignConfig, final: AcquisitionPlan, area: Rectangle, description: Description
) -> Suggestion:
    """The expert's step and defocus with the electrons of the final acquisition.

    Where the instrument is not fast enough for two passes of the expert's step, each takes √2 times that step: as many
    patterns in all as one pass of the expert's.

    Args:
        config: names the expert's step, Å, and defocus, Å.
        final: plan of the final acquisition.
        area: field of the final acquisition; the expert's is of the same size.
        description: of the instrument; where it has fixed dwell times, the dose is the nearest below that is legal.
    """
    assert config.expert is not None
    step, defocus = config.expert
    semiangle = expert_semiangle(description, config)
    description, final = description.through(semiangle), final.model_copy(update={"semiangle": semiangle})
    reason = (
        f"the expert's settings with the {final.electrons:.4g} electrons of the final acquisition, on a fresh region"
    )
    dose = _dose_of(final, area, step)
    fewest, _ = description.electrons_per_pattern
    if dose * step**2 / final.patterns_per_cell < fewest * (1 - 1e-6) and final.patterns_per_cell > 1:
        reason += f"; two passes of √2 times the step of {step:g} Å, which take as many patterns as one pass of it"
        step *= math.sqrt(2)
        dose = _dose_of(final, area, step)
    if description.electrons_per_pattern_values is not None:
        plan = final.model_copy(update={"field": area, "step": step, "dose": dose})
        dose = with_legal_dose(plan, description).dose
    settings = Settings(step=step, defocus=defocus, dose=dose, semiangle=semiangle)
    return Suggestion(settings=settings, source="expert", reason=reason)


def _dose_of(final: AcquisitionPlan, area: Rectangle, step: float) -> float:
    """Dose, e/Å², at which a field scanned with another step, Å, takes the electrons of the final acquisition."""
    shape = final.model_copy(update={"field": area, "step": step})
    return final.electrons / (shape.n_cells * step**2)


def final_suggestion(recommendation: Recommendation, source: str) -> Suggestion:
    """The recommendation as the suggestion of a trial; `source` is the policy's name."""
    return Suggestion(
        settings=recommendation.settings,
        source=source,
        reason=recommendation.reason,
        predicted=recommendation.predicted,
        predicted_sd=recommendation.predicted_sd,
    )


def plan_campaign(config: CampaignConfig, description: Description, exposed: list[Rectangle]) -> CampaignLayout:
    """Lay out a campaign, and refuse everything that can be known beforehand to be impossible.

    Args:
        config: the campaign.
        description: what the instrument offers.
        exposed: illuminated rectangles of the instrument's ledger.

    Returns:
        Where on the specimen everything will happen.

    Raises:
        BadInputError: something is impossible; the message has the numbers.
    """
    layout = plan_layout(description, config, exposed)
    config.geometry.applied(description)
    _require_resolvable(config, description)
    scored_edge(config)
    for own in (config.reconstruction.function, config.score.function):
        if own is not None:
            load_attribute(own)
    first_policy(config, description, layout)
    return layout


def _require_resolvable(config: CampaignConfig, description: Description) -> None:
    """Refuse a resolution that the detector or the score's frequencies cannot show."""
    wanted, detector = config.goal.resolution, description.detector
    if wanted is None:
        return
    pixel = min(optics.pixel_size(detector.angular_pixel, n, description.energy) for n in detector.shape)
    finest = max(1 / config.score.k_max, 2 * pixel)
    coarsest = 1 / config.score.k_min if config.score.k_min > 0 else math.inf
    if not finest <= wanted <= coarsest:
        limit = "score.k_max" if finest == 1 / config.score.k_max else "the detector's edge"
        msg = (
            f"goal.resolution of {wanted:g} Å cannot be judged; legal: {finest:.3g} Å ({limit}) … {coarsest:.3g} Å "
            "(score.k_min)"
        )
        raise BadInputError(msg)


def first_suggestion(
    config: CampaignConfig, description: Description, layout: CampaignLayout, prices: ScanPrices | None = None
) -> Suggestion:
    """What the policy would try first.

    Args:
        config: of the campaign.
        description: of the instrument.
        layout: of the campaign.
        prices: of the instrument.

    Raises:
        BadInputError: it has nothing to try.
    """
    suggestions = first_policy(config, description, layout, prices).suggest(1)
    if not suggestions:
        msg = "electrons: the budget does not pay for a single exploratory acquisition"
        raise BadInputError(msg)
    return suggestions[0]


def first_policy(
    config: CampaignConfig, description: Description, layout: CampaignLayout, prices: ScanPrices | None = None
) -> Policy:
    """The policy before the first trial. A target that is still to be measured stands in as 1 bit/Å².

    Args:
        config: of the campaign.
        description: of the instrument.
        layout: of the campaign.
        prices: of the instrument.
    """
    budget = planned_budget(config, description)
    return make_policy(make_problem(description, config, layout, 1.0, budget, prices), config.seed)


def _trial_area(config: CampaignConfig) -> float:
    """Area, Å², of a trial's field."""
    return config.exploration.height * config.exploration.width
