"""Where the page's messages come from: campaign folders, or a broker. Reading disturbs nobody.

A folder's `status.jsonl` holds the messages; one that was made before there was such a file is told from its journal.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import aiomqtt

from agent.campaign.planning import acquisitions_planned
from agent.config import Mqtt
from agent.dashboard.queue_view import FolderQueue, QueueView, ToldQueue
from agent.dashboard.rows import Row, row_of_record, row_of_view
from agent.dashboard.view import View
from agent.errors import BadInputError
from agent.events import BudgetChanged, CampaignEnded, CampaignStarted, Event, ModelChanged, Recommended, TrialChanged
from agent.facility.queue import CAMPAIGNS, QUEUE
from agent.records import CampaignRecord
from agent.status.broker import connected, heed_cancellation, read_password
from agent.status.commands import new_command
from agent.status.contract import FACILITY_AGENT, MAJOR_VERSION, Reply
from agent.status.local import send
from agent.status.record_file import STATUS
from agent.status.topics import Translator
from agent.storage.journal import JOURNAL, load_campaign

logger = logging.getLogger(__name__)
POLL_S = 0.2
"""s between two looks at a folder's file."""
RESCAN_S = 5.0
"""s between two looks for new folders."""
REPLY_TIMEOUT = 5.0
RETRY_S = 2.0
AGENTS_KEPT = 64
CHUNK = 1 << 18
"""Bytes of a file that are taken note of at once: some hundredths of a second, in which no page is served."""
Told = tuple[str, bytes]
"""Topic below the root and payload."""


class Source(Protocol):
    """Keeps views up to date as long as `run` runs."""

    views: dict[str, View]

    @property
    def queue(self) -> QueueView | None:
        """Of the facility, where it has one."""
        ...

    async def want(self, view: View) -> None:
        """Somebody looks at a view: bring it up to date, and keep it so from now on."""
        ...

    async def run(self) -> None:
        """Until cancelled."""
        ...

    async def command(self, view: View, verb: str, by: str, **fields: object) -> Reply:
        """Give a command and wait for its answer. Raises BadInputError where none comes."""
        ...

    def picture_file(self, view: View, trial: int) -> Path | None:
        """The reconstruction file of a trial, where it is within reach."""
        ...

    def rows(self) -> list[Row]:
        """All that there are, for the list. May take a while: call it in a thread."""
        ...


