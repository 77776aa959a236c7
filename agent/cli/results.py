"""The end of a campaign: a table for people, JSON for machines."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from agent.campaign.dry_run import DryRun
from agent.campaign.grades import Grade
from agent.errors import BadInputError
from agent.formatting import duration, electrons, power_of, signed_length, times_power, uncertain
from agent.records import CampaignRecord, Settings, Trial
from agent.report.headline import SCORE_UNIT, quantity_name, sentences, settings_text, shared_power
from agent.storage.atomic import atomic_write

RESULT = "result.json"
"""In the campaign folder: what `--json` writes elsewhere."""
UNTRUSTED = "!"
"""Behind a score that is vetoed."""


def show_results(console: Console, record: CampaignRecord, report: Path | None) -> None:
    """Print the trials, the recommended settings beside the expert's, and where everything lies."""
    if record.trials:
        console.print(_trials_table(record))
    for trial in record.trials:
        if trial.veto is not None:
            say(console, f"{UNTRUSTED} the score of trial {trial.number} is not to be trusted: {trial.veto}")
        elif trial.state in ("failed", "vetoed", "abandoned"):
            say(console, f"trial {trial.number} {trial.state}: {trial.reason}")
    comparison = _comparison_table(record)
    if comparison.row_count:
        console.print(comparison)
    for sentence in sentences(record):
        console.print(sentence, highlight=False, soft_wrap=True)
    share = record.electrons_spent / record.config.electrons
    spent = f"{electrons(record.electrons_spent)} of {electrons(record.config.electrons)} ({share:.1%})"
    console.print(f"{quantity_name(record)} spent: {spent}", highlight=False)
    say(console, f"campaign folder: {Path(record.folder).resolve()}")
    if report is not None:
        say(console, f"report:          {report.resolve()}")


def say(console: Console, line: str) -> None:
    """Print one line as it is: never wrapped, so that a path can be copied, and without markup or colour."""
    console.print(line, markup=False, highlight=False, soft_wrap=True)


def show_plan(console: Console, plan: DryRun) -> None:
    """Print what a campaign would do and cost."""
    unit = plan.description.dose_unit
    first = plan.first.settings
    table = Table(
        title=f"Dry run on {plan.description.name}: feasible, nothing was exposed", title_justify="left", box=None
    )
    table.show_header = False
    for name, value in (
        ("exploratory trials", str(plan.trials)),
        ("acquisitions in all", f"{plan.acquisitions}{', each in two passes' if plan.passes == 2 else ''}"),
        ("budget", f"{electrons(plan.electrons)} {'electrons' if unit == 'e/Å²' else 'counts'}{_told(plan)}"),
        *([("of which reference", electrons(plan.reference_electrons))] if plan.reference_electrons else []),
        ("of which exploration", f"at most {electrons(plan.exploration_electrons)}"),
        *_first_trial(plan),
        *_least_dose(plan),
        ("final picture", f"{electrons(plan.final_dose)} {unit} over the area of interest"),
        ("beam time", f"about {duration(plan.duration)}, without reconstruction"),
        ("first settings", f"{settings_text(first, unit)}: {plan.first.reason}"),
    ):
        table.add_row(name, Text(value))
    console.print(table)


def _least_dose(plan: DryRun) -> list[tuple[str, str]]:
    """What is expected of the least dose before the first trial; nothing where that is not the goal."""
    if plan.goal.kind != "cheapest" or plan.expected is None:
        return []
    dose = f"{electrons(plan.expected.settings.dose)} {plan.description.dose_unit}"
    return [("least dose", f"{dose} before the first trial: {plan.expected.reason}")]


def _first_trial(plan: DryRun) -> list[tuple[str, str]]:
    """What the first trial costs, and how much of that is not its dose."""
    if not plan.trial_electrons:
        return []
    asked = plan.first.settings.dose * plan.layout.exploration[0].area
    besides = max(1 - asked / plan.trial_electrons, 0.0)
    with_scan = f", {besides:.0%} of it flyback and other dead time" if besides >= 0.01 else ""
    unit = "electrons" if plan.description.dose_unit == "e/Å²" else "counts"
    return [
        ("a trial", f"about {electrons(plan.trial_electrons)} {unit} and {duration(plan.trial_duration)}{with_scan}")
    ]


