"""The page about a search: pictures before and after, all trials, parallel coordinates. One file that opens anywhere."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape
from importlib.resources import files
from pathlib import Path

import numpy as np

from agent.formatting import duration, uncertain
from agent.reconstruction import reconstruct
from agent.report.pictures import Picture, phase_image, spectrum_image
from agent.scoring.regions import crop
from agent.storage.atomic import atomic_write
from agent.tuning.plots import gains_by_cost, parallel_coordinates
from agent.tuning.records import TuningTrial
from agent.tuning.settings_file import SETTINGS, optics_options
from agent.tuning.space import Values
from agent.tuning.standing import gains, ranked
from agent.tuning.trial import Task

REPORT = "report.html"
ROWS = 40
"""Trials in the table at most."""


def write_report(
    folder: Path,
    task: Task,
    trials: Sequence[TuningTrial],
    taken: int,
    why: str,
    spent: float,
    seconds: float,
    *,
    pictures: bool = True,
) -> None:
    """Write the page about a search in any state.

    Args:
        folder: where it goes.
        task: that is searched.
        trials: so far, the start first.
        taken: number of the trial that is recommended now.
        why: in words.
        spent: whole reconstructions.
        seconds: that it took.
        pictures: whether start and recommended are reconstructed and drawn.
    """
    css = files("agent.report").joinpath("style.css").read_text(encoding="utf-8")
    body = "\n".join(
        [
            "<header><h1>Tuning of a reconstruction</h1><p>judged by counts that were held out</p></header>",
            _cards(task, trials, taken, spent, seconds),
            f'<p class="lead">{escape(why[:1].upper() + why[1:])}.</p>',
            _recommended(task, trials[taken].values),
            _pictures(task, trials, taken) if pictures else "",
            "<h2>What was tried</h2>",
            _figure(
                parallel_coordinates(task.space, trials, len(task.ladder), taken),
                "All trials across what is searched. In colour those that were reconstructed whole, by their rank.",
                "full",
            ),
            '<div class="grid">',
            _figure(
                gains_by_cost(trials, len(task.ladder)),
                "Gain over the start in held-out counts. Below the axis: not drawn.",
            ),
            "</div>",
            _table(task, trials, taken),
        ]
    )
    page = (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><title>ptychopilot tune</title>'
        f"<style>{css}</style></head>\n<body><main>\n{body}\n</main></body></html>\n"
    )
    atomic_write(folder / REPORT, page)


def changes_text(task: Task, values: Values) -> str:
    """What differs from the start, in words."""
    changed = task.space.changed(values)
    return ", ".join(f"{name} {_value(value)}" for name, value in changed.items()) or "as at the start"


def _cards(task: Task, trials: Sequence[TuningTrial], taken: int, spent: float, seconds: float) -> str:
    whole = sum(trial.stage == len(task.ladder) - 1 for trial in trials)
    found = gains(trials, len(task.ladder) - 1).get(taken)
    gain = "–" if found is None or taken == 0 else f"{found.relative:.2%}"
    shown = [
        ("own", "Held-out counts", gain, "less deviance than with the settings of the start"),
        *[
            (
                "own",
                "Two halves, recommended",
                _score(trials[taken]),
                "bit/Å²; halves are never regularised",
            )
        ],
        ("expert", "Two halves, start", _score(trials[0]), "bit/Å²"),
        (
            "",
            "Search",
            f"{spent:.1f}",
            f"whole reconstructions in {duration(seconds)}: {len(trials)} trials, {whole} whole",
        ),
    ]
    inner = "".join(
        f'<div class="card {kind}"><h3>{escape(title)}</h3><div class="big">{escape(value)}</div><p>{escape(text)}</p></div>'
        for kind, title, value, text in shown
    )
    return f'<section class="cards">{inner}</section>'


def _score(trial: TuningTrial) -> str:
    if trial.score is None:
        return "not scored"
    return uncertain(trial.score.value, trial.score.sd) + (" (not to be trusted)" if trial.score.veto else "")


def _recommended(task: Task, values: Values) -> str:
    changed = task.space.changed(values)
    if not changed:
        return '<p class="soft">The settings stay as they were.</p>'
    rows = "".join(
        f'<tr><td class="text">{escape(name)}</td><td>{escape(_value(task.space.start[name]))}</td>'
        f"<td>{escape(_value(value))}</td></tr>"
        for name, value in changed.items()
    )
    extra = "".join(f'<p class="soft">{escape(line)}</p>' for line in optics_options(values))
    return (
        '<h2>Recommended</h2><table><thead><tr><th class="text">setting</th><th>start</th><th>recommended</th></tr></thead>'
        f'<tbody>{rows}</tbody></table><p class="soft">All of them: {SETTINGS}, for '
        "<code>ptychopilot reconstruct --settings</code> "
        f"and the <code>reconstruction</code> section of a campaign file.</p>{extra}"
    )


def _pictures(task: Task, trials: Sequence[TuningTrial], taken: int) -> str:
    shown = [("Start", trials[0]), *([("Recommended", trials[taken])] if taken else [])]
    drawn = [(name, trial, picture_of(task, trial.values)) for name, trial in shown]
    levels = [picture.levels() for _, _, picture in drawn]
    common = (min(low for low, _ in levels), max(high for _, high in levels))
    figures = [_figure(phase_image(picture, common), f"{name}: phase of the object.") for name, _, picture in drawn]
    figures += [
        _figure(
            spectrum_image(picture, task.score.k_max, trial.score.resolution if trial.score else None),
            f"{name}: Fourier magnitude of the phase{'; dashed: half-bit resolution' if trial.score else ''}.",
        )
        for name, trial, picture in drawn
    ]
    return f'<h2>Pictures</h2><div class="grid">{"".join(figures)}</div>'


def picture_of(task: Task, values: Values) -> Picture:
    """The scored part of a picture from all counts."""
    data, settings = task.whole(values)
    found = reconstruct(data, settings)
    phase = crop(found.phase, found.origin, found.pixel_size, task.squares[0])
    probe = (abs(found.probe) ** 2).sum(axis=0)
    drawn = np.asarray(phase, np.float32)
    return Picture(drawn, drawn, found.pixel_size, probe / probe.max())


def _table(task: Task, trials: Sequence[TuningTrial], taken: int) -> str:
    rows = []
    for number in ranked(trials, len(task.ladder))[:ROWS]:
        trial = trials[number]
        found = gains(trials, trial.stage).get(number)
        kind = "final" if number == taken else "expert" if number == 0 else "failed" if trial.error else ""
        seconds = sum(stage.seconds for stage in trial.stages)
        better = (
            ""
            if found is None
            else f"{found.relative:+.2%} ± {abs(found.sd / found.value * found.relative) if found.value else 0:.2%}"
        )
        rows.append(
            f'<tr class="{kind}"><td>{number}</td><td>{trial.stage + 1} of {len(task.ladder)}</td><td>{better}</td>'
            f'<td>{_score(trial) if trial.score else ""}</td><td>{seconds:.1f}</td><td class="text">{trial.origin}</td>'
            f'<td class="text why" style="white-space: normal">'
            f"{escape(changes_text(task, trial.values))}{_failure(trial)}</td></tr>"
        )
    lost = [trial for trial in trials if trial.stage < 0 and trial.error]
    more = (
        f'<p class="soft">{len(lost)} trials came to nothing, the first one: {escape(lost[0].error or "")}.</p>'
        if lost
        else ""
    )
    return (
        "<h2>Trials</h2><table><thead><tr><th>trial</th><th>stage</th><th>held-out counts better by</th>"
        '<th>halves, bit/Å²</th><th>s</th><th class="text">from</th><th class="text why">changed</th></tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table>{more}"
    )


def _failure(trial: TuningTrial) -> str:
    return f"<strong>{escape(trial.error)}</strong>" if trial.error else ""


def _value(value: object) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _figure(png: bytes, caption: str, kind: str = "") -> str:
    data = base64.b64encode(png).decode()
    return (
        f'<figure class="{kind}"><img alt="{escape(caption)}" src="data:image/png;base64,{data}">'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )
