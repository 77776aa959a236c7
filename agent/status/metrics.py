"""What Prometheus may ask of a running agent: electrons, scores, trials, latencies, and how punctual its loop is."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from agent.errors import BadInputError
from agent.events import (
    BudgetChanged,
    CampaignEnded,
    CampaignStarted,
    Event,
    FramesReceived,
    PhaseChanged,
    SteeringChanged,
    TimeLeft,
    TrialChanged,
)
from agent.records import Trial, TrialState

LAG_INTERVAL = 1.0
"""s between two looks at how late the event loop is."""


@asynccontextmanager
async def measuring(port: int, address: str = "127.0.0.1") -> AsyncIterator[Metrics]:
    """Serve `/metrics` as long as the block lasts.

    Args:
        port: TCP port.
        address: to listen at.

    Raises:
        BadInputError: prometheus-client is not installed, or the port is taken.
    """
    try:
        from prometheus_client import CollectorRegistry, start_http_server
    except ImportError as error:
        msg = "--metrics needs prometheus-client: pip install 'ptychopilot[dashboard]'"
        raise BadInputError(msg) from error
    registry = CollectorRegistry()
    metrics = Metrics(registry)
    try:
        server, thread = start_http_server(port, address, registry)
    except OSError as error:
        msg = f"--metrics {port}: cannot be listened at ({error.strerror}); choose another port"
        raise BadInputError(msg) from error
    lag = asyncio.create_task(metrics.watch_loop(), name="metrics")
    try:
        yield metrics
    finally:
        lag.cancel()
        await asyncio.wait([lag])
        server.shutdown()
        server.server_close()
        thread.join()


class Metrics:
    """An observer that keeps the figures of one campaign.

    Args:
        registry: of prometheus-client, which the figures are found in.
    """

    def __init__(self, registry: Any) -> None:
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
        self._lag = gauge("event_loop_lag_seconds", "by which the event loop was late, largest of the last second")
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
        self._held: dict[int, float] = {}
        self._frames: FramesReceived | None = None
        self._figures = (0.0, 0.0)
        self._told: set[int] = set()

    def on_event(self, event: Event) -> None:
        """Take the figures of `event`."""
        match event:
            case CampaignStarted():
                self._planned.set(event.trials_planned)
                self._running.set(1)
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
            case TimeLeft():
                self._time_left.set(event.seconds)
            case TrialChanged():
                self._note(event.trial)
            case CampaignEnded():
                self._running.set(0)
                self._exposing.set(0)
            case _:
                pass

    async def watch_loop(self) -> None:
        """See again and again how late the event loop wakes up."""
        while True:
            due = time.monotonic() + LAG_INTERVAL
            await asyncio.sleep(LAG_INTERVAL)
            self._lag.set(max(time.monotonic() - due, 0.0))

    def _note(self, trial: Trial) -> None:
        open_ = trial.state in (TrialState.RESERVED, TrialState.ACQUIRING) and trial.electrons == 0
        self._held[trial.number] = trial.plan.electrons if open_ and trial.plan and trial.role != "expert" else 0.0
        self._set_electrons(*self._figures)
        if trial.state is TrialState.ACQUIRED and (frames := self._frames) is not None and frames.trial == trial.number:
            self._lost.inc(max(frames.total - frames.received, 0))
        ended = trial.state in (TrialState.DONE, TrialState.FAILED, TrialState.VETOED)
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
