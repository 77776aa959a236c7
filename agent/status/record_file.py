"""status.jsonl of a campaign folder: what an agent publishes, message by message, for a dashboard without a broker.

Its lines are `{"topic": …, "payload": …}` of the contract. The time of its last change is the sign of life.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from importlib.metadata import version
from pathlib import Path
from typing import TextIO

from agent.events import CampaignStarted, Event, FramesReceived, PicturesDrawn, ReconstructionProgress
from agent.status.contract import HEARTBEAT_S
from agent.status.mqtt import PROGRESS_INTERVAL, utc_now
from agent.status.topics import Translator

STATUS = "status.jsonl"
logger = logging.getLogger(__name__)


@asynccontextmanager
async def recording(folder: Path) -> AsyncIterator[StatusRecorder]:
    """A recorder that gives signs of life as long as the block lasts.

    Args:
        folder: of the campaign; need not exist before the campaign starts.
    """
    recorder = StatusRecorder(folder)
    alive = asyncio.create_task(recorder.keep_alive(), name="status file")
    try:
        yield recorder
    finally:
        alive.cancel()
        await asyncio.wait([alive])
        recorder.close()


class StatusRecorder:
    """An observer that writes what it sees. A disk that takes no more ends the recording, never the campaign.

    Args:
        folder: of the campaign.
        clock: seconds, monotonic.
    """

    def __init__(self, folder: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._path = folder / STATUS
        self._clock = clock
        self._translator = Translator(version("ptychopilot"), utc_now)
        self._file: TextIO | None = None
        self._last: dict[type[Event], float] = {}

    def on_event(self, event: Event) -> None:
        """Write the letters of `event`; of progress two a second at most. Pictures are in files of their own."""
        if isinstance(event, PicturesDrawn):
            return
        if isinstance(event, FramesReceived | ReconstructionProgress):
            now, complete = self._clock(), isinstance(event, FramesReceived) and event.received == event.total
            if not complete and now - self._last.get(type(event), float("-inf")) < PROGRESS_INTERVAL:
                return
            self._last[type(event)] = now
        if self._file is None:
            if not isinstance(event, CampaignStarted):
                return
            self._file = self._path.open("a", encoding="utf-8")
        for letter in self._translator.letters(event):
            if letter.topic.startswith("image/"):
                continue
            payload = letter.payload if isinstance(letter.payload, str) else ""
            line = {"topic": letter.topic, "payload": json.loads(payload) if payload else None}
            self._file.write(json.dumps(line, ensure_ascii=False, separators=(",", ":")) + "\n")
        self._file.flush()

    async def keep_alive(self) -> None:
        """Touch the file again and again."""
        while True:
            if self._file is not None:
                try:
                    os.utime(self._path)
                except OSError as error:
                    logger.warning("%s gives no sign of life any more: %s", self._path, error.strerror)
                    return
            await asyncio.sleep(HEARTBEAT_S)

    def close(self) -> None:
        """Nothing more will come."""
        if self._file is not None:
            self._file.close()
            self._file = None
