"""A broker that accepts connections and then says nothing, or too little: the campaign ends all the same, with its report."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiomqtt
import pytest
from examples import description

from agent.cli import campaigns
from agent.config import Mqtt, parse_config
from agent.errors import StoppedError
from agent.events import CampaignEnded, CampaignStarted
from agent.status.mqtt import MqttPublisher, publishing

CONNACK = bytes([0x20, 2, 0, 0])
SUBACK_ONE = bytes([0x90, 3, 0, 1, 1])

CONFIG = parse_config(
    {
        "name": "c",
        "electrons": 1e6,
        "area": {"height": 9, "width": 9},
        "exploration": {"height": 9, "width": 9},
        "metadata": {"sample": "paper"},
    },
    "test",
)


class Silent:
    """Answers the first packets of a connection with these bytes, and nothing more. Never closes."""

    def __init__(self, *answers: bytes) -> None:
        self.answers = answers
        self.connections = 0
        self.answered = asyncio.Event()

    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        with contextlib.suppress(ConnectionError, asyncio.CancelledError):
            for answer in self.answers:
                await reader.read(4096)
                writer.write(answer)
            self.answered.set()
            while await reader.read(4096):
                pass
        writer.close()


@asynccontextmanager
async def silent(*answers: bytes) -> AsyncIterator[tuple[Silent, Mqtt]]:
    broker = Silent(*answers)
    server = await asyncio.start_server(broker.talk, "127.0.0.1", 0)
    try:
        yield broker, Mqtt(host="127.0.0.1", port=server.sockets[0].getsockname()[1], site="test")
    finally:
        server.close()
        await asyncio.sleep(0.1)  # the ends of the connections


def started(folder: str = "/tmp/c") -> CampaignStarted:
    return CampaignStarted(campaign="c-1", folder=folder, config=CONFIG, description=description(), trials_planned=10)


@pytest.mark.parametrize("answers", [(), (CONNACK,), (CONNACK, SUBACK_ONE)])
async def test_a_broker_that_hangs_does_not_keep_the_agent_from_ending(answers: tuple[bytes, ...]):
    async with silent(*answers) as (broker, where):
        async with publishing(where) as publisher:
            publisher.on_event(started())
            await asyncio.wait_for(broker.answered.wait(), 20)
            await asyncio.sleep(0.2)
            publisher.on_event(CampaignEnded(state="done"))
            began = time.monotonic()
        assert time.monotonic() - began < 10.0
        assert broker.connections == 1


async def test_a_broker_that_hangs_is_given_up_and_tried_again(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("agent.status.broker.BROKER_TIMEOUT", 0.2)
    async with silent() as (broker, where), publishing(where) as publisher:
        publisher.on_event(started())
        async with asyncio.timeout(20):
            while broker.connections < 2:
                await asyncio.sleep(0.05)


@pytest.mark.parametrize("stopped", [False, True])
def test_the_report_is_written_before_the_broker_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stopped: bool
):
    said: dict[str, float] = {}

    def conclude(*_: Any) -> Path:
        said["report"] = time.monotonic()
        return tmp_path / "report.html"

    monkeypatch.setattr(campaigns, "_conclude", conclude)
    monkeypatch.setattr(campaigns, "_has_ended", lambda folder: True)

    async def start(observers: list[Any], **_: Any) -> Any:
        async with asyncio.timeout(20):
            for observer in observers:
                observer.on_event(started(str(tmp_path)))
            await brokers[0].answered.wait()
        said["end"] = time.monotonic()
        if stopped:
            raise StoppedError("by the operator")

    brokers: list[Silent] = []

    async def watched() -> None:
        async with silent(CONNACK, SUBACK_ONE) as (broker, where):
            brokers.append(broker)
            config = CONFIG.model_copy(update={"mqtt": where})
            try:
                await campaigns._watched(start, config, tmp_path, None, campaigns.Watched())
            except StoppedError:
                assert stopped

    asyncio.run(watched())
    assert said["report"] - said["end"] < 1.0
    assert time.monotonic() - said["end"] < 15.0


class Losing:
    """A client with one message, a retained one of an earlier session; its `publish` loses a cancellation, as one that came
    together with the broker's answer is lost."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()

    @property
    async def messages(self) -> AsyncIterator[aiomqtt.Message]:
        yield aiomqtt.Message("root/old", b"{}", qos=1, retain=True, mid=1, properties=None)
        await asyncio.Event().wait()

    async def publish(self, *_: object, **__: object) -> None:
        self.asked.set()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()


async def test_a_cancellation_that_came_with_an_answer_ends_the_listening() -> None:
    publisher, client = MqttPublisher(Mqtt(host="127.0.0.1", port=1, site="test")), Losing()
    publisher.root = "root"
    listening = asyncio.create_task(publisher._listen(client))  # type: ignore[arg-type]
    await client.asked.wait()
    listening.cancel()
    await asyncio.wait([listening], timeout=20)
    assert listening.cancelled()
