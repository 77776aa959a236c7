"""What a campaign found, in a few sentences: the answer before the evidence."""

from __future__ import annotations

import math
from dataclasses import dataclass

from agent.formatting import electrons, length, power_of, signed_length, uncertain
from agent.records import CampaignRecord, Settings, Trial
from agent.report.resolution import resolution_text
from agent.scoring.information import scale_score

SCORE_UNIT = "bit/Å²"
SAME_DOSE = 0.05
"""Relative difference of two doses below which they are said to be the same."""


@dataclass(frozen=True)
class Card:
    """A figure that matters, with what it means. `kind` decides its colour: own, expert or plain."""

    title: str
    value: str
    detail: str
    kind: str = ""


def settings_text(settings: Settings, dose_unit: str) -> str:
    """Settings in one line."""
    told = (
        f"step {length(settings.step)}, defocus {signed_length(settings.defocus)}, "
        f"dose {electrons(settings.dose)} {dose_unit}"
    )
    return told if settings.semiangle is None else f"{told}, aperture {settings.aperture_text()}"


def score_text(trial: Trial, power: int | None = None) -> str:
    """Score ± sd of a trial with its unit; a dash without one. `power`: 10^power is pulled out; None: as it suits the value."""
    if trial.score is None:
        return "–"
    mark = "" if trial.veto is None else " (not to be trusted)"
    halves = " (halves of one pass)" if trial.score.one_pass else ""
    return f"{uncertain(trial.score.value, trial.score.sd, power)} {SCORE_UNIT}{halves}{mark}"


def shared_power(record: CampaignRecord) -> int:
    """One power of ten for all scores of a campaign, so that they can be compared at a glance."""
    return power_of(max((abs(t.score.value) for t in record.trials if t.score is not None), default=1.0))


def cards(record: CampaignRecord) -> list[Card]:
    """The recommended settings, the final score, what it is compared with, and the electrons."""
    quantity = quantity_name(record)
    power = shared_power(record)
    found = []
    final, expert, reference = record.trial("final"), record.trial("expert"), record.trial("reference")
    if record.recommended is not None:
        settings = record.recommended.settings if final is None else final.settings
        what = "scan step and defocus" if settings.semiangle is None else "scan step, defocus and semi-angle"
        found.append(
            Card(
                "Recommended settings",
                ", ".join(
                    filter(None, (length(settings.step), signed_length(settings.defocus), settings.aperture_text()))
                ),
                f"{what}, at {electrons(settings.dose)} {record.description.dose_unit}",
                "own",
            )
        )
    if final is not None and final.score is not None:
        found.append(Card("Final picture", score_text(final, power), _trusted(final, record), "own"))
    if expert is not None and expert.score is not None:
        own = expert.settings
        detail = f"step {length(own.step)}, defocus {signed_length(own.defocus)}; {_trusted(expert, record)}"
        share = expert.settings.dose / final.settings.dose if final is not None else 1.0
        got = "same dose" if abs(share - 1) < SAME_DOSE else f"{share:.0%} of the dose"
        taken = expert.electrons / final.electrons if final is not None and final.electrons else share
        if abs(taken / share - 1) > SAME_DOSE:  # by what the beam does between lines
            detail += f"; the scan took {taken:.0%} of the final picture's electrons"
        found.append(Card(f"Expert's settings, {got}", score_text(expert, power), detail, "expert"))
    if reference is not None and reference.score is not None:
        detail = f"{electrons(reference.electrons)} {quantity}; {settings_text(reference.settings, record.description.dose_unit)}"
        found.append(Card("Reference", score_text(reference, power), detail, "expert"))
    found.append(
        Card(
            f"{quantity.capitalize()} spent",
            electrons(record.electrons_spent),
            f"{record.electrons_spent / record.config.electrons:.1%} of the budget of {electrons(record.config.electrons)}",
        )
    )
    return found


def sentences(record: CampaignRecord) -> list[str]:
    """The comparison in words, with its uncertainty."""
    found = []
    final, expert = record.trial("final"), record.trial("expert")
    if final is not None and expert is not None and final.score is not None and expert.score is not None:
        found.append(_comparison(final, expert))
    if wanted(record) is not None:
        found.append(_saving(record))
    return found


def halves_text(record: CampaignRecord) -> str:
    """The two halves that scores compare, in words."""
    kinds = {trial.score.halves for trial in record.trials if trial.score is not None}
    split = "two random halves of the counts"
    if record.config.score.split == "positions":
        split = "two halves of the scan positions, every other one"
    if "passes" not in kinds:
        return split
    return "the two passes" if kinds == {"passes"} else f"the two passes, or (‡) {split} of one pass"