def _told(plan: DryRun) -> str:
    return f" ({plan.budget_told})" if plan.budget_told else ""


_VERDICTS = {"good": "green", "careful": "yellow", "bad": "bold red"}


def show_grades(console: Console, grades: tuple[Grade, ...]) -> None:
    """Print what a careful operator would look at, with a verdict for each."""
    table = Table(box=None)
    for heading in ("", "", "", "advice"):
        table.add_column(heading)
    for each in grades:
        table.add_row(
            each.subject, Text(each.verdict, style=_VERDICTS[each.verdict]), Text(each.value), Text(each.advice)
        )
    console.print(table)


def results(record: CampaignRecord, report: Path | None) -> dict[str, Any]:
    """The outcome of a campaign as JSON-able values; Å, e/Å² (or counts/Å²), bit/Å².

    Args:
        record: of the campaign, in any state.
        report: path of its report; None: not written.
    """
    final, expert = record.trial("final"), record.trial("expert")
    recommended = record.recommended
    return {
        "name": record.config.name,
        "state": record.state,
        "reason": record.reason,
        "trials": [_trial(trial) for trial in record.trials],
        "recommended": None
        if recommended is None
        else {
            **_settings(recommended.settings),
            "predicted": recommended.predicted,
            "reason": recommended.reason,
            "front": [
                {**_settings(each.settings), "predicted": each.predicted, "predicted_sd": each.predicted_sd}
                for each in recommended.front
            ],
        },
        "score": _score(final),
        "score_sd": _score_sd(final),
        "halves": final.score.halves if final is not None and final.score is not None else None,
        "veto": final.veto if final is not None else None,
        "resolution": final.score.resolution if final is not None and final.score is not None else None,
        "expert": None
        if expert is None
        else {
            **_settings(expert.settings),
            "score": _score(expert),
            "score_sd": _score_sd(expert),
            "halves": expert.score.halves if expert.score is not None else None,
            "veto": expert.veto,
        },
        "goal": record.config.goal.model_dump(mode="json", exclude_none=True),
        "target": record.target if record.config.goal.score is None else record.config.goal.score,
        "twins": {str(trial): count for trial, count in sorted(record.twins.items())},
        "electrons_spent": record.electrons_spent,
        "electrons_budget": record.config.electrons,
        "dose_unit": record.description.dose_unit,
        "score_unit": SCORE_UNIT,
        "started": record.started,
        "finished": record.finished,
        "folder": str(Path(record.folder).resolve()),
        "report": None if report is None else str(report.resolve()),
        "versions": record.versions,
    }


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write `content` to `path` in one step.

    Raises:
        BadInputError: the path cannot be written.
    """
    try:
        atomic_write(path, json.dumps(content, ensure_ascii=False, indent=2, allow_nan=False) + "\n")
    except OSError as error:
        msg = f"{path}: cannot be written ({error.strerror}); name a file in a folder that exists and has room"
        raise BadInputError(msg) from error


def check_json(file: Path | None) -> None:
    """Before anything is computed: whether a result can be written there. Raises BadInputError where not."""
    if file is not None and (file.is_dir() or not file.resolve().parent.is_dir()):
        msg = f"{file}: cannot be written; name a file in a folder that exists"
        raise BadInputError(msg)


def make_writable(folder: Path, option: str = "--out") -> None:
    """Make a folder, before anything is computed. Raises BadInputError where nothing can be written there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        msg = f"{folder}: cannot be written ({error.strerror}); name another folder with {option}"
        raise BadInputError(msg) from error


def _trials_table(record: CampaignRecord) -> Table:
    """All trials in 80 columns."""
    score_power = shared_power(record)
    charge_power = power_of(max(trial.electrons for trial in record.trials))
    table = Table(title="Trials", title_justify="left", header_style="bold", box=SIMPLE_HEAD, padding=0)
    unit = record.description.dose_unit
    chosen = any(trial.settings.semiangle is not None for trial in record.trials)
    for heading in (
        "",
        "role",
        "step\nÅ",
        "defocus\nÅ",
        *(["mrad"] if chosen else []),
        f"dose\n{unit}",
        f"{quantity_name(record)}\n{times_power(charge_power).strip()}",
        f"score\n{times_power(score_power).strip()} {SCORE_UNIT}".replace("\n ", "\n"),
        "res.\nÅ",
        "source",
    ):
        table.add_column(heading, justify="left" if heading in ("role", "source") else "right", no_wrap=True)
    for trial in record.trials:
        table.add_row(*_cells(trial, score_power, charge_power, chosen), style=_style(trial))
    return table


