"""What the page knows of a facility's queue: from its folder, or as a broker tells of it."""

from __future__ import annotations

import logging
import sqlite3
from pathlib import Path
from typing import Protocol

from pydantic import ValidationError

from agent.errors import BadInputError
from agent.facility.queue import Queue
from agent.facility.status import job_messages, queue_message
from agent.status.contract import JobMessage, QueueMessage

logger = logging.getLogger(__name__)


class QueueView(Protocol):
    """What is known of a queue."""

    def look(self) -> tuple[QueueMessage | None, list[JobMessage]]:
        """The queue and its jobs; None where nobody has told of one."""
        ...


class FolderQueue:
    """The queue in a facility's folder. Opened for each look: it is small, and nobody is kept from it.

    Args:
        folder: of the facility.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def look(self) -> tuple[QueueMessage | None, list[JobMessage]]:
        """See QueueView."""
        try:
            with Queue(self._folder) as queue:
                return queue_message(queue), job_messages(queue)
        except (BadInputError, sqlite3.Error) as error:
            logger.info("%s: %s", self._folder, error)
            return None, []


class ToldQueue:
    """The queue as a broker tells of it."""

    def __init__(self) -> None:
        self._queue: QueueMessage | None = None
        self._jobs: dict[int, JobMessage] = {}

    def take(self, leaf: str, payload: bytes) -> None:
        """Take a message.

        Args:
            leaf: of its topic.
            payload: JSON; empty where it is cleared.
        """
        kind, _, number = leaf.partition("/")
        try:
            if kind == "queue" and payload:
                self._queue = QueueMessage.model_validate_json(payload)
            elif kind == "job" and payload:
                self._jobs[int(number)] = JobMessage.model_validate_json(payload)
            elif kind == "job":
                self._jobs.pop(int(number), None)
        except (ValidationError, ValueError) as error:
            logger.info("%s: %s", leaf, error)

    def look(self) -> tuple[QueueMessage | None, list[JobMessage]]:
        """See QueueView."""
        order = {"running": 0, "cancelling": 0, "held": 1, "interrupted": 2, "queued": 3}
        return self._queue, sorted(self._jobs.values(), key=lambda job: (order.get(job.state, 4), job.turn or 0))
