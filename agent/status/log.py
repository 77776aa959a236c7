"""log.txt of a campaign folder: what happened, in sentences."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from agent.events import (
    BudgetChanged,
    CampaignEnded,
    CampaignStarted,
    Event,
    InstrumentChanged,
    PhaseChanged,
    Recommended,
    TargetSet,
    TrialChanged,
    TwinChanged,
)
from agent.records import Settings, TrialState
from instrument.text import OneLine

LOG = "log.txt"
logger = logging.getLogger("agent.campaign")


@contextmanager
def log_file(folder: Path) -> Iterator[None]:
    """Append everything that this program logs to `log.txt` in `folder` while the context is open."""
    handler = logging.FileHandler(folder / LOG, encoding="utf-8", errors="backslashreplace")
    handler.setFormatter(OneLine("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    loggers = [logging.getLogger(name) for name in ("agent", "instrument")]
    before = [each.level for each in loggers]
    for each in loggers:
        each.addHandler(handler)
        each.setLevel(min(each.level or logging.INFO, logging.INFO))
    try:
        yield
    finally:
        for each, level in zip(loggers, before, strict=True):
            each.removeHandler(handler)
            each.setLevel(level)
        handler.close()


class LogObserver:
    """Writes a line for every event that a person may want to find later."""

    def __init__(self) -> None:
        self._states: dict[int, TrialState] = {}

    def on_event(self, event: Event) -> None:
        """Log `event`; progress within a step is left out."""
        if isinstance(event, TrialChanged):
            number, state = event.trial.number, event.trial.state
            if self._states.get(number) == state:
                return
            self._states[number] = state
        line = _line(event)
        if line is not None:
            logger.info(line)


def _line(event: Event) -> str | None:
    match event:
        case CampaignStarted():
            how = "resumed" if event.resumed else "started"
            return f"campaign {event.campaign} {how} on {event.description.name}: {event.trials_planned} acquisitions planned"
        case TrialChanged():
            return _trial_line(event)
        case PhaseChanged():
            trial = f"trial {event.trial}: " if event.trial is not None else ""
            return f"{trial}{event.phase}{f', {event.message}' if event.message else ''}"
        case InstrumentChanged():
            return f"the instrument is {event.state}{f': {event.reason}' if event.reason else ''}"
        case TargetSet():
            return f"score to reach: {event.target:.5g} bit/Å², {event.reason}"
        case Recommended():
            return f"recommended: {_settings(event.recommendation.settings)}; {event.recommendation.reason}"
        case BudgetChanged():
            return f"electrons spent: {event.spent:.4g} of {event.budget:.4g}"
        case TwinChanged():
            return f"digital twin: {event.columns} columns{f'; no more: {event.trouble}' if event.trouble else ''}"
        case CampaignEnded():
            return f"campaign {event.state}{f': {event.reason}' if event.reason else ''}"
        case _:
            return None


def _trial_line(event: TrialChanged) -> str:
    trial = event.trial
    line = f"trial {trial.number} ({trial.role}) {trial.state}"
    if trial.state == "suggested":
        line += f" by {trial.suggestion.source}: {_settings(trial.settings)}; {trial.suggestion.reason}"
    if trial.state == "done" and trial.score is not None:
        line += f": {trial.score.value:.5g} ± {trial.score.sd:.2g} bit/Å²"
        line += f"; halves: {halves}" if (halves := trial.score.halves_text()) else ""
        line += f"; score not to be trusted: {trial.score.veto}" if trial.score.veto else ""
    return line + (f": {trial.reason}" if trial.reason else "")


def _settings(settings: Settings) -> str:
    told = f"step {settings.step:.4g} Å, defocus {settings.defocus:+.4g} Å, dose {settings.dose:.4g}"
    return told if settings.semiangle is None else f"{told}, aperture {settings.aperture_text()}"
