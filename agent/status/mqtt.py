"""Live status on an MQTT broker. The campaign does not care whether one is there.

The topics are in `agent.status.contract`. `availability` is `online` while the agent lives; the broker publishes
`offline`, our last will, where it dies without a word. A broker may deliver the will of an *earlier* connection after
the new one has said `online`; so the publisher listens to its own `availability` and says `online` again.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from datetime import UTC, datetime
from importlib.metadata import version

import aiomqtt

from agent.config import Mqtt
from agent.events import CampaignStarted, Event, FramesReceived, ReconstructionProgress
from agent.status.broker import connected, heed_cancellation, read_password
from agent.status.commands import CommandDesk
from agent.status.contract import HEARTBEAT_S, topic_root
from agent.status.outbox import Letter, Outbox
from agent.status.topics import Translator

logger = logging.getLogger(__name__)

AVAILABILITY = "availability"
_LEFT_OVER = ("trial/+", "best", "suggestion", "optimizer", "model", "picture", "proposal", "alarm/+", "job/+")
"""Retained topics in which an earlier campaign may have left something."""
PROGRESS_INTERVAL = 0.5
"""s between two progress messages of one kind."""
LAST_MESSAGES_TIMEOUT = 3.0
"""s that the last messages may take when the campaign has ended."""
OFFLINE_TIMEOUT = 1.0
"""s that saying `offline` may take, and as many that the goodbye may take."""


def utc_now() -> str:
    """Time of now, ISO 8601, UTC, to the millisecond."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


@asynccontextmanager
async def publishing(broker: Mqtt, desk: CommandDesk | None = None) -> AsyncIterator[MqttPublisher]:
    """A publisher that lives as long as the block; what is in its outbox at the end is still sent if the broker is there.

    Whatever the broker does, leaving the block takes a few seconds at most.

    Args:
        broker: where and as whom.
        desk: takes commands; None: none are listened to.

    Raises:
        BadInputError: the password file cannot be read.
    """
    publisher = MqttPublisher(broker, desk)
    delivery = asyncio.create_task(publisher.deliver(), name="mqtt")
    try:
        yield publisher
    finally:
        publisher.close()
        if publisher.connected:
            await asyncio.wait([delivery], timeout=LAST_MESSAGES_TIMEOUT)
        delivery.cancel()
        await asyncio.wait([delivery], timeout=LAST_MESSAGES_TIMEOUT)
        if delivery.done() and not delivery.cancelled() and (error := delivery.exception()) is not None:
            logger.warning("status: %s", error)


