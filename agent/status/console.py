"""Progress of a campaign on a terminal, or as plain lines where standard output is none (a pipe, a log)."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType
from typing import Any

from rich.console import Console, Group
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from agent.events import (
    BudgetChanged,
    CampaignEnded,
    CampaignStarted,
    Event,
    FramesReceived,
    PhaseChanged,
    Recommended,
    ReconstructionProgress,
    TargetSet,
    TimeLeft,
    TrialChanged,
)
from agent.formatting import duration, electrons, length, signed_length, uncertain
from agent.records import Settings, Trial
from agent.status.fields import is_besides
from agent.status.redrawn import BAR_WIDTH, Redrawn


class ConsoleProgress:
    """An observer and a context manager that shows trial, phase, budget, best score so far and time left.

    On a terminal and in a notebook's cell some lines are redrawn in place, beside a line for each finished trial. Elsewhere, and
    where no bars are wanted, each change that matters is one line.

    >>> with ConsoleProgress() as progress:                                                    # doctest: +SKIP
    ...     record = await run_campaign(config, endpoint, folder, observers=[progress])

    Args:
        console: where to write; None: standard output, or the notebook's cell.
        clock: seconds, for the elapsed time.
        bars: whether to redraw lines; None: unless the environment variable PTYCHOPILOT_PROGRESS is `off`.
    """

    def __init__(
        self, console: Console | None = None, clock: Callable[[], float] = time.monotonic, *, bars: bool | None = None
    ) -> None:
        self._console = console = console or Console()
        self._clock = clock
        self._began = clock()
        self._started: CampaignStarted | None = None
        self._phase: PhaseChanged | None = None
        self._frames: FramesReceived | None = None
        self._reconstruction: ReconstructionProgress | None = None
        self._best: Trial | None = None
        self._spent = 0.0
        self._time_left: tuple[float, float] | None = None
        self._ended = False
        self._besides: set[int] = set()
        self._redrawn = Redrawn(console, self.render, bars)

    def __enter__(self) -> ConsoleProgress:
        self._redrawn.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._redrawn.__exit__(kind, error, traceback)

    def on_event(self, event: Event) -> None:
        """Take note of `event` and print what is worth a line."""
        match event:
            case CampaignStarted():
                self._started = event
                self._say_started(event)
            case PhaseChanged():
                self._phase = event
                if event.phase == "acquiring":
                    self._frames = None
                if event.phase == "waiting":
                    self._say(event.message)
                elif not self._redrawn.shown and event.phase in ("connecting", "acquiring"):
                    message = f" – {event.message}" if event.message else ""
                    self._say(self._phase_text() + message + self._outlook())
            case FramesReceived():
                self._frames = event
            case ReconstructionProgress():
                self._reconstruction = event
            case TrialChanged(trial=trial):
                self._note_trial(trial)
            case BudgetChanged():
                self._spent = event.spent
            case TimeLeft():
                self._time_left = (self._clock(), event.seconds)
            case TargetSet():
                self._say(f"target: {uncertain(event.target, None)} bit/Å² ({event.reason})")
            case Recommended():
                recommended = event.recommendation
                self._say(f"recommended: {self._settings_text(recommended.settings)}. {recommended.reason}")
            case CampaignEnded():
                self._ended = True
                self._say(f"{event.state}{': ' + event.reason if event.reason else ''}")
            case _:
                pass
        self._redrawn.changed()

    def render(self) -> Any:
        """The lines that are redrawn: phase, reconstruction, electrons, and a line of numbers."""
        if self._started is None or self._ended:
            return Text("" if self._ended else "connecting to the instrument …", style="dim")
        grid = Table.grid(padding=(0, 2))
        frames = self._frames
        grid.add_row(
            Text(self._phase_text(), style="bold"),
            ProgressBar(total=frames.total, completed=frames.received, width=BAR_WIDTH) if frames else Text(""),
            f"{frames.received} of {frames.total} patterns" if frames else "",
        )
        work = self._reconstruction
        if work is not None:
            grid.add_row(
                f"trial {work.trial}: {work.phase}",
                ProgressBar(total=1.0, completed=work.fraction, width=BAR_WIDTH),
                f"{work.fraction:.0%}",
            )
        budget = self._started.config.electrons
        grid.add_row(
            "electrons",
            ProgressBar(total=budget, completed=self._spent, width=BAR_WIDTH, complete_style="cyan"),
            f"{electrons(self._spent)} of {electrons(budget)}",
        )
        return Group(grid, Text(" · ".join(self._numbers()), style="dim"))

    def _note_trial(self, trial: Trial) -> None:
        if is_besides(trial):
            self._besides.add(trial.number)
        if self._reconstruction is not None and self._reconstruction.trial == trial.number:
            self._reconstruction = None if trial.state in ("done", "failed") else self._reconstruction
        if trial.state == "done" and trial.score is not None:
            candidate = trial.role != "expert" and trial.veto is None
            if candidate and (self._best is None or _score(trial) > _score(self._best)):
                self._best = trial
            resolution = f", {trial.score.resolution:.3g} Å" if trial.score.resolution else ""
            halves = " (halves of one pass)" if trial.score.one_pass else ""
            veto = f" – not trusted: {trial.veto}" if trial.veto else ""
            self._say(
                f"trial {trial.number} ({trial.role}): {self._settings_text(trial.settings)} "
                f"→ {uncertain(trial.score.value, trial.score.sd)} bit/Å²{halves}{resolution}{veto}"
            )
        elif trial.state in ("failed", "vetoed", "abandoned"):
            self._say(f"trial {trial.number} ({trial.role}) {trial.state}: {trial.reason}")

    def _say_started(self, event: CampaignStarted) -> None:
        verb = "resumed" if event.resumed else "started"
        self._say(
            f"campaign {event.config.name} {verb} on {event.description.name}: {event.trials_planned} acquisitions, "
            f"{electrons(event.config.electrons)} {'electrons' if self._dose_unit() == 'e/Å²' else 'counts'}"
        )
        for note in event.notes:
            self._say(f"note: {note}")

    def _phase_text(self) -> str:
        if self._phase is None:
            return ""
        planned = (self._started.trials_planned if self._started else 0) + len(self._besides)
        where = "" if self._phase.trial is None else f"trial {self._phase.trial} of {planned}: "
        return f"{where}{self._phase.phase}"

    def _settings_text(self, settings: Settings) -> str:
        return (
            f"step {length(settings.step)}, defocus {signed_length(settings.defocus)}, "
            f"dose {electrons(settings.dose)} {self._dose_unit()}"
            f"{'' if settings.semiangle is None else f', aperture {settings.aperture_text()}'}"
        )

    def _numbers(self) -> list[str]:
        found = [f"{duration(self._clock() - self._began)} elapsed"]
        if self._time_left is not None:
            when, seconds = self._time_left
            found.append(f"about {duration(max(0.0, seconds - (self._clock() - when)))} left")
        if self._best is not None and self._best.score is not None:
            score = self._best.score
            found.append(f"best so far {uncertain(score.value, score.sd)} bit/Å² (trial {self._best.number})")
        return found

    def _outlook(self) -> str:
        if self._started is None:
            return ""
        return f" | {self._spent / self._started.config.electrons:.0%} of the budget | " + " | ".join(self._numbers())

    def _dose_unit(self) -> str:
        return self._started.description.dose_unit if self._started else "e/Å²"

    def _say(self, line: str) -> None:
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)


def _score(trial: Trial) -> float:
    return trial.score.value if trial.score is not None else float("-inf")
