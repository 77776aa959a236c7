"""The running scan, reconstructed while it runs, by a process that gives way to every other. Nothing waits for it."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import shutil
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Literal, Self

import numpy as np

from agent.campaign.layout import scored_edge, scored_rectangle
from agent.campaign.live_picture import PICTURES, LiveEstimate, LiveJob, LiveResult, LiveView, picture_path
from agent.campaign.memory import earlier_column
from agent.campaign.session import Session
from agent.events import LivePictureDrawn
from agent.live_choice import StoppedScan
from agent.processing.child import PROCESSING, THREAD_VARIABLES, ProcessingError, ReconstructionProcess, usable_cores
from agent.records import Score, Trial, TrialState
from agent.scoring.hopeless import LiveScore, Rival, winner
from agent.storage.acquisition_file import AcquisitionWriter
from agent.storage.frame_mirror import FrameMirror
from instrument import Description
from instrument.background import Background

logger = logging.getLogger(__name__)
FOLLOW = "agent.campaign.live_picture:follow"
FOLDER = "live"
"""Of the pictures, in the campaign's folder."""
LARGEST_SCAN = 64_000_000
"""Detector pixels of all patterns together beyond which a scan is not followed: it would take too much memory and time."""
SHORTEST_SCAN = 1.0
"""s; a shorter scan is over before there is a picture."""
GRACE = 20.0
"""s that the process may take to notice that a scan has ended."""
NICENESS = 15
"""A core that something else wants gives it a thirtieth of its time."""
_FAILURES = 2
"""After so many the campaign goes on without pictures."""


class LivePictures:
    """Has scans followed, while the context is open.

    Args:
        session: whose scans they are.
        shared: whether reconstruction processes are shared with other campaigns.
    """

    def __init__(self, session: Session, *, shared: bool = False) -> None:
        self._session = session
        self._folder = session.folder.resolve()
        self._process = ReconstructionProcess(FOLLOW, dict.fromkeys(THREAD_VARIABLES, "1"))
        config = session.config
        possible = session.journal.facts.processing == PROCESSING and config.reconstruction.function is None
        self._shows = possible and _shown(config.live.picture, shared=shared)
        self._stops = (
            possible and config.live.stop and config.goal.kind == "best_picture" and config.score.function is None
        )
        self._failures = 0

    async def __aenter__(self) -> Self:
        self._tasks = Background()
        await self._tasks.__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._tasks.__aexit__(None, None, None)
        await self._process.close()
        await asyncio.to_thread(shutil.rmtree, self._folder / FOLDER, ignore_errors=True)

    @contextmanager
    def following(
        self, trial: Trial, description: Description, writer: AcquisitionWriter, duration: float
    ) -> Iterator[Prospects]:
        """While the block lasts, what `writer` is given is reconstructed as well.

        Args:
            trial: that is acquired.
            description: of the instrument.
            writer: of the acquisition file.
            duration: of the scan, s.

        Yields:
            What is to be expected of the scan, as it becomes known.
        """
        prospects = Prospects(trial, self._session.book if self._stops else ())
        with ExitStack() as stack:
            if (self._shows or self._stops) and self._failures < _FAILURES and duration >= SHORTEST_SCAN:
                job = self._job(trial, description)
                if job is not None and (mirror := _mirror(job)) is not None:
                    writer.mirror = stack.enter_context(mirror)
                    limit = asyncio.timeout(None)
                    task = self._tasks.create_task(self._follow(job, trial, prospects, limit))
                    stack.callback(_end, task, limit)
            yield prospects

    def _job(self, trial: Trial, description: Description) -> LiveJob | None:
        """What is to be done; None where a scan is too large, or nobody knows how the detector is turned."""
        assert trial.plan is not None
        config, plan = self._session.config, trial.plan
        pixels = plan.n_positions * int(np.prod(description.detector.shape))
        column = self._column(trial)
        described = config.geometry.applied(description)
        turned = column is not None or None not in (described.scan_rotation, described.mirrored)
        if plan.positions is not None or pixels > LARGEST_SCAN or not turned:
            return None
        return LiveJob(
            trial=trial.number,
            frames=self._folder / "acquisitions" / f"{trial.number:03d}-{trial.role}.frames.part",
            pictures=self._folder / FOLDER,
            plan=plan,
            description=description,
            geometry=config.geometry,
            column=column,
            reconstruction=config.reconstruction,
            score=config.score.model_copy(update={"field": scored_edge(config)}),
            scored=scored_rectangle(plan.field, config),
            judged=self._stops and trial.role == "exploration" and plan.passes == 2 and plan.pattern == "raster",
            seed=config.seed + trial.number,
            niceness=NICENESS,
        )

    def _column(self, trial: Trial) -> Path | None:
        """What the last trial that is scored has taught."""
        done = [t for t in self._session.book if t.number < trial.number and t.state is TrialState.DONE]
        known = [path for t in done if (path := self._folder / "columns" / f"{t.number:03d}.json").exists()]
        return known[-1] if known else earlier_column(self._session.config)

    async def _follow(self, job: LiveJob, trial: Trial, prospects: Prospects, limit: asyncio.Timeout) -> None:
        """Nothing that goes wrong here may reach the campaign."""
        assert trial.plan is not None
        total = trial.plan.n_positions

        def take(line: bytes) -> LiveResult | None:
            message = json.loads(line)
            if "progress" in message:
                kind, told = message["progress"]
                if kind == "estimate":
                    prospects.take(LiveEstimate.model_validate(told))
                elif self._shows:
                    self._tell(LiveView.model_validate(told), trial, total)
            elif "result" in message:
                return LiveResult.model_validate(message["result"])
            elif "error" in message:
                raise ProcessingError(message["error"])
            return None

        try:
            async with limit:
                await self._process.converse(job, take)
        except (ProcessingError, TimeoutError, OSError, ValueError) as error:
            self._failures += 1
            logger.info("trial %d is not shown while it is scanned: %s", trial.number, error)

    def _tell(self, view: LiveView, trial: Trial, total: int) -> None:
        self._session.audience.tell(
            LivePictureDrawn(
                trial=trial.number,
                role=trial.role,
                received=view.received,
                total=total,
                extent=view.extent,
                levels=view.levels,
                k_edge=view.k_edge,
                phase=base64.b64decode(view.phase),
                spectrum=base64.b64decode(view.spectrum),
                files=tuple(str(picture_path(Path(FOLDER), trial.number, name)) for name in PICTURES),
            )
        )


