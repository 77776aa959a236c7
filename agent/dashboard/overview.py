"""All campaigns at a glance, and two of them beside each other: HTML from what is known of each, nothing else."""

from __future__ import annotations

import math
from html import escape
from urllib.parse import quote

from agent.dashboard.gallery import Shown
from agent.dashboard.rows import Row
from agent.dashboard.view import View
from agent.formatting import electrons, length, signed_length, uncertain
from agent.status.contract import TrialMessage

DASH = "–"
COMPARABLE = 1e-6
"""1/Å; scores up to frequencies that differ by more are not compared."""


def list_html(rows: list[Row]) -> str:
    """The list, newest first, as a form that asks for two to be compared.

    Args:
        rows: in any order.
    """
    if not rows:
        return '<p class="nothing wide">no campaign is seen yet</p>'
    head = ("", "campaign", "instrument", "state", "begun", "trials", "score, bit/Å²", "electrons", "of")
    cells = "".join(f"<th>{each}</th>" for each in head)
    newest = sorted(rows, key=lambda row: row.started, reverse=True)
    body = "".join(_list_row(row) for row in newest)
    return (
        f'<form class="campaigns" method="get" action="/compare"><div class="scroll"><table class="trials">'
        f"<thead><tr>{cells}</tr></thead><tbody>{body}</tbody></table></div>"
        '<p class="decision"><button class="plainbutton">COMPARE THE TWO MARKED</button></p></form>'
    )


def compare_html(views: tuple[View, View], pictures: tuple[Shown | None, Shown | None]) -> str:
    """Two campaigns beside each other: pictures, figures, and by how much the final scores differ.

    Args:
        views: of both.
        pictures: of both; None where there is none.
    """
    finals = (_shown(views[0]), _shown(views[1]))
    columns = "".join(
        f'<section class="panel"><h2>{escape(view.title)}</h2><p class="muted">{escape(view.key)}</p>'
        f"{_pictures(shown)}{_figures(view, trial)}</section>"
        for view, shown, trial in zip(views, pictures, finals, strict=True)
    )
    return f'<p class="said verdict">{_verdict(views, finals)}</p><div class="beside">{columns}</div>'


def _list_row(row: Row) -> str:
    score = uncertain(row.score, row.score_sd) if row.score is not None else DASH
    key = escape(row.key, quote=True)
    cells = (
        f'<input type="checkbox" name="campaign" value="{key}" aria-label="compare {key}">',
        f'<a href="/?campaign={quote(row.key, safe="")}">{escape(row.campaign)}</a>',
        escape(row.instrument),
        escape(row.state),
        escape(row.started[:16].replace("T", " ")) or DASH,
        str(row.trials),
        score,
        electrons(row.spent) if row.spent >= 1 else DASH,
        electrons(row.budget) if row.budget else DASH,
    )
    return "<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"


def _shown(view: View) -> TrialMessage | None:
    """The final picture's trial, or the best trusted one before there is one."""
    trusted = [t for t in view.trials.values() if t.score is not None and t.veto is None and t.role != "expert"]
    final = [t for t in trusted if t.role == "final"]
    return final[-1] if final else max(trusted, key=lambda t: t.score or 0.0, default=None)


def _pictures(shown: Shown | None) -> str:
    if shown is None:
        return '<p class="nothing">no picture within reach</p>'
    return f'<div class="two">{shown.phase}{shown.spectrum}</div>'


def _figures(view: View, trial: TrialMessage | None) -> str:
    dose, facts = view.dose, []
    if trial is not None:
        facts = [
            ("trial", f"{trial.trial} ({escape(trial.role)})"),
            ("score", f"{uncertain(trial.score or 0.0, trial.score_sd)} bit/Å²"),
            ("half-bit resolution", length(trial.resolution_a) if trial.resolution_a else DASH),
            ("step", length(trial.step_a)),
            ("defocus", signed_length(trial.defocus_a)),
            ("dose", f"{electrons(trial.dose)} {escape(trial.dose_unit)}"),
            *([] if trial.semiangle_mrad is None else [("aperture", f"{trial.semiangle_mrad:g} mrad")]),
            ("its electrons", electrons(trial.electrons) if trial.electrons >= 1 else DASH),
        ]
    if dose is not None:
        facts.append(("electrons in all", f"{electrons(dose.spent)} of {electrons(dose.budget)}"))
    facts.append(("trials", str(len(view.trials))))
    if (session := view.session) is not None:
        named = (("instrument", session.instrument), ("sample", session.sample), ("policy", session.policy))
        facts += [(name, escape(value)) for name, value in named if value]
    rows = "".join(f"<dt>{name}</dt><dd>{value}</dd>" for name, value in facts)
    return f'<dl class="facts">{rows}</dl>'


def _verdict(views: tuple[View, View], trials: tuple[TrialMessage | None, TrialMessage | None]) -> str:
    """By how much two scores differ, if they may be compared at all."""
    one, other = trials
    if one is None or other is None or one.score is None or other.score is None:
        return "One of the two has no score that can be trusted: there is nothing to compare."
    edges = [view.session.k_max_per_a if view.session is not None else None for view in views]
    if edges[0] is None or edges[1] is None or abs(edges[0] - edges[1]) > COMPARABLE:
        return "Scored over different frequencies, or not known over which: the scores are not to be compared."
    if one.halves != other.halves:
        return "Their halves are of different kinds (two passes, or one): the scores are not to be compared."
    difference, sd = one.score - other.score, math.hypot(one.score_sd or 0.0, other.score_sd or 0.0)
    share = one.electrons / other.electrons if other.electrons else math.nan
    with_ = f", with {share:.3g} times its electrons" if math.isfinite(share) else ""
    means = "more than chance explains" if abs(difference) > 2 * sd else "within what chance explains"
    word = "more" if difference >= 0 else "less"
    text = f"{views[0].title} scores {uncertain(abs(difference), sd)} bit/Å² {word} than {views[1].title}{with_}: {means} (2 sd)"
    return escape(text) + "."