class FolderSource:
    """Campaign folders: one, and the others beside it; or all below a folder.

    Files are read in threads; views are changed where pages read them, in the event loop.

    Args:
        folder: a campaign folder, or one that holds some.
        clock: seconds, monotonic.

    Raises:
        BadInputError: there is no such folder, or no campaign in it.
    """

    def __init__(self, folder: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self.views: dict[str, View] = {}
        self.queue: FolderQueue | None = FolderQueue(folder) if (folder / QUEUE).is_file() else None
        self._clock = clock
        self._folder = (folder if self.queue is None else folder / CAMPAIGNS).absolute()
        self._readers: dict[str, FolderReader] = {}
        self._rescanned = float("-inf")
        self._wanted: set[str] = set()
        self._reading = asyncio.Lock()
        self._first: str | None = None
        if not self._folder.is_dir():
            msg = f"{folder}: there is no such folder; name a campaign's folder, or the one that holds them"
            raise BadInputError(msg)
        self._find_folders()

    async def want(self, view: View) -> None:
        """See Source. Old campaigns may be many and long: what nobody looks at is not read."""
        if view.key not in self._wanted:
            self._wanted.add(view.key)
            await self._catch_up(view.key)

    def read(self, view: View) -> None:
        """Bring a view up to date here and now, for a program without pages."""
        self._readers[view.key].read(view, self._clock())

    @property
    def first(self) -> str | None:
        """Key of the campaign that was named."""
        return self._first

    async def run(self) -> None:
        """Until cancelled: follow what is written."""
        while True:
            await asyncio.sleep(POLL_S)
            now = self._clock()
            if now - self._rescanned > RESCAN_S or not self.views:
                self._rescanned = now
                await asyncio.to_thread(self._find_folders)
            for key in tuple(self._wanted):
                await self._catch_up(key)

    async def _catch_up(self, key: str) -> None:
        async with self._reading:
            more = True
            while more:
                told = await asyncio.to_thread(self._fetched, key)
                self._readers[key].hand(self.views[key], told, self._clock())
                more = bool(told)

    def _fetched(self, key: str) -> list[Told]:
        reader = self._readers[key]
        try:
            return reader.fetch()
        except (OSError, BadInputError) as error:
            logger.info("%s: %s", reader.folder, error)
            return []

    async def command(self, view: View, verb: str, by: str, **fields: object) -> Reply:
        """See Source. Through the loopback socket of the agent that runs the campaign."""
        return await send(self._readers[view.key].folder, verb, new_command(by, **fields))

    def picture_file(self, view: View, trial: int) -> Path | None:
        """See Source."""
        message = view.trials.get(trial)
        if message is None or message.picture_file is None:
            return None
        folder = self._readers[view.key].folder
        path = (folder / message.picture_file).resolve()
        return path if path.is_relative_to(folder.resolve()) and path.is_file() else None

    def rows(self) -> list[Row]:
        """See Source. From the journals, since most folders are not being read; one that cannot be read is left out."""
        self._find_folders()
        found = []
        for key, reader in tuple(self._readers.items()):
            try:
                found.append(row_of_record(key, load_campaign(reader.folder)))
            except (OSError, BadInputError) as error:
                logger.info("%s: %s", reader.folder, error)
        return found

    def folder(self, view: View) -> Path:
        """Of a campaign."""
        return self._readers[view.key].folder

    def _find_folders(self) -> None:
        if (self._folder / JOURNAL).is_file():  # a campaign may begin after the page
            self._first = self._folder.name
        around = self._folder.parent if self._first is not None else self._folder
        found = [path.parent for path in around.glob(f"*/{JOURNAL}")]
        if self._first is not None and self._folder not in found:
            found.append(self._folder)
        for folder in found:
            if folder.name not in self.views:
                self.views[folder.name] = View(folder.name)
                self._readers[folder.name] = FolderReader(folder)


class FolderReader:
    """Follows one campaign's folder.

    Args:
        folder: of the campaign.

    Attributes:
        changed: when its agent last gave a sign of life, s since 1970; None: it never has.
        garbled: lines that could not be read and of which no view knows yet.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.changed: float | None = None
        self.garbled = 0
        self._position = 0
        self._told = False
        self._rest = b""

    def read(self, view: View, now: float) -> None:
        """Hand all that is new to a view, here and now.

        Args:
            view: of the campaign.
            now: monotonic time, s.
        """
        told = self.fetch()
        while told:
            self.hand(view, told, now)
            told = self.fetch()
        self.hand(view, [], now)

    def hand(self, view: View, told: list[Told], now: float) -> None:
        """Hand to a view what was fetched.

        Args:
            view: of the campaign.
            told: as `fetch` returned it.
            now: monotonic time, s.
        """
        for topic, payload in told:
            view.take(topic, payload, now)
        view.garbled += self.garbled
        self.garbled = 0
        if self.changed is not None:
            view.heard = now - max(time.time() - self.changed, 0.0)

    def fetch(self) -> list[Told]:
        """The next part of what is new; empty: there is no more."""
        path = self.folder / STATUS
        if not path.exists():
            if self._told:
                return []
            self._told = True
            return told_by_journal(load_campaign(self.folder))
        found: list[Told] = []
        status = path.stat()
        with path.open("rb") as file:
            file.seek(self._position)
            while not found and (text := file.read(CHUNK)):
                self._position += len(text)
                *lines, self._rest = (self._rest + text).split(b"\n")
                found += [each for line in lines for each in self._told_by(line)]
        self.changed = status.st_mtime
        return found

    def _told_by(self, line: bytes) -> list[Told]:
        try:
            told = json.loads(line)
            payload = b"" if told["payload"] is None else json.dumps(told["payload"]).encode()
            live = self._live(told["payload"]) if told["topic"] == "live" and told["payload"] is not None else []
            return [*live, (str(told["topic"]), payload)]
        except (ValueError, KeyError, TypeError):
            self.garbled += 1
            return []

    def _live(self, told: dict[str, str]) -> list[Told]:
        """The pictures of a running scan are files; those of one that is over are gone."""
        found = []
        for name in ("phase", "spectrum"):
            path = (self.folder / told[f"{name}_file"]).resolve()
            if path.is_relative_to(self.folder.resolve()):
                found.append((f"image/live-{name}", path.read_bytes() if path.is_file() else b""))
        return found


def told_by_journal(record: CampaignRecord) -> list[Told]:
    """The messages that a campaign would have sent, from what its journal holds.

    Args:
        record: of the campaign.

    Returns:
        (topic, payload) in order.
    """
    events: list[Event] = [
        CampaignStarted(
            campaign=record.config.name,
            folder=record.folder,
            config=record.config,
            description=record.description,
            trials_planned=acquisitions_planned(record.config),
        )
    ]
    events += [TrialChanged(trial=trial) for trial in record.trials]
    events.append(BudgetChanged(spent=record.electrons_spent, budget=record.config.electrons))
    if record.model_view is not None:
        events.append(ModelChanged(view=record.model_view))
    if record.recommended is not None:
        events.append(Recommended(recommendation=record.recommended))
    if record.state != "running":
        ended = CampaignEnded(state=record.state, reason=record.reason, electrons_spent=record.electrons_spent)
        events.append(ended)
    translator = Translator("", lambda: "")  # when things happened is in the log
    letters = [letter for event in events for letter in translator.letters(event)]
    return [(each.topic, each.payload.encode() if isinstance(each.payload, str) else each.payload) for each in letters]


class BrokerSource:
    """All agents on a broker.

    Args:
        broker: where and as whom.
        patience: s to wait for the answer to a command.
        retry: s between attempts to connect.
        clock: seconds, monotonic.

    Attributes:
        connected: whether the broker is there now.
    """

    def __init__(
        self,
        broker: Mqtt,
        *,
        patience: float = REPLY_TIMEOUT,
        retry: float = RETRY_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._patience, self._retry = patience, retry
        self.views: dict[str, View] = {}
        self.queue = ToldQueue()
        self.connected = False
        self._broker = broker
        self._password = read_password(broker)
        self._clock = clock
        self._client: aiomqtt.Client | None = None

    async def run(self) -> None:
        """Until cancelled: listen, and connect again where the broker was away."""
        while True:
            try:
                async with connected(self._broker, self._password) as client:
                    await client.subscribe(f"emagent/{MAJOR_VERSION}/+/+/+/#", qos=1)
                    heed_cancellation()
                    self.connected, self._client = True, client
                    async for message in client.messages:
                        self._take(message.topic.value, bytes(message.payload or b""), retained=message.retain)
            except (aiomqtt.MqttError, TimeoutError) as error:
                logger.info("broker %s:%d: %s", self._broker.host, self._broker.port, error)
            finally:
                self.connected, self._client = False, None
            heed_cancellation()
            await asyncio.sleep(self._retry)

    async def command(self, view: View, verb: str, by: str, **fields: object) -> Reply:
        """See Source. Published once, never retained."""
        command = new_command(by, **fields)
        if self._client is None:
            raise BadInputError("the broker is away, so is the way to the agent; use the microscope's own controls")
        try:
            await self._client.publish(f"{view.key}/command/{verb}", command.model_dump_json(), qos=1, retain=False)
        except aiomqtt.MqttError as error:
            raise BadInputError(f"the broker did not take the command: {error}") from error
        give_up = self._clock() + self._patience
        while command.id not in view.replies:
            if self._clock() > give_up:
                msg = f"no answer from the agent for {self._patience:g} s; the broker may not let this user command"
                raise BadInputError(msg)
            await asyncio.sleep(0.05)
        return view.replies.pop(command.id)

    async def want(self, view: View) -> None:
        """See Source: the broker sends everything."""

    def picture_file(self, view: View, trial: int) -> Path | None:
        """See Source: none, files are on another machine."""
        return None

    def rows(self) -> list[Row]:
        """See Source."""
        return [row_of_view(view) for view in tuple(self.views.values())]

    def _take(self, topic: str, payload: bytes, *, retained: bool) -> None:
        parts = topic.split("/")
        root, leaf = "/".join(parts[:5]), "/".join(parts[5:])
        if parts[4] == FACILITY_AGENT:
            self.queue.take(leaf, payload)
            return
        if root not in self.views:
            if len(self.views) >= AGENTS_KEPT:
                return
            self.views[root] = View(root)
        view = self.views[root]
        before = view.heard
        view.take(leaf, payload, self._clock())
        if retained and leaf != "availability":
            # What a broker has kept says nothing of whether its sender lives.
            view.heard = before
