"""A plan with a grade for each thing that a careful operator would look at before the first electron."""

from __future__ import annotations

from typing import Literal

import numpy as np
from pydantic import Field

from agent.campaign.dry_run import DryRun
from agent.config import CampaignConfig, electrons_per_cell
from agent.formatting import duration, electrons, length, signed_length, uncertain
from agent.records import Settings
from instrument import optics
from instrument.models import Record

Verdict = Literal["good", "careful", "bad"]

COMFORTABLE = 0.7
"""Part of a limit from which it is near."""
SMALL_WINDOW = 0.5
"""Part of a pattern's window that the probe's disc may fill without care."""
GOOD_OVERLAP = 0.6
"""Linear overlap of neighbouring probes from which ptychography is robust."""
FEW_ELECTRONS = 30.0
"""Electrons in a pattern below which calibration has little to go by."""
VAGUE = 0.5
"""Uncertainty over expected score from which the expectation says little."""


class Grade(Record):
    """What was found about one subject."""

    subject: str
    verdict: Verdict
    value: str = Field(description="the figures")
    advice: str = Field(default="", description="what could be done; empty where nothing needs to be")


def grade(plan: DryRun, config: CampaignConfig, free_bytes: float) -> tuple[Grade, ...]:
    """Grade a plan. `bad` is what the campaign would fail at, or harm the specimen by.

    Args:
        plan: of a dry run.
        config: of the campaign.
        free_bytes: on the disk that holds the campaign.
    """
    return (
        _budget(plan, config),
        _area(plan),
        _time(plan, config),
        _window(plan, config),
        _overlap(plan, config),
        _patterns(plan, config),
        _damage(plan),
        _disk(plan, free_bytes),
        _expected(plan),
    )


def _budget(plan: DryRun, config: CampaignConfig) -> Grade:
    unit = plan.description.dose_unit
    area = plan.layout.exploration[0].area
    besides = max(plan.trial_electrons / area - plan.first.settings.dose, 0.0)
    each = max(plan.exploration_electrons / plan.trials / area - besides, 0.0)
    value = f"about {electrons(each)} {unit} for each of {plan.trials} trials, {electrons(plan.final_dose)} {unit} for the final"
    if each > plan.final_dose:
        return Grade(
            subject="budget", verdict="careful", value=value, advice="lower exploration.share, or use smaller trials"
        )
    return Grade(subject="budget", verdict="good", value=value)


def _area(plan: DryRun) -> Grade:
    final, whole = plan.layout.final, plan.description.area
    placed = len(plan.layout.exploration)
    value = f"final {final.height:g} × {final.width:g} Å and {placed} fields, rims of {length(round(plan.layout.margin, 1))}"
    part = (final.area + sum(field.area for field in plan.layout.exploration)) / whole.area
    if part > COMFORTABLE and not plan.description.repeatable:
        return Grade(
            subject="area", verdict="careful", value=value, advice="little fresh specimen is left for anything else"
        )
    return Grade(subject="area", verdict="good", value=value)


def _time(plan: DryRun, config: CampaignConfig) -> Grade:
    value = f"{duration(plan.duration)} of beam time, without reconstruction"
    if config.time_limit is None:
        return Grade(subject="time", verdict="good", value=value)
    value += f", limit {duration(config.time_limit)}"
    verdict: Verdict = "bad" if plan.duration > config.time_limit else "good"
    if verdict == "good" and plan.duration > COMFORTABLE * config.time_limit:
        verdict = "careful"
    return Grade(subject="time", verdict=verdict, value=value, advice="" if verdict == "good" else "raise time_limit")


def _window(plan: DryRun, config: CampaignConfig) -> Grade:
    description, settings = plan.description, _settings(plan)
    detector = description.detector
    window = optics.wavelength(description.voltage) / (detector.angular_pixel * 1e-3)
    part = _probe(plan, settings) / window
    value = f"the probe fills {part:.0%} of a pattern's window at {signed_length(settings.defocus)}"
    verdict: Verdict = "good" if part <= SMALL_WINDOW else "careful" if part <= config.search.window else "bad"
    advice = "" if verdict == "good" else "a smaller defocus, a longer camera length or detector binning less"
    return Grade(subject="window", verdict=verdict, value=value, advice=advice)


