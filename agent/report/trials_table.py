"""The table of all trials: settings, what came out, and why each was chosen, which unfolds."""

from __future__ import annotations

from html import escape

from agent.formatting import duration, electrons, signed_length, uncertain
from agent.records import CampaignRecord, Suggestion, Trial
from agent.report.headline import SCORE_UNIT, quantity_name, shared_power
from agent.report.optics import carried_over, measured_defocus
from agent.report.resolution import comes_back


def trials_table(record: CampaignRecord) -> str:
    """All trials as HTML, as wide as the page."""
    if not record.trials:
        return ""
    power = shared_power(record)
    unit = record.description.dose_unit
    chosen = any(trial.settings.semiangle is not None for trial in record.trials)
    head = (
        "<tr><th>trial</th><th class='text'>role</th><th>step, Å</th><th>defocus, Å</th><th>measured, Å</th>"
        f"{'<th>aperture, mrad</th>' if chosen else ''}"
        f"<th>dose, {unit}</th><th>{quantity_name(record)}</th><th>score, {SCORE_UNIT}</th><th>resolution, Å</th>"
        "<th>acquired in</th><th>processed in</th><th class='text why'>why</th></tr>"
    )
    rows = "".join(_row(trial, power, chosen) for trial in record.trials)
    notes = []
    if any(t.veto is not None for t in record.trials):
        notes.append("Scores that are struck through are not to be trusted; the last column says why.")
    if any(carried_over(t) for t in record.trials):
        notes.append(
            "In parentheses: a defocus that the trial's own counts do not tell, the set-point corrected by what the last trial "
            "was off."
        )
    if any(t.score is not None and t.score.one_pass for t in record.trials):
        notes.append(
            "‡ From halves of one pass, which share what the scan has not seen: such a score claims too much where the scan is "
            "coarse."
        )
    if stopped := [t.stopped for t in record.trials if t.stopped is not None]:
        notes.append(
            f"Scans that were stopped while they ran, since they could no longer win: {len(stopped)}, which saved "
            f"{electrons(sum(each.saved for each in stopped))} electrons. Their score is what was expected of the whole scan."
        )
    if any(_back(t) for t in record.trials):
        notes.append(
            "† The first crossing of the half-bit threshold, as at a zero of the contrast transfer: the correlation comes back "
            "beyond it."
        )
    told = "".join(f"<p class='soft'>{escape(note)}</p>" for note in notes)
    return f'<h2>Trials</h2><div class="full"><table><thead>{head}</thead><tbody>{rows}</tbody></table></div>{told}'


def _row(trial: Trial, power: int, chosen: bool) -> str:
    settings = trial.settings
    score = "–" if trial.score is None else uncertain(trial.score.value, trial.score.sd, power)
    if trial.score is not None and trial.score.one_pass:
        score += "‡"
    resolution = f"{trial.score.resolution:.3g}" if trial.score is not None and trial.score.resolution else "–"
    acquired, processed = (
        duration(trial.seconds[key]) if key in trial.seconds else "–" for key in ("acquire", "process")
    )
    cells = [
        escape(cell)
        for cell in (
            f"{settings.step:.4g}",
            signed_length(settings.defocus).removesuffix(" Å"),
            measured_defocus(trial),
            electrons(settings.dose),
            electrons(trial.electrons) if trial.electrons else "–",
            score,
            resolution + ("†" if _back(trial) else ""),
            acquired,
            processed,
        )
    ]
    if trial.veto is not None:
        cells[5] = f"<s>{cells[5]}</s>"
    if chosen:
        cells.insert(3, "–" if settings.semiangle is None else f"{settings.semiangle:g}")
    css = trial.state if trial.state in ("failed", "vetoed", "abandoned") else trial.role
    state = f" ({trial.state})" if trial.state != "done" else ""
    numbers = "".join(f"<td>{cell}</td>" for cell in cells)
    return (
        f'<tr class="{css}"><td>{trial.number}</td><td class="text">{trial.role}{state}</td>{numbers}'
        f'<td class="text why">{_why(trial)}</td></tr>'
    )


def _why(trial: Trial) -> str:
    """What went wrong, always in sight, and why the settings were chosen, folded to one line."""
    wrong = []
    if trial.reason:
        wrong.append(f"{trial.state}: {trial.reason}")
    if trial.veto is not None:
        wrong.append(f"not to be trusted: {trial.veto}")
    told = "".join(f"<strong>{escape(line)}</strong> " for line in wrong)
    reason = escape(trial.suggestion.reason)
    if not reason:
        return told
    more = "".join(f"<li>{escape(line)}</li>" for line in _reasons(trial.suggestion))
    return f"{told}<details><summary>{reason}</summary>{f'<ul>{more}</ul>' if more else ''}</details>"


def _reasons(suggestion: Suggestion) -> list[str]:
    """What a person may want to know beside the reason."""
    told = [suggestion.shares_text()] if suggestion.shares_text() else []
    if suggestion.constraint is not None:
        told.append(f"limited by {suggestion.constraint}")
    if suggestion.nearest_trial is not None:
        told.append(f"nearest trial: {suggestion.nearest_trial}")
    return told + [f"rejected {text}" for text in suggestion.rejected_texts()]


def _back(trial: Trial) -> bool:
    return trial.score is not None and comes_back(trial.score) is not None
