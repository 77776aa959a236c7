"""The page's panels as HTML: numbers with their units, and what is not known said to be not known."""

from __future__ import annotations

from datetime import datetime
from html import escape

from agent.dashboard import charts
from agent.dashboard.view import View
from agent.formatting import duration, electrons, length, signed_length, uncertain
from agent.status.contract import SettingsMessage, TrialMessage

DASH = "–"
_PHASES = {
    "connecting": "connecting to the instrument",
    "suggesting": "choosing settings",
    "preparing": "reserving electrons",
    "acquiring": "acquiring",
    "reconstructing": "reconstructing",
    "recommending": "choosing the final settings",
    "waiting": "waiting",
    "finished": "finished",
}


def life(view: View, now: float) -> tuple[str, str]:
    """(kind, text) about how much what is shown can be believed: live, stale or ended.

    Args:
        view: of the campaign.
        now: monotonic time, s.
    """
    if view.finished:
        outcome = view.state.outcome if view.state is not None else None
        return "ended", escape(outcome or "finished")
    if view.state is None:
        return "stale", "no data yet"
    silent = view.silent_for(now)
    if view.stale(now):
        since = f"no sign of life for {duration(silent)}" if silent < float("inf") else "no sign of life"
        return "stale", f"stale: agent offline, {since}" if view.online is False else f"stale: {since}"
    return "live", "live"


def banner_html(view: View, kind: str, text: str) -> str:
    """What has to be seen first: that nothing may be true any more, or that a pause is not acknowledged.

    Args:
        view: of the campaign.
        kind, text: of `life`.
    """
    if kind == "stale":
        return f'<div class="banner" role="alert">{text}. Nothing below may be true now.</div>'
    state = view.state
    if state is not None and state.paused and state.unacknowledged:
        parts = escape(state.unacknowledged)
        return f'<div class="banner wait" role="alert">pause: not acknowledged yet by {parts}; otherwise the beam goes off</div>'
    return ""


def proposal_html(view: View) -> str:
    """What a program proposes, as far as it is to be believed: its words are a stranger's."""
    proposal = view.proposal
    if proposal is None:
        return ""
    unit = next(iter(view.trials.values())).dose_unit if view.trials else "e/Å²"
    named = (
        ("step", length(proposal.step_a)),
        ("defocus", signed_length(proposal.defocus_a)),
        ("dose", f"{electrons(proposal.dose)} {unit}"),
        *_aperture(proposal.semiangle_mrad),
    )
    trio = "".join(f"<div><b>{value}</b><span>{name}</span></div>" for name, value in named)
    return (
        f"<h2>Proposal {proposal.number}, of {escape(proposal.by)}</h2><div class='trio'>{trio}</div>"
        f"<p class='reason'>{escape(proposal.reason)}</p>"
        + _facts(
            [("it would cost", f"{electrons(proposal.electrons)} electrons"), ("dropped at", _clock(proposal.expires))]
        )
    )


def beam_html(view: View, stale: bool) -> str:
    """Beam on or off, as the agent commands it."""
    beam = view.beam
    if beam is None or stale:
        return '<span class="pill unknown" title="the instrument itself knows better">beam: not known</span>'
    word, kind = ("blanked", "off") if beam.blanked else ("BEAM ON", "on")
    return f'<span class="pill beam-{kind}" data-beam="{kind}">{word}</span>'


def dose_html(view: View) -> str:
    """Electrons spent, reserved and left, as a bar with figures."""
    dose = view.dose
    if dose is None or dose.budget <= 0:
        return f'<div class="dose"><span class="muted">electrons {DASH}</span></div>'
    spent, reserved = (100 * min(v / dose.budget, 1.0) for v in (dose.spent, dose.reserved))
    unit = "e⁻" if dose.unit == "e" else "counts"
    figures = f"{electrons(dose.spent)} of {electrons(dose.budget)} {unit}"
    return (
        f'<div class="dose" title="spent, reserved, left"><div class="track"><i class="spent" style="width:{spent:.2f}%"></i>'
        f'<i class="reserved" style="width:{reserved:.2f}%"></i></div><span class="num">{figures}</span></div>'
    )


