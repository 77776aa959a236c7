"""Draws each finished trial for whoever watches from afar, in a thread, while the campaign goes on."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from agent.events import CampaignStarted, Event, PicturesDrawn, TrialChanged
from agent.records import Trial, TrialState
from agent.report.thumbnails import thumbnails
from agent.status.contract import LARGEST_IMAGE
from agent.storage.reconstruction_file import read_reconstruction

logger = logging.getLogger(__name__)
LAST_PICTURE_TIMEOUT = 5.0
"""s that the last picture may take when the campaign has ended."""


@asynccontextmanager
async def drawing(folder: Path, tell: Callable[[Event], None]) -> AsyncIterator[PictureDrawer]:
    """An observer that has finished trials drawn as long as the block lasts.

    Args:
        folder: of the campaign.
        tell: is handed each pair of pictures.
    """
    drawer = PictureDrawer(folder, tell)
    work = asyncio.create_task(drawer.work(), name="pictures")
    try:
        yield drawer
    finally:
        drawer.close()
        await asyncio.wait([work], timeout=LAST_PICTURE_TIMEOUT)
        work.cancel()
        await asyncio.wait([work])


class PictureDrawer:
    """See `drawing`. Of trials that end faster than they can be drawn, only the last is.

    Args:
        folder: of the campaign.
        tell: is handed each pair of pictures.
    """

    def __init__(self, folder: Path, tell: Callable[[Event], None]) -> None:
        self._folder = folder
        self._tell = tell
        self._k_max = 1.0
        self._next: Trial | None = None
        self._closed = False
        self._filled = asyncio.Event()

    def on_event(self, event: Event) -> None:
        """Note what is to be drawn next."""
        if isinstance(event, CampaignStarted):
            self._k_max = event.config.score.k_max
        elif isinstance(event, TrialChanged) and event.trial.state is TrialState.DONE:
            self._next = event.trial
            self._filled.set()

    def close(self) -> None:
        """Nothing more will come."""
        self._closed = True
        self._filled.set()

    async def work(self) -> None:
        """Draw until closed. A picture that cannot be drawn is left out."""
        while True:
            await self._filled.wait()
            self._filled.clear()
            trial, self._next = self._next, None
            if trial is not None and trial.reconstruction_file is not None:
                try:
                    self._tell(await asyncio.to_thread(self._draw, trial, self._folder / trial.reconstruction_file))
                except Exception:
                    logger.exception("trial %d could not be drawn", trial.number)
            if self._closed and self._next is None:
                return

    def _draw(self, trial: Trial, path: Path) -> PicturesDrawn:
        drawn = thumbnails(read_reconstruction(path), self._k_max, LARGEST_IMAGE)
        return PicturesDrawn(
            trial=trial.number,
            role=trial.role,
            extent=drawn.extent,
            levels=drawn.levels,
            k_edge=drawn.k_edge,
            resolution=drawn.resolution,
            phase=drawn.phase,
            spectrum=drawn.spectrum,
        )