def _overlap(plan: DryRun, config: CampaignConfig) -> Grade:
    settings = _settings(plan)
    overlap = 1 - settings.step / _probe(plan, settings)
    value = f"{overlap:.0%} linear overlap at step {length(settings.step)}, {signed_length(settings.defocus)}"
    verdict: Verdict = "good" if overlap >= GOOD_OVERLAP else "careful" if overlap >= config.search.overlap else "bad"
    return Grade(subject="overlap", verdict=verdict, value=value, advice="" if verdict == "good" else "a smaller step")


def _patterns(plan: DryRun, config: CampaignConfig) -> Grade:
    settings = _settings(plan)
    fewest, most = electrons_per_cell(config, plan.description.through(settings.semiangle))
    wanted = plan.final_dose * settings.step**2
    value = f"{electrons(wanted)} electrons per scan cell, the instrument gives {electrons(fewest)} … {electrons(most)}"
    if wanted > most:
        advice = "the final picture cannot take all electrons at this step: a larger step, or several fields"
        return Grade(subject="frame rate", verdict="careful", value=value, advice=advice)
    if wanted < max(fewest, FEW_ELECTRONS):
        return Grade(subject="frame rate", verdict="careful", value=value, advice="more electrons, or a smaller area")
    return Grade(subject="frame rate", verdict="good", value=value)


def _damage(plan: DryRun) -> Grade:
    unit, limit = plan.description.dose_unit, plan.description.region_dose_limit
    value = f"{electrons(plan.final_dose)} {unit} in the final picture"
    if limit is None:
        return Grade(subject="damage", verdict="good", value=f"{value}; the instrument states no limit")
    verdict: Verdict = "good" if plan.final_dose <= COMFORTABLE * limit else "careful"
    if plan.final_dose > limit:
        verdict = "bad"
    advice = "" if verdict == "good" else "fewer electrons, or a larger area"
    return Grade(subject="damage", verdict=verdict, value=f"{value}, limit {electrons(limit)}", advice=advice)


def _disk(plan: DryRun, free_bytes: float) -> Grade:
    detector, settings = plan.description.detector, _settings(plan)
    pattern = float(np.prod(detector.shape)) * np.dtype(detector.dtype).itemsize
    scanned = plan.layout.final.area * 2 + plan.trials * plan.layout.exploration[0].area
    wanted = plan.passes * scanned / settings.step**2 * pattern
    value = f"at most {wanted / 1e9:.2g} GB of {free_bytes / 1e9:.3g} GB free"
    verdict: Verdict = "bad" if wanted > free_bytes else "careful" if wanted > COMFORTABLE * free_bytes else "good"
    return Grade(subject="disk", verdict=verdict, value=value, advice="" if verdict == "good" else "free some space")


def _expected(plan: DryRun) -> Grade:
    expected = plan.expected
    if expected is None or expected.predicted is None:
        value = "not known before there are scores"
        return Grade(subject="expected score", verdict="careful", value=value, advice="this policy has no prior here")
    sd = expected.predicted_sd
    value = f"{uncertain(expected.predicted, sd)} bit/Å² at step {length(expected.settings.step)}"
    if sd is None or sd > VAGUE * expected.predicted:
        return Grade(subject="expected score", verdict="careful", value=value, advice="nothing like this is known yet")
    return Grade(subject="expected score", verdict="good", value=value)


def _settings(plan: DryRun) -> Settings:
    """Those that the final picture would have, as far as that is known before the first trial."""
    known = plan.expected is not None and plan.expected.predicted is not None
    return plan.expected.settings if known and plan.expected is not None else plan.first.settings


def _probe(plan: DryRun, settings: Settings) -> float:
    """Diameter of the probe, Å."""
    description = plan.description.through(settings.semiangle)
    return optics.probe_diameter(description.semiangle, settings.defocus, description.voltage)