def now_html(view: View) -> str:
    """What is being done, and how far it is."""
    state = view.state
    if state is None:
        return '<p class="nothing">nothing was heard of this campaign yet</p>'
    doing = _PHASES.get(state.phase, state.phase)
    where = (
        f"trial {state.trial} of {state.n_trials}"
        if state.trial is not None
        else (f"{len(view.trials)} trials" if view.finished else f"{state.n_trials} trials planned")
    )
    role = f" · {escape(state.role)}" if state.role else ""
    parts = [f'<p class="big">{escape(doing)}</p><p class="muted">{where}{role}</p>']
    if state.text:
        parts.append(f'<p class="said">{escape(state.text)}</p>')
    if (scan := view.acquisition) is not None:
        parts.append(
            _bar(
                f"patterns, trial {scan.trial}",
                scan.frames / max(scan.expected, 1),
                f"{scan.frames} of {scan.expected}",
            )
        )
    if (work := view.reconstruction) is not None:
        parts.append(_bar(f"{work.phase}, trial {work.trial}", work.fraction, f"{work.fraction:.0%}"))
    left = duration(state.eta_s) if state.eta_s is not None and not view.finished else DASH
    facts = [("time left", f"about {left}" if left != DASH else DASH), ("in this phase since", _clock(state.since))]
    if (beam := view.beam) is not None:
        current = f", {beam.current_pa:.3g} pA" if beam.current_pa is not None else ""
        facts.append(("beam", f"{beam.ht_kv:g} kV{current}"))
    if (best := view.best) is not None:
        facts.append(("best score", f"{uncertain(best.score, best.score_sd)} bit/Å² (trial {best.trial})"))
    if (expected := view.optimizer) is not None and expected.expected_final is not None:
        facts.append(
            ("expected of the final", f"{uncertain(expected.expected_final, expected.expected_final_sd)} bit/Å²")
        )
    return "".join(parts) + _facts(facts) + facts_html(view)


def suggestion_html(view: View) -> str:
    """The newest settings, what is expected of them, and why."""
    shown = view.suggestion
    if shown is None:
        final = [t for t in view.trials.values() if t.role == "final"]
        if not final:
            return '<p class="nothing">no suggestion yet</p>'
        last = final[-1]
        return f"{_settings(last)}<p class='reason'>{escape(last.reason)}</p>"
    facts = [("chosen by", escape(shown.source))]
    if shown.predicted is not None:
        facts.insert(0, ("predicted", f"{uncertain(shown.predicted, shown.predicted_sd)} bit/Å²"))
    if shown.constraint:
        facts.append(("limit that was active", escape(shown.constraint)))
    head = f'<p class="muted">trial {shown.trial} · {escape(shown.role)}</p>{_settings(shown)}'
    return f"{head}<p class='reason'>{escape(shown.reason)}</p>{_facts(facts)}"


def electrons_html(view: View) -> str:
    """Electrons in figures, and where on the specimen they went."""
    dose = view.dose
    if dose is None:
        return f'<p class="nothing">electrons: {DASH}</p>'
    unit = "e⁻" if dose.unit == "e" else "counts"
    named = (("spent", dose.spent), ("reserved", dose.reserved), ("left", dose.remaining), ("budget", dose.budget))
    figures = [(name, f"{electrons(value) if value >= 1 else 0} {unit}") for name, value in named]
    return _facts(figures) + charts.dose_map(view)


def calibration_html(view: View) -> str:
    """What was measured of the column, from the last trial that measured it."""
    measured = [t for t in view.trials.values() if t.defocus_measured_a is not None]
    if not measured:
        return '<p class="nothing">nothing is measured yet</p>'
    last = max(measured, key=lambda t: t.trial)
    assert last.defocus_measured_a is not None
    set_point = f" (set {signed_length(last.defocus_a)})"
    facts = [("defocus", _value(last.defocus_measured_a, last.defocus_measured_sd_a, "Å") + set_point)]
    facts.append(("scan rotation", _value(last.rotation_rad, last.rotation_sd_rad, "°", 57.29577951308232)))
    facts.append(("astigmatism C12", _value(last.astigmatism_a, last.astigmatism_sd_a, "Å")))
    facts.append(("source size", f"{last.source_size_a:.3g} Å (FWHM)" if last.source_size_a else "not measured"))
    misfit = f"{last.deviance:.3g} (1 is perfect)" if last.deviance is not None else DASH
    return f'<p class="muted">from trial {last.trial}</p>' + _facts([*facts, ("misfit", misfit)])


def events_html(view: View) -> str:
    """Alarms, then what happened, newest first."""
    parts = [
        f'<li class="alarm {a.severity}"><b>{escape(a.code)}</b> {escape(a.text)} <em>{escape(a.action)}</em></li>'
        for a in view.alarms.values()
    ]
    parts += [
        f'<li class="{e.severity}"><time>{_clock(e.ts)}</time><span>{escape(e.text)}</span></li>'
        for e in reversed(view.events)
    ]
    return (
        f'<ol class="log">{"".join(parts[:120])}</ol>' if parts else '<p class="nothing">nothing has happened yet</p>'
    )


