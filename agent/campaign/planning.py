"""Settings that are not the policy's to choose, and what a campaign will cost before it exposes anything."""

from __future__ import annotations

from collections.abc import Iterable

from pydantic import Field

from agent.campaign.layout import plan_layout, scored_edge
from agent.campaign.trials import ENDED
from agent.config import CampaignConfig
from agent.errors import BadInputError
from agent.plugins import load_attribute
from agent.policy import make_policy
from agent.policy.base import Problem
from agent.records import CampaignLayout, Recommendation, Settings, Suggestion, Trial
from instrument.models import AcquisitionPlan, Description, Record, Rectangle

CONSUMED_BY_REFERENCE = 0.5
"""Part of a recording that is used up which its reference acquisition takes; the rest is for the trials."""


class DryRun(Record):
    """What a campaign would do and cost. Nothing has been exposed or reserved."""

    trials: int = Field(description="exploratory acquisitions")
    acquisitions: int = Field(description="all of them: reference, exploration, final, expert")
    electrons: float = Field(description="the budget; counts where counts per electron are not known")
    exploration_electrons: float = Field(description="largest part of it that exploration may spend")
    final_dose: float = Field(
        description="dose that the rest buys over the area of interest, in the description's unit"
    )
    duration: float = Field(description="estimated beam time of all acquisitions, s, without reconstruction")
    first: Suggestion = Field(description="the first settings that would be tried")
    layout: CampaignLayout
    description: Description


def make_problem(
    description: Description,
    config: CampaignConfig,
    layout: CampaignLayout,
    target: float | None,
    spent_before: float = 0.0,
) -> Problem:
    """The policy's problem. Electrons that a reference acquisition took are not the policy's to plan with."""
    trial = layout.exploration[0]
    return Problem(
        description=description,
        config=config.model_copy(update={"electrons": config.electrons - spent_before}),
        final_area=layout.final.area,
        trial_area=trial.area,
        target=config.goal.score if config.goal.score is not None else target,
    )


def ration(
    description: Description, at_start: Description, trials: Iterable[Trial], config: CampaignConfig, *, final: bool
) -> Description:
    """What the next acquisition may take of a recording that is used up, so that those after it find counts as well.

    Each acquisition is assumed to have used up its counts at every position, which is the worst that can have happened.
    What is left is shared out: `exploration.share` of it evenly to the trials to come, the rest to the final acquisition.

    Args:
        description: of the instrument now; returned with a lower limit of electrons per pattern.
        at_start: as it was when the campaign began.
        final: whether the final acquisition is next, which may take everything that is left.
    """
    exposed = [t for t in trials if t.role != "expert" and (t.electrons > 0 or t.state not in ENDED)]
    per_pattern = {t.number: t.settings.dose * t.settings.step**2 for t in exposed}
    reference = sum(per_pattern[t.number] for t in exposed if t.role == "reference")
    low, now = description.electrons_per_pattern
    full = at_start.electrons_per_pattern[1]
    left = full - sum(per_pattern.values())
    if not final:
        explored = [per_pattern[t.number] for t in exposed if t.role == "exploration"]
        to_come = config.exploration.trials - len(explored)
        left = (config.exploration.share * (full - reference) - sum(explored)) / max(to_come, 1)
    return description.model_copy(update={"electrons_per_pattern": (low, max(low, min(now, left)))})


def needs_reference(config: CampaignConfig) -> bool:
    """Whether the score to reach has to be measured first."""
    return config.goal.kind == "cheapest" and config.goal.score is None


def reference_part(description: Description) -> float:
    """How much of what a recording holds its reference acquisition takes: all, unless that would use it up."""
    return CONSUMED_BY_REFERENCE if description.consumable else 1.0


def reference_settings(description: Description, config: CampaignConfig) -> Suggestion:
    """The acquisition that tells what the instrument can give: finest step, all or half of what the recording holds.

    Raises BadInputError where the instrument is no recording.
    """
    if not description.repeatable:
        msg = (
            "goal.score is missing: only a recording can tell by itself which score is the best it can give; "
            "write the score to reach, bit/Å²"
        )
        raise BadInputError(msg)
    part = reference_part(description)
    dose = part * description.full_dose
    area = config.exploration.height * config.exploration.width
    if dose * area >= config.electrons:
        msg = (
            f"electrons: the budget of {config.electrons:.4g} does not pay for the reference acquisition, "
            f"{dose * area:.4g}"
        )
        raise BadInputError(msg)
    low, high = description.defocus.bounds
    return Suggestion(
        settings=Settings(step=description.step.bounds[0], defocus=(low + high) / 2, dose=dose),
        source="reference",
        reason=f"finest step and {part:.0%} of what the recording holds: its score says which score is to be reached",
    )


def expert_settings(config: CampaignConfig, final: AcquisitionPlan, area: Rectangle) -> Suggestion:
    """The expert's step and defocus with the electrons of the final acquisition."""
    assert config.expert is not None
    step, defocus = config.expert
    shape = AcquisitionPlan(
        id="expert", campaign="expert", region="expert", field=area, step=step, defocus=defocus, dose=1.0
    )
    dose = final.electrons / (shape.n_positions * step**2)
    return Suggestion(
        settings=Settings(step=step, defocus=defocus, dose=dose),
        source="expert",
        reason=f"the expert's settings with the {final.electrons:.4g} electrons of the final acquisition, on a fresh region",
    )


def final_suggestion(recommendation: Recommendation, source: str) -> Suggestion:
    """The recommendation as a trial."""
    return Suggestion(
        settings=recommendation.settings,
        source=source,
        reason=recommendation.reason,
        predicted=recommendation.predicted,
        predicted_sd=recommendation.predicted_sd,
    )


def plan_campaign(config: CampaignConfig, description: Description, exposed: list[Rectangle]) -> CampaignLayout:
    """Everything that can be known to be impossible beforehand is refused here; BadInputError."""
    layout = plan_layout(description, config, exposed)
    scored_edge(config)
    for own in (config.reconstruction.function, config.score.function):
        if own is not None:
            load_attribute(own)
    if needs_reference(config):
        reference_settings(description, config)
    make_policy(make_problem(description, config, layout, target=1.0), config.seed)
    return layout


def first_suggestion(config: CampaignConfig, description: Description, layout: CampaignLayout) -> Suggestion:
    """What the policy would try first. Raises BadInputError where it has nothing to try."""
    suggestions = make_policy(make_problem(description, config, layout, target=1.0), config.seed).suggest(1)
    if not suggestions:
        msg = "electrons: the budget does not pay for a single exploratory acquisition"
        raise BadInputError(msg)
    return suggestions[0]