class Prospects:
    """What is to be expected of the running scan, against the trials that are scored.

    Args:
        trial: that is scanned.
        others: trials that it may lose against; none: it is not stopped.
    """

    def __init__(self, trial: Trial, others: Iterable[Trial]) -> None:
        self._trial = trial
        # those that the suggestion was made from: what has arrived meanwhile depends on how long reconstructions take
        before = [t for t in others if t.number <= trial.number - 2 and t.role == "exploration"]
        self._rivals = [
            Rival(t.number, t.score, t.settings.dose)
            for t in before
            if t.state is TrialState.DONE and t.score is not None and t.score.veto is None and t.stopped is None
        ]
        self._hopeless = asyncio.Event()
        self.score: Score | None = None
        self._lost: tuple[float, Rival, float] | None = None

    def take(self, estimate: LiveEstimate) -> None:
        """Note what the live process expects now.

        Args:
            estimate: of the whole scan.
        """
        live = LiveScore(estimate.score, estimate.part)
        better = winner(live, self._trial.settings.dose, self._rivals)
        if better is not None and self._lost is None:
            self._lost, self.score = (estimate.part, *better), live.expected()
            self._hopeless.set()

    async def hopeless(self) -> None:
        """Return once the scan can no longer win."""
        await self._hopeless.wait()

    def stopped(self, planned: float, spent: float) -> StoppedScan | None:
        """Why it was stopped; None where it can still win.

        Args:
            planned: electrons of the whole scan, with flyback and margins.
            spent: electrons that the instrument has booked.
        """
        if self._lost is None or self.score is None:
            return None
        part, rival, rival_score = self._lost
        return StoppedScan(
            part=part,
            expected=self.score.value,
            expected_sd=self.score.sd,
            rival=rival.number,
            rival_score=rival_score,
            planned=planned,
            saved=max(planned - spent, 0.0),
        )


def _shown(wanted: Literal["auto"] | bool, *, shared: bool) -> bool:
    """Whether there are to be pictures; a processing of the user's own may make some of another kind."""
    return usable_cores() > 1 and not shared if wanted == "auto" else wanted


def _mirror(job: LiveJob) -> FrameMirror | None:
    detector = job.description.detector
    with suppress(OSError):
        return FrameMirror(job.frames, job.plan.n_positions, detector.shape, np.dtype(detector.dtype))
    return None


def _end(task: asyncio.Task[None], limit: asyncio.Timeout) -> None:
    """The scan is over; whoever has not noticed by then is stopped."""
    if not task.done():
        with suppress(RuntimeError, AssertionError):  # it has not begun, or ends now
            limit.reschedule(asyncio.get_running_loop().time() + GRACE)
