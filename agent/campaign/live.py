"""The running scan, reconstructed while it runs, by a process that gives way to every other. Nothing waits for it."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Self

import numpy as np

from agent.campaign.live_picture import PICTURES, LiveJob, LiveResult, LiveView, picture_path
from agent.campaign.memory import earlier_column
from agent.campaign.session import Session
from agent.events import LivePictureDrawn
from agent.processing.child import PROCESSING, THREAD_VARIABLES, ProcessingError, ReconstructionProcess
from agent.records import Trial, TrialState
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
        follow: `module:function` that follows a scan.
    """

    def __init__(self, session: Session, *, shared: bool = False, follow: str = FOLLOW) -> None:
        self._session = session
        self._folder = session.folder.resolve()
        self._process = ReconstructionProcess(follow, dict.fromkeys(THREAD_VARIABLES, "1"))
        self._wanted = _wanted(session, shared=shared)
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
    ) -> Iterator[None]:
        """While the block lasts, what `writer` is given is reconstructed as well.

        Args:
            trial: that is acquired.
            description: of the instrument.
            writer: of the acquisition file.
            duration: of the scan, s.
        """
        with ExitStack() as stack:
            if self._wanted and self._failures < _FAILURES and duration >= SHORTEST_SCAN:
                job = self._job(trial, description)
                if job is not None and (mirror := _mirror(job)) is not None:
                    writer.mirror = stack.enter_context(mirror)
                    limit = asyncio.timeout(None)
                    task = self._tasks.create_task(self._follow(job, trial, limit))
                    stack.callback(_end, task, limit)
            yield

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
            k_max=config.score.k_max,
            niceness=NICENESS,
        )

    def _column(self, trial: Trial) -> Path | None:
        """What the last trial that is scored has taught."""
        done = [t for t in self._session.book if t.number < trial.number and t.state is TrialState.DONE]
        known = [path for t in done if (path := self._folder / "columns" / f"{t.number:03d}.json").exists()]
        return known[-1] if known else earlier_column(self._session.config)

    async def _follow(self, job: LiveJob, trial: Trial, limit: asyncio.Timeout) -> None:
        """Nothing that goes wrong here may reach the campaign."""
        assert trial.plan is not None
        total = trial.plan.n_positions

        def take(line: bytes) -> LiveResult | None:
            message = json.loads(line)
            if "progress" in message:
                self._tell(LiveView.model_validate(message["progress"][0]), trial, total)
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


def _wanted(session: Session, *, shared: bool) -> bool:
    """Whether scans are to be followed, and can be: a processing of the user's own may make pictures of another kind."""
    config, wanted = session.config, session.config.live.picture
    if session.journal.facts.processing != PROCESSING or config.reconstruction.function is not None:
        return False
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return cores > 1 and not shared if wanted == "auto" else wanted


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