class MqttPublisher:
    """An observer that publishes what it sees, as long as `deliver` runs.

    Args:
        broker: where and as whom.
        desk: takes commands; None: none are listened to.
        heartbeat: s between two publications of an unchanged state.
        first_retry, last_retry: s between attempts to connect; doubled from one to the other.
        clock: seconds, monotonic.

    Attributes:
        connected: whether the broker is there now.
        root: the topic below which everything is published; empty before the campaign has started.
    """

    def __init__(
        self,
        broker: Mqtt,
        desk: CommandDesk | None = None,
        *,
        heartbeat: float = HEARTBEAT_S,
        first_retry: float = 1.0,
        last_retry: float = 60.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.connected = False
        self.root = ""
        self._broker = broker
        self._desk = desk
        self._password = read_password(broker)
        self._heartbeat = heartbeat
        self._first_retry, self._last_retry = first_retry, last_retry
        self._clock = clock
        self._outbox = Outbox()
        self._translator = Translator(version("ptychopilot"), utc_now)
        self._beat = self._translator.heartbeat
        self._started = asyncio.Event()
        self._last_progress: dict[type[Event], float] = {}

    def on_event(self, event: Event) -> None:
        """Put what `event` changes into the outbox. Never blocks."""
        if isinstance(event, FramesReceived | ReconstructionProgress) and not self._due(event):
            return
        for letter in self._translator.letters(event):
            self.post(letter)
        if isinstance(event, CampaignStarted):
            self.begin(topic_root(self._broker.site, event.description.name), self._translator.heartbeat)

    def begin(self, root: str, beat: Callable[[], Letter]) -> None:
        """Publish from now on.

        Args:
            root: the topic below which everything is.
            beat: makes the sign of life that is sent again and again.
        """
        self.root, self._beat = root, beat
        self._started.set()

    def post(self, letter: Letter) -> None:
        """Put a letter into the outbox. Never blocks."""
        self._outbox.post(letter)

    def close(self) -> None:
        """Nothing more will come; `deliver` returns once the outbox is empty."""
        self._outbox.close()

    async def deliver(self) -> None:
        """Publish until closed. A broker that is away is tried again and again; nothing is raised for its sake."""
        await self._started.wait()
        retry = self._first_retry
        task = asyncio.current_task()
        assert task is not None
        # A broker that does not even answer the goodbye must not turn a cancellation into another attempt.
        while not (self._outbox.closed and not self._outbox) and not task.cancelling():
            try:
                async with self._connected() as client:
                    logger.info("status goes to mqtt://%s:%d/%s", self._broker.host, self._broker.port, self.root)
                    self.connected, retry = True, self._first_retry
                    await self._serve(client)
            except* (aiomqtt.MqttError, TimeoutError) as errors:
                where = f"{self._broker.host}:{self._broker.port}"
                logger.warning("broker %s: %s; next attempt in %g s", where, errors.exceptions[0], retry)
                self.connected = False
                if not task.cancelling():
                    await asyncio.sleep(retry)
                retry = min(2 * retry, self._last_retry)

    async def _serve(self, client: aiomqtt.Client) -> None:
        """Publish until closed. Says `offline` at the end, also when cancelled: the will is for deaths only."""
        heard = [AVAILABILITY, *_LEFT_OVER, *(["command/+"] if self._desk is not None else [])]
        await client.subscribe([(f"{self.root}/{leaf}", 1) for leaf in heard])
        await self._send(client, Letter(AVAILABILITY, "online", qos=1, retain=True))
        self._outbox.post_all_again()
        try:
            async with asyncio.TaskGroup() as group:
                others = [
                    group.create_task(self._listen(client)),
                    group.create_task(self._repeat_heartbeat()),
                ]
                await self._empty_outbox(client)
                for other in others:
                    other.cancel()
        finally:
            client.timeout = OFFLINE_TIMEOUT
            with suppress(aiomqtt.MqttError):
                await self._send(client, Letter(AVAILABILITY, "offline", qos=1, retain=True))

    async def _empty_outbox(self, client: aiomqtt.Client) -> None:
        while (letter := await self._outbox.take()) is not None:
            try:
                await self._send(client, letter)
            except BaseException:
                self._outbox.put_back(letter)
                raise
            heed_cancellation()

    async def _listen(self, client: aiomqtt.Client) -> None:
        """To commands, and to what others say in our name."""
        async for message in client.messages:
            leaf, payload = message.topic.value.removeprefix(f"{self.root}/"), bytes(message.payload or b"")
            if leaf.startswith("command/"):
                if self._desk is not None and payload:
                    reply = await self._desk.handle(leaf.removeprefix("command/"), payload, retained=message.retain)
                    if reply is not None:
                        self._outbox.post(Letter(f"reply/{reply.id}", reply.model_dump_json(), qos=1, retain=False))
            elif leaf == AVAILABILITY:
                if payload != b"online":
                    await self._send(client, Letter(AVAILABILITY, "online", qos=1, retain=True))
            elif message.retain and leaf not in {letter.topic for letter in self._outbox.retained}:
                await self._send(client, Letter(leaf, "", qos=1, retain=True))
            heed_cancellation()

    async def _repeat_heartbeat(self) -> None:
        while True:
            await asyncio.sleep(self._heartbeat)
            self._outbox.post(self._beat())

    async def _send(self, client: aiomqtt.Client, letter: Letter) -> None:
        await client.publish(f"{self.root}/{letter.topic}", letter.payload, qos=letter.qos, retain=letter.retain)

    def _connected(self) -> AbstractAsyncContextManager[aiomqtt.Client]:
        will = aiomqtt.Will(f"{self.root}/{AVAILABILITY}", "offline", qos=1, retain=True)
        return connected(self._broker, self._password, will)

    def _due(self, event: FramesReceived | ReconstructionProgress) -> bool:
        now = self._clock()
        complete = isinstance(event, FramesReceived) and event.received == event.total
        if not complete and now - self._last_progress.get(type(event), float("-inf")) < PROGRESS_INTERVAL:
            return False
        self._last_progress[type(event)] = now
        return True