def quantity_name(record: CampaignRecord) -> str:
    """What is counted: electrons, or counts where a detector's gain is not known."""
    return "electrons" if record.description.detector.counts_per_electron is not None else "counts"


def cheapest(record: CampaignRecord) -> Trial | None:
    """The trial that reached the target with the fewest electrons per area, if any did."""
    reached = [t for t in record.trials if t.state == "done" and _reached(record, t)]
    return min(reached, key=lambda t: t.settings.dose, default=None)


def wanted(record: CampaignRecord) -> str | None:
    """What the least dose is looked for, in words; None: the goal is another, or it is not known yet."""
    goal = record.config.goal
    if goal.kind != "cheapest":
        return None
    if goal.resolution is not None:
        return f"a resolution of {length(goal.resolution)}"
    target = goal.score if goal.score is not None else record.target
    return None if target is None else f"{uncertain(target, None, shared_power(record))} {SCORE_UNIT}"


def _reached(record: CampaignRecord, trial: Trial) -> bool:
    """Whether a picture, trusted, is as good as wanted."""
    goal, score = record.config.goal, trial.score
    if goal.kind != "cheapest" or score is None or score.veto is not None:
        return False
    if goal.resolution is not None:
        return score.resolution is not None and score.resolution <= goal.resolution * (1 + 1e-6)
    target = goal.score if goal.score is not None else record.target
    return target is not None and score.value >= target


def _comparison(final: Trial, expert: Trial) -> str:
    assert final.score is not None
    assert expert.score is not None
    if final.veto is not None or expert.veto is not None:
        return "The two pictures cannot be compared by their scores: one that is not to be trusted tells nothing."
    theirs, said = expert.score, ""
    ratio = final.settings.dose / expert.settings.dose
    if abs(ratio - 1) >= SAME_DOSE:  # legal dwell times are few, and of those below, the nearest was taken
        theirs = scale_score(theirs, ratio)
        said = (
            f"The instrument's dwell times gave the expert's scan {1 / ratio:.0%} of the dose; at the same dose "
            f"{uncertain(theirs.value, theirs.sd)} {SCORE_UNIT} would be expected of it. "
        )
    difference = final.score.value - theirs.value
    sd = math.hypot(final.score.sd, theirs.sd)
    text = uncertain(abs(difference), sd)
    if abs(difference) < 2 * sd:
        return f"{said}The two pictures carry the same information within the uncertainty (difference {text} {SCORE_UNIT})."
    more = "more" if difference > 0 else "less"
    share = f"{abs(difference / theirs.value):.0%} " if theirs.value > 0 else ""
    than = "per area than the expert's"
    return f"{said}The recommended settings carry {share}{more} information {than}: {text} {SCORE_UNIT} {more}."


def _saving(record: CampaignRecord) -> str:
    power, goal = shared_power(record), record.config.goal
    aim = goal.score if goal.score is not None else record.target
    target = wanted(record)
    assert target is not None
    if goal.measured:
        carries = "is expected to carry" if record.description.consumable else "carries"
        target += f" ({record.config.goal.fraction:.0%} of what the whole recording {carries})"
    unit = record.description.dose_unit
    parts = []
    best = cheapest(record)
    if best is None or best.score is None:
        parts.append(f"No acquisition reached the target of {target} within the budget.")
    else:
        where = f"trial {best.number} ({settings_text(best.settings, unit)})"
        parts.append(f"The cheapest acquisition that reached the target of {target} is {where}.")
        margin = (
            ", so the target lies within its uncertainty"
            if aim is not None and best.score.value - aim < 2 * best.score.sd
            else ""
        )
        shown = (
            "" if goal.resolution is None else f" and shows {resolution_text(best.score, record.config.score.k_max)}"
        )
        parts.append(f"It scored {score_text(best, power)}{margin}{shown}.")
        if record.description.repeatable:
            share = best.settings.dose / record.description.full_dose
            parts.append(f"It needs {share:.1%} of the recording's dose: {1 - share:.1%} is saved.")
    final = record.trial("final")
    if final is not None and final.score is not None and (best is None or final.number != best.number):
        if final.veto is not None:
            outcome = ", a score that is not to be trusted"
        elif aim is not None and abs(final.score.value - aim) < 2 * final.score.sd:
            outcome = ", which is the target within the uncertainty"
        else:
            outcome = " and reached the target" if _reached(record, final) else " and did not reach the target"
        parts.append(f"The final acquisition at the recommended settings scored {score_text(final, power)}{outcome}.")
    return " ".join(parts)


def _trusted(trial: Trial, record: CampaignRecord) -> str:
    """The resolution of a trial, or why its score is not to be believed."""
    assert trial.score is not None
    if trial.veto is not None:
        return trial.veto
    return resolution_text(trial.score, record.config.score.k_max)