def trials_html(view: View) -> str:
    """Every trial as a row."""
    if not view.trials:
        return '<p class="nothing">no trial yet</p>'
    rows = "".join(_row(view.trials[n]) for n in sorted(view.trials, reverse=True))
    unit = escape(next(iter(view.trials.values())).dose_unit)
    head = (
        "",
        "role",
        "state",
        "step, Å",
        "defocus, Å",
        f"dose, {unit}",
        "electrons",
        "predicted",
        "score, bit/Å²",
        "halves",
        "½-bit, Å",
    )
    cells = "".join(f"<th>{each}</th>" for each in head)
    return (
        f'<div class="scroll"><table class="trials"><thead><tr>{cells}</tr></thead><tbody>{rows}</tbody></table></div>'
    )


def facts_html(view: View) -> str:
    """Who, what, where."""
    session = view.session
    if session is None:
        return ""
    named = [
        ("campaign", session.campaign),
        ("sample", session.sample),
        ("operator", session.operator),
        ("proposal", session.proposal),
        ("goal", session.goal.replace("_", " ")),
        ("policy", session.policy),
        ("folder", session.folder),
    ]
    return _facts([(name, escape(value)) for name, value in named if value])


def _row(trial: TrialMessage) -> str:
    score = DASH
    if trial.score is not None:
        score = uncertain(trial.score, trial.score_sd)
        if trial.veto is not None:
            score = f'<s title="{escape(trial.veto)}">{score}</s> <b class="bad">not trusted</b>'
    elif trial.state in ("failed", "vetoed", "abandoned"):
        score = f'<span class="bad" title="{escape(trial.reason)}">{escape(trial.reason)[:60]}</span>'
    predicted = uncertain(trial.predicted, trial.predicted_sd) if trial.predicted is not None else DASH
    halves = {"passes": "two passes", "positions": "one pass", "thinned": "one pass"}.get(trial.halves or "", DASH)
    resolution = f"{trial.resolution_a:.3g}" if trial.resolution_a is not None else DASH
    cells = (
        str(trial.trial),
        escape(trial.role),
        escape(trial.state),
        f"{trial.step_a:.3g}",
        f"{trial.defocus_a:+.0f}".replace("-", "−"),
        electrons(trial.dose),
        electrons(trial.electrons) if trial.electrons else DASH,
        predicted,
        score,
        halves,
        resolution,
    )
    return (
        f'<tr class="{escape(trial.role)} {escape(trial.state)}">' + "".join(f"<td>{c}</td>" for c in cells) + "</tr>"
    )


def _aperture(semiangle: float | None) -> list[tuple[str, str]]:
    """The aperture as a named value, where there is a choice."""
    return [] if semiangle is None else [("semi-angle", f"{semiangle:g} mrad")]


def _settings(message: SettingsMessage) -> str:
    named = (
        ("step", length(message.step_a)),
        ("defocus", signed_length(message.defocus_a)),
        ("dose", f"{electrons(message.dose)} {message.dose_unit}"),
        *_aperture(message.semiangle_mrad),
    )
    return '<div class="trio">' + "".join(f"<div><b>{v}</b><span>{k}</span></div>" for k, v in named) + "</div>"


def _value(value: float | None, sd: float | None, unit: str, factor: float = 1.0) -> str:
    if value is None:
        return "not measured"
    scaled = uncertain(value * factor, None if sd is None else sd * factor)
    return (
        f"{scaled}{'' if unit == '°' else ' '}{unit}"
        if sd is not None
        else f"{scaled}{'' if unit == '°' else ' '}{unit}, not measured"
    )


def _bar(name: str, fraction: float, figure: str) -> str:
    return (
        f'<div class="progress"><span>{escape(name)}</span><span class="num">{figure}</span>'
        f'<div class="track"><i style="width:{100 * min(fraction, 1.0):.1f}%"></i></div></div>'
    )


def _facts(facts: list[tuple[str, str]]) -> str:
    return '<dl class="facts">' + "".join(f"<dt>{name}</dt><dd>{value}</dd>" for name, value in facts) + "</dl>"


def _clock(ts: str) -> str:
    """Local time of day of an ISO 8601 time."""
    try:
        return f"{datetime.fromisoformat(ts).astimezone():%H:%M:%S}"
    except ValueError:
        return DASH
