"""What Prometheus may ask of a running agent: electrons, scores, trials, latencies, and how punctual its loop is."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from agent.events import (
    BudgetChanged,
    CampaignEnded,
    CampaignStarted,
    Event,
    FramesReceived,
    InstrumentChanged,
    PhaseChanged,
    SteeringChanged,
    TimeLeft,
    TrialChanged,
)
from agent.records import ENDED, Trial, TrialState
from instrument.metrics import MetricsAddress, exposing_metrics


@asynccontextmanager
async def measuring(where: str) -> AsyncIterator[Metrics]:
    """Serve `/metrics` as long as the block lasts.

    Args:
        where: PORT, of this machine alone, or ADDRESS:PORT.

    Raises:
        BadInputError: prometheus-client is not installed, or the address cannot be listened at.
    """
    metrics = Metrics()
    async with exposing_metrics(MetricsAddress.parse(where), metrics.register):
        yield metrics


class Metrics:
    """An observer that keeps the figures of one campaign, once they have been registered."""

    def __init__(self) -> None:
        self._held: dict[int, float] = {}
        self._frames: FramesReceived | None = None
        self._figures = (0.0, 0.0)
        self._told: set[int] = set()
        self._folder: Path | None = None

    def register(self, registry: Any) -> None:
        """Make the figures known.

        Args:
            registry: of prometheus-client.
        """
        from prometheus_client import Counter, Gauge, Histogram

        def gauge(name: str, about: str, *labels: str) -> Any:
            return Gauge(f"ptychopilot_{name}", about, labels, registry=registry)

        self._budget = gauge("electrons_budget", "electrons (or counts) of the campaign")
        self._spent = gauge("electrons_spent", "booked by the instrument")
        self._reserved = gauge("electrons_reserved", "set aside for acquisitions that have not ended")
        self._left = gauge("electrons_left", "budget less spent and reserved")
        self._trial = gauge("trial", "number of the trial that is being acquired or was last")
        self._planned = gauge("trials_planned", "acquisitions in all")
        self._score = gauge("score_bits_per_square_angstrom", "of a trial, bit/Å²", "trial", "role")
        self._score_sd = gauge("score_sd_bits_per_square_angstrom", "standard deviation of the score", "trial", "role")
        self._time_left = gauge("time_left_seconds", "estimate")
        self._exposing = gauge("exposing", "1 while the agent has the beam on")
        self._paused = gauge("paused", "1 while a person has paused it")
        self._running = gauge("running", "1 while the campaign runs")
        self._safe = gauge("safe", "1 while the instrument is in SAFE: the beam stays off until a person releases it")
        self._suspended = gauge("suspended", "1 while the column is not well and nothing is exposed")
        self._reachable = gauge("instrument_reachable", "0 while the instrument does not answer")
        self._reachable.set(1)
        gauge("disk_free_bytes", "of the disk that holds the campaign; -1 before it begins").set_function(
            self._disk_free
        )
        self._ended = Counter("ptychopilot_trials", "ended trials", ["state"], registry=registry)
        self._vetoes = Counter("ptychopilot_score_vetoes", "scores that are not to be trusted", registry=registry)
        self._lost = Counter("ptychopilot_frames_lost", "frames that an acquisition ended without", registry=registry)
        buckets = (0.1, 0.3, 1, 3, 10, 30, 100, 300, 1000)
        self._seconds = Histogram(
            "ptychopilot_phase_seconds",
            "wall-clock time of a step of a trial",
            ["phase"],
            registry=registry,
            buckets=buckets,
        )

    def on_event(self, event: Event) -> None:
        """Take the figures of `event`."""
        match event:
            case CampaignStarted():
                self._planned.set(event.trials_planned)
                self._running.set(1)
                self._folder = Path(event.folder)
                self._set_electrons(0.0, event.config.electrons)
            case BudgetChanged():
                self._set_electrons(event.spent, event.budget)
            case PhaseChanged():
                self._exposing.set(event.phase == "acquiring")
                if event.trial is not None:
                    self._trial.set(event.trial)
            case FramesReceived():
                self._frames = event
            case SteeringChanged():
                self._paused.set(event.paused)
            case InstrumentChanged():
                self._safe.set(event.state == "safe")
                self._suspended.set(event.state == "suspended")
                self._reachable.set(event.state != "unreachable")
            case TimeLeft():
                self._time_left.set(event.seconds)
            case TrialChanged():
                self._note(event.trial)
            case CampaignEnded():
                self._running.set(0)
                self._exposing.set(0)
            case _:
                pass

    def _disk_free(self) -> float:
        try:
            return -1.0 if self._folder is None else float(shutil.disk_usage(self._folder).free)
        except OSError:
            return -1.0

    def _note(self, trial: Trial) -> None:
        open_ = trial.state in (TrialState.RESERVED, TrialState.ACQUIRING) and trial.electrons == 0
        self._held[trial.number] = trial.plan.electrons if open_ and trial.plan and trial.role != "expert" else 0.0
        self._set_electrons(*self._figures)
        if trial.state is TrialState.ACQUIRED and (frames := self._frames) is not None and frames.trial == trial.number:
            self._lost.inc(max(frames.total - frames.received, 0))
        ended = trial.state in ENDED
        if not ended or trial.number in self._told:
            return
        self._told.add(trial.number)
        self._ended.labels(trial.state).inc()
        for phase, seconds in trial.seconds.items():
            self._seconds.labels(phase).observe(seconds)
        if trial.score is not None:
            self._score.labels(str(trial.number), trial.role).set(trial.score.value)
            self._score_sd.labels(str(trial.number), trial.role).set(trial.score.sd)
            if trial.veto is not None:
                self._vetoes.inc()

    def _set_electrons(self, spent: float, budget: float) -> None:
        self._figures = (spent, budget)
        reserved = sum(self._held.values())
        self._budget.set(budget)
        self._spent.set(spent)
        self._reserved.set(reserved)
        self._left.set(max(budget - spent - reserved, 0.0))
