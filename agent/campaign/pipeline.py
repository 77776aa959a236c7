"""The way of an acquired trial through the reconstruction process, while the next acquisition runs."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterable
from pathlib import Path

from agent.campaign.layout import scored_edge, scored_rectangle
from agent.campaign.memory import earlier_column
from agent.campaign.session import Session
from agent.events import PhaseChanged, ReconstructionProgress
from agent.processing.child import JobRunner, ProcessingError
from agent.processing.process import ProcessingJob, ProcessingResult
from agent.records import Trial, TrialState
from instrument.background import Background

logger = logging.getLogger(__name__)

ATTEMPTS = 2
"""A reconstruction that fails is tried once more in a fresh process."""
COMPARED_SPLITS = 2
"""Random splits of the counts of the acquisitions that are compared in the end: final, expert, reference."""
_TIMEOUT_S = 300.0
_TIMEOUT_PER_POSITION_S, _COMPARED_PER_POSITION_S = 0.5, 2.0
"""An exploration's; and of those that are compared in the end, with their passes to the end and their splits."""


class Pipeline:
    """Reconstructs and scores in the order of acquisition: each job starts from what the ones before taught.

    Args:
        session: whose trials are reconstructed.
        child: the process that does it.
        tasks: where the waiting for it lives.
    """

    def __init__(self, session: Session, child: JobRunner, tasks: Background) -> None:
        self._child = child
        self._tasks = tasks
        self._folder = session.folder.resolve()
        self._config = session.config
        self._book = session.book
        self._audience = session.audience
        self._control = session.control
        self._jobs: dict[int, asyncio.Task[None]] = {}

    def start(self, trial: Trial) -> None:
        """Queue an acquired trial, or one whose reconstruction was interrupted or failed."""
        before = next(reversed(self._jobs.values())) if self._jobs else None
        self._jobs[trial.number] = self._tasks.create_task(self._process(trial, before))

    async def finished(self, numbers: Iterable[int] | None = None) -> None:
        """Wait until trials are scored or have failed.

        Args:
            numbers: of the trials; None: all that were queued. Those that were not queued are not waited for.

        Raises:
            StoppedError: the campaign is to stop at once.
        """
        wanted = list(self._jobs) if numbers is None else [n for n in numbers if n in self._jobs]
        waiting = [job for n in wanted if not (job := self._jobs[n]).done()]
        if waiting:
            await self._control.unless_stopped(asyncio.wait(waiting))

    async def _process(self, trial: Trial, before: asyncio.Task[None] | None) -> None:
        if before is not None:
            await asyncio.wait({before})
        trial = self._book.update(trial, state=TrialState.RECONSTRUCTING)
        self._audience.tell(PhaseChanged(phase="reconstructing", trial=trial.number, role=trial.role))
        started = time.monotonic()
        try:
            result = await self._attempt(trial)
        except ProcessingError as error:
            self._book.update(trial, state=TrialState.FAILED, reason=f"reconstruction: {error}")
            return
        for note in result.notes:
            logger.info("trial %d: %s", trial.number, note)
        self._book.update(
            trial,
            state=TrialState.DONE,
            score=result.score,
            defocus_measured=result.defocus_measured,
            optics=result.optics,
            cleaning=result.cleaning,
            model=result.model,
            reconstruction_file=str(self._output(trial).relative_to(self._folder)),
            seconds={**result.seconds, "process": time.monotonic() - started},
        )

    async def _attempt(self, trial: Trial) -> ProcessingResult:
        assert trial.plan is not None
        per_position = _TIMEOUT_PER_POSITION_S if trial.role == "exploration" else _COMPARED_PER_POSITION_S
        timeout = _TIMEOUT_S + per_position * trial.plan.n_positions

        def on_progress(phase: str, fraction: float) -> None:
            self._audience.tell(ReconstructionProgress(trial=trial.number, phase=phase, fraction=fraction))

        for attempt in range(1, ATTEMPTS + 1):
            try:
                return await self._child.run(self._job(trial), on_progress, timeout)
            except ProcessingError:
                if attempt == ATTEMPTS:
                    raise
        raise AssertionError

    def _job(self, trial: Trial) -> ProcessingJob:
        assert trial.plan is not None
        assert trial.acquisition_file is not None
        config, explores = self._config, trial.role == "exploration"
        earlier = [self._column(t) for t in self._book if t.number < trial.number and t.state is TrialState.DONE]
        known = [path for path in earlier if path.exists()]
        return ProcessingJob(
            acquisition=self._folder / trial.acquisition_file,
            output=self._output(trial),
            column=known[-1] if known else earlier_column(config),
            column_output=self._column(trial),
            scored=scored_rectangle(trial.plan.field, config),
            geometry=config.geometry,
            reconstruction=config.reconstruction if explores else config.reconstruction.to_the_end(),
            # The edge belongs to the score: larger fields are judged by tiles of the same size.
            score=config.score.model_copy(update={"field": scored_edge(config)}),
            splits=1 if explores else COMPARED_SPLITS,
            seed=config.seed + trial.number,
        )

    def _output(self, trial: Trial) -> Path:
        return self._folder / "reconstructions" / f"{trial.number:03d}-{trial.role}.h5"

    def _column(self, trial: Trial) -> Path:
        return self._folder / "columns" / f"{trial.number:03d}.json"