def _cells(trial: Trial, score_power: int, charge_power: int, chosen: bool) -> tuple[str, ...]:
    settings = trial.settings
    score: str = trial.state if trial.state != "done" else "–"
    resolution = "–"
    if trial.score is not None:
        # the power of ten stands in the heading
        score = uncertain(trial.score.value / 10.0**score_power, trial.score.sd / 10.0**score_power, 0) + _mark(trial)
        resolution = f"{trial.score.resolution:.3g}" if trial.score.resolution is not None else "–"
    return (
        str(trial.number),
        trial.role,
        f"{settings.step:.4g}",
        signed_length(settings.defocus).removesuffix(" Å"),
        *([f"{settings.semiangle:g}" if settings.semiangle is not None else "–"] if chosen else []),
        electrons(settings.dose),
        f"{trial.electrons / 10.0**charge_power:.3g}",
        score,
        resolution,
        trial.suggestion.source,
    )


def _style(trial: Trial) -> str | None:
    if trial.state in ("failed", "vetoed", "abandoned") or trial.veto is not None:
        return "dim"
    return {"final": "bold", "expert": "green"}.get(trial.role)


def _comparison_table(record: CampaignRecord) -> Table:
    power = shared_power(record)
    table = Table(
        title="Final pictures", title_justify="left", header_style="bold", box=SIMPLE_HEAD, padding=(0, 1, 0, 0)
    )
    table.add_column("")
    table.add_column("settings")
    table.add_column(f"score, {SCORE_UNIT}", justify="right")
    unit = record.description.dose_unit
    final, expert, reference = (record.trial(role) for role in ("final", "expert", "reference"))
    if record.recommended is not None:
        # what flyback and margins cost may have left less dose than was recommended
        settings = record.recommended.settings if final is None else final.settings
        table.add_row("recommended", settings_text(settings, unit), _score_text(final, power))
    for name, trial in (("expert", expert), ("reference", reference)):
        if trial is not None:
            table.add_row(name, settings_text(trial.settings, unit), _score_text(trial, power))
    return table


def _trial(trial: Trial) -> dict[str, Any]:
    return {
        "number": trial.number,
        "role": trial.role,
        "state": trial.state,
        **_settings(trial.settings),
        "source": trial.suggestion.source,
        "suggestion": trial.suggestion.reason,
        "reasons": trial.suggestion.model_dump(mode="json", exclude={"settings", "source", "reason"}),
        "electrons": trial.electrons,
        "score": _score(trial),
        "score_sd": _score_sd(trial),
        "halves": trial.score.halves if trial.score is not None else None,
        "score_thinned": trial.score.thinned if trial.score is not None else None,
        "veto": trial.veto,
        "resolution": trial.score.resolution if trial.score is not None else None,
        "defocus_measured": trial.defocus_measured,
        "optics": None if trial.optics is None else trial.optics.model_dump(mode="json"),
        "model": None if trial.model is None else trial.model.model_dump(mode="json"),
        "reason": trial.reason,
        "stopped": None if trial.stopped is None else trial.stopped.model_dump(mode="json"),
        "acquisition_file": trial.acquisition_file,
        "reconstruction_file": trial.reconstruction_file,
        "seconds": trial.seconds,
    }


def _settings(settings: Settings) -> dict[str, float]:
    told = {"step_size": settings.step, "defocus": settings.defocus, "dose": settings.dose}
    return told if settings.semiangle is None else {**told, "semiangle": settings.semiangle}


def _score(trial: Trial | None) -> float | None:
    return trial.score.value if trial is not None and trial.score is not None else None


def _score_sd(trial: Trial | None) -> float | None:
    return trial.score.sd if trial is not None and trial.score is not None else None


def _score_text(trial: Trial | None, power: int) -> str:
    if trial is None or trial.score is None:
        return "–"
    return uncertain(trial.score.value, trial.score.sd, power) + _mark(trial)


def _mark(trial: Trial) -> str:
    return f" {UNTRUSTED}" if trial.veto is not None else ""
