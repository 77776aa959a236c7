"""What a notebook shows of a score, a suggestion and a campaign: a picture and the numbers that matter, in one cell.

The records name these functions (`agent.records`) and load them when something is displayed, so that nobody else waits for
matplotlib.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape
from pathlib import Path

from agent.formatting import uncertain
from agent.records import CampaignRecord, Score, Suggestion
from agent.report import plots
from agent.report.drawing import BLUE, ORANGE, new_figure, styled, to_png
from agent.report.headline import SCORE_UNIT, cards, sentences, settings_text
from agent.report.page import PICTURE_NAME, load_picture, pictured_trials
from agent.report.pictures import phase_image
from agent.report.resolution import resolution_text

K_MAX = float("inf")
"""A score alone does not know where its band was to end."""


def score_html(score: Score) -> str:
    """The score with its uncertainty and the correlation that it comes from."""
    rows = [
        ("score", f"{uncertain(score.value, score.sd)} {SCORE_UNIT}"),
        ("half-bit resolution", resolution_text(score, K_MAX).removeprefix("half-bit resolution ")),
    ]
    if score.halves is not None:
        rows.append(("halves", score.halves_text()))
    if score.deviance is not None:
        rows.append(("deviance", f"{score.deviance:.3g} (1 is what counting explains)"))
    if score.veto is not None:
        rows.append(("not to be trusted", score.veto))
    pictures = [plots.correlation_curves([("final", "F(k)", score)])] if score.frc else []
    return _cell("", pictures, rows)


def suggestion_html(suggestion: Suggestion, dose_unit: str = "e/Å²") -> str:
    """The settings with their reason, and what was expected of them and of the alternatives."""
    rows = [("settings", settings_text(suggestion.settings, dose_unit))]
    if suggestion.predicted is not None:
        rows.append(("expected", f"{uncertain(suggestion.predicted, suggestion.predicted_sd)} {SCORE_UNIT}"))
    rows.append(("from", suggestion.source))
    rows.append(("because", suggestion.reason))
    if suggestion.constraint is not None:
        rows.append(("limited by", suggestion.constraint))
    if suggestion.nearest_trial is not None:
        rows.append(("nearest trial", str(suggestion.nearest_trial)))
    if suggestion.shares_text():
        rows.append(("knowledge", suggestion.shares_text()))
    rows += [("rejected", f"{settings_text(a.settings, dose_unit)}: {a.reason}") for a in suggestion.alternatives]
    return _cell("", [] if suggestion.predicted is None else [_expectations(suggestion)], rows)


def campaign_html(record: CampaignRecord) -> str:
    """What the campaign found, its picture where the folder still holds it, and the score of each trial."""
    unfinished = "" if record.state == "done" else f" ({record.state})"
    rows = [(card.title, f"{card.value}: {card.detail}") for card in cards(record)]
    rows += [("", sentence) for sentence in sentences(record)]
    pictures = []
    for trial in pictured_trials(record)[:1]:
        picture = load_picture(trial, Path(record.folder))
        if picture is not None:
            pictures.append(phase_image(picture, picture.levels()))
            rows.append(("picture", f"{PICTURE_NAME[trial.role]}, trial {trial.number}"))
    if record.trials:
        pictures.append(plots.scores_by_trial(record.trials, record.target, SCORE_UNIT))
    return _cell(record.config.name + unfinished, pictures, rows)


@styled
def _expectations(suggestion: Suggestion) -> bytes:
    """Expected score ± sd of the suggestion and of its alternatives, as a PNG."""
    found = [(suggestion.predicted or 0.0, suggestion.predicted_sd or 0.0, "suggested", ORANGE)]
    found += [
        (a.predicted, a.predicted_sd, f"rejected {number}", BLUE) for number, a in enumerate(suggestion.alternatives, 1)
    ]
    figure, axes = new_figure(4.6, 0.9 + 0.35 * len(found))
    for place, (value, sd, _, colour) in enumerate(found):
        axes.errorbar([value], [place], xerr=[sd], color=colour, marker="o", capsize=3)
    axes.set_yticks(range(len(found)), [name for _, _, name, _ in found])
    axes.set_ylim(len(found) - 0.5, -0.5)
    axes.set_xlabel(f"expected score, {SCORE_UNIT}")
    return to_png(figure)


def _cell(title: str, pictures: Sequence[bytes], rows: Sequence[tuple[str, str]]) -> str:
    images = "".join(
        f'<img style="height:280px" src="data:image/png;base64,{base64.b64encode(png).decode("ascii")}">'
        for png in pictures
    )
    numbers = "".join(
        f'<tr><th style="text-align:left;vertical-align:top">{escape(name)}</th>'
        f'<td style="text-align:left">{escape(value)}</td></tr>'
        for name, value in rows
    )
    heading = f"<h4>{escape(title)}</h4>" if title else ""
    return f"<div>{heading}<div>{images}</div><table>{numbers}</table></div>"
