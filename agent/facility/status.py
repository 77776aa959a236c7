"""The queue as the status contract tells it: to a broker, and to the dashboard beside its folder."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from agent.config import Mqtt
from agent.facility.jobs import OPEN, JobState
from agent.facility.queue import CAMPAIGNS, Queue
from agent.processing.pool import Workers
from agent.status.contract import FACILITY_AGENT, JobMessage, Message, QueueMessage, topic_root
from agent.status.leaves import leaf_of
from agent.status.mqtt import publishing, utc_now
from agent.status.outbox import Letter

POLL_S = 0.5
ENDED_KEPT = 50
"""Jobs that have ended and are still told of."""


def job_messages(queue: Queue, ended_kept: int | None = ENDED_KEPT) -> list[JobMessage]:
    """The jobs that are open, in the order of their turns, and the last ones that have ended.

    Args:
        queue: of the facility.
        ended_kept: how many of the last ones; None: all.
    """
    jobs = queue.jobs()
    ended = sorted((job for job in jobs if job.state not in OPEN), key=lambda job: job.finished)
    ended = ended[-ended_kept:] if ended_kept else ended if ended_kept is None else []
    turns: Counter[str] = Counter()
    found = []
    for job in [*(job for job in jobs if job.state in OPEN), *reversed(ended)]:
        if job.state is JobState.QUEUED:
            turns[job.instrument] += 1
        shown = {name: getattr(job, name) for name in JobMessage.model_fields if hasattr(job, name)}
        told = {
            "state": str(job.state),
            "turn": turns[job.instrument] if job.state is JobState.QUEUED else None,
            "campaign": job.name,
            "folder": f"{CAMPAIGNS}/{job.folder}" if job.folder else "",
            "ts": utc_now(),
            "seq": 1,
        }
        found.append(JobMessage.model_validate(shown | told))
    return found


def queue_message(queue: Queue, workers: Workers | None = None) -> QueueMessage:
    """How many jobs are in which state, and what the reconstruction pool does.

    Args:
        queue: of the facility.
        workers: of its pool, where that is known.
    """
    counts = Counter(job.state for job in queue.jobs())
    counts[JobState.RUNNING] += counts[JobState.CANCELLING]
    states = {name: counts[JobState(name)] for name in JobState if name in QueueMessage.model_fields}
    return QueueMessage.model_validate(
        {
            **states,
            "instruments": len(queue.instruments()),
            "workers": workers and workers.count,
            "workers_busy": workers and workers.busy,
            "reconstructions_waiting": workers and workers.waiting,
            "ts": utc_now(),
            "seq": 1,
        }
    )


@asynccontextmanager
async def publishing_queue(broker: Mqtt | None, queue: Queue, workers: Workers) -> AsyncIterator[None]:
    """Publish the queue while the block lasts; campaigns never wait for it.

    Args:
        broker: where; None: nowhere.
        queue: of the facility, whose folder gives it its name.
        workers: of its pool.
    """
    if broker is None:
        yield
        return
    sequence = 0
    told: dict[str, Message] = {}

    def letter(topic: str, message: Message) -> Letter:
        nonlocal sequence
        sequence += 1
        leaf = leaf_of(topic)
        assert leaf is not None
        text = json.dumps(message.model_dump(mode="json") | {"seq": sequence}, ensure_ascii=False)
        return Letter(topic, text, leaf.qos, leaf.retain)

    async with publishing(broker) as publisher:
        root = topic_root(broker.site, queue.folder.name, FACILITY_AGENT)
        publisher.begin(root, lambda: letter("queue", queue_message(queue, workers)))

        async def follow() -> None:
            while True:
                now: dict[str, Message] = {"queue": queue_message(queue, workers)}
                now |= {f"job/{message.number}": message for message in job_messages(queue)}
                for topic, message in now.items():
                    if topic not in told or not _same(told[topic], message):
                        publisher.post(letter(topic, message))
                for topic in told.keys() - now.keys():
                    publisher.post(Letter(topic, "", 1, True))
                told.clear()
                told.update(now)
                await asyncio.sleep(POLL_S)

        following = asyncio.create_task(follow(), name="queue status")
        try:
            yield
        finally:
            following.cancel()
            await asyncio.wait([following])


def _same(one: Message, other: Message) -> bool:
    return one.model_dump(exclude={"ts", "seq"}) == other.model_dump(exclude={"ts", "seq"})
