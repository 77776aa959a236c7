"""The status of a campaign on a real broker: what a dashboard finds there, and that a broker can never hurt a campaign."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import aiomqtt
import pytest
from examples import description, detector

from agent.config import CampaignConfig, Mqtt, parse_config
from agent.errors import BadInputError
from agent.events import (
    BudgetChanged,
    CampaignEnded,
    CampaignStarted,
    FramesReceived,
    PhaseChanged,
    TrialChanged,
)
from agent.records import Score, Settings, Suggestion, Trial
from agent.status.mqtt import MqttPublisher, publishing

if shutil.which("mosquitto") is None and os.environ.get("CI") != "true":
    pytest.skip("needs the broker mosquitto (Debian: apt install mosquitto)", allow_module_level=True)

ROOT = "emagent/1/test/bench_1/ptychopilot"
LIMIT = 20.0


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def _mosquitto(port: int, folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    configuration = folder / f"mosquitto-{port}.conf"
    configuration.write_text(f"listener {port} 127.0.0.1\nallow_anonymous true\npersistence false\n")
    with subprocess.Popen(["mosquitto", "-c", str(configuration)], stderr=subprocess.DEVNULL) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.fixture
def port(tmp_path: Path) -> Iterator[int]:
    number = _free_port()
    with _mosquitto(number, tmp_path):
        yield number


class Dashboard:
    """Sees all of an agent's topics, as any MQTT client would."""

    def __init__(self, client: aiomqtt.Client) -> None:
        self._client = client
        self.seen: list[tuple[str, str, bool]] = []

    async def until(self, enough: Callable[[str, str], bool]) -> str:
        """Read until a (leaf, payload) is enough; return that payload."""
        async with asyncio.timeout(LIMIT):
            async for message in self._client.messages:
                leaf = message.topic.value.removeprefix(f"{ROOT}/")
                payload = bytes(message.payload).decode()
                self.seen.append((leaf, payload, message.retain))
                if enough(leaf, payload):
                    return payload
        raise AssertionError

    async def next(self, leaf: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(await self.until(lambda seen, _: seen == leaf))
        return found


@asynccontextmanager
async def _dashboard(port: int) -> AsyncIterator[Dashboard]:
    client = await _connected(port)
    try:
        await client.subscribe("emagent/1/#", qos=1)
        yield Dashboard(client)
    finally:
        await client.__aexit__(None, None, None)


async def _connected(port: int) -> aiomqtt.Client:
    """A client, once the broker has opened its port."""
    async with asyncio.timeout(LIMIT):
        while True:
            client = aiomqtt.Client("127.0.0.1", port)
            try:
                return await client.__aenter__()
            except aiomqtt.MqttError:
                await asyncio.sleep(0.02)


def _config() -> CampaignConfig:
    raw = {
        "name": "c",
        "electrons": 1e6,
        "area": {"height": 9, "width": 9},
        "exploration": {"height": 9, "width": 9},
        "metadata": {"sample": "paper"},
    }
    return parse_config(raw, "test")


def _started() -> CampaignStarted:
    bench = description(name="bench 1", beam_current=20.0, detector=detector(64, 1.0, dtype="uint8", saturation=255))
    return CampaignStarted(campaign="c-1", folder="/tmp/c", config=_config(), description=bench, trials_planned=10)


def _trial(number: int, state: Any, score: float | None = None) -> TrialChanged:
    suggestion = Suggestion(
        settings=Settings(step=0.8, defocus=300.0, dose=1e3), source="sobol", reason="to begin with"
    )
    result = None if score is None else Score(value=score, sd=0.1, resolution=1.2)
    return TrialChanged(
        trial=Trial(number=number, role="exploration", state=state, suggestion=suggestion, score=result)
    )


def _broker(port: int) -> Mqtt:
    return Mqtt(host="127.0.0.1", port=port, site="test")


async def test_a_dashboard_that_comes_late_finds_the_present_state(port: int) -> None:
    await (await _connected(port)).__aexit__(None, None, None)
    async with publishing(_broker(port)) as publisher:
        for event in (
            _started(),
            PhaseChanged(phase="acquiring", trial=2, role="exploration"),
            BudgetChanged(spent=2.5e5, budget=1e6),
            _trial(1, "done", score=2.0),
            _trial(2, "done", score=1.5),
            _trial(3, "suggested"),
        ):
            publisher.on_event(event)
        async with _dashboard(port) as first:
            await first.until(lambda leaf, payload: leaf == "event" and '"trial": 2' in payload)
        async with _dashboard(port) as late:
            found: dict[str, Any] = {}
            wanted = {"availability", "session", "state", "beam", "dose", "best", "suggestion"}
            await late.until(lambda leaf, _: wanted <= {seen for seen, _, _ in late.seen})
            assert all(retained for _, _, retained in late.seen)
            found = {leaf: payload for leaf, payload, _ in late.seen}
            assert found.pop("availability") == "online"
            values = {leaf: json.loads(payload) for leaf, payload in found.items()}
    assert values["state"]["phase"] == "acquiring"
    assert values["state"]["trial"] == 2
    assert values["state"]["n_trials"] == 10
    assert values["beam"] | {"blanked": False, "current_pa": 20.0, "ht_kv": 80.0} == values["beam"]
    assert values["dose"] | {"spent": 2.5e5, "remaining": 7.5e5, "unit": "e"} == values["dose"]
    assert (values["best"]["trial"], values["best"]["score"], values["best"]["step_a"]) == (1, 2.0, 0.8)
    assert values["suggestion"]["reason"] == "to begin with"
    assert values["session"]["sample"] == "paper"
    for fields in values.values():
        assert all(value is None or isinstance(value, str | int | float) for value in fields.values())
        assert {"ts", "seq"} <= fields.keys()


async def test_the_end_is_said_and_the_suggestion_cleared(port: int) -> None:
    async with _dashboard(port) as dashboard:
        async with publishing(_broker(port)) as publisher:
            publisher.on_event(_started())
            publisher.on_event(_trial(1, "suggested"))
            await dashboard.next("suggestion")
            publisher.on_event(CampaignEnded(state="stopped", reason="by the operator", electrons_spent=1.0))
        await dashboard.until(lambda leaf, payload: leaf == "availability" and payload == "offline")
    events = [json.loads(payload) for leaf, payload, _ in dashboard.seen if leaf == "event"]
    assert events[-1] | {"severity": "warning", "code": "STOPPED", "text": "by the operator"} == events[-1]
    async with _dashboard(port) as late:
        await late.until(lambda leaf, _: leaf == "state")
        await late.until(lambda leaf, _: {"state", "availability"} <= {seen for seen, _, _ in late.seen})
        assert "suggestion" not in {leaf for leaf, _, _ in late.seen}


async def test_an_agent_that_is_cancelled_says_offline(port: int) -> None:
    publisher = MqttPublisher(_broker(port))
    publisher.on_event(_started())
    async with _dashboard(port) as dashboard:
        delivery = asyncio.ensure_future(publisher.deliver())
        await dashboard.until(lambda leaf, payload: leaf == "availability" and payload == "online")
        delivery.cancel()
        await asyncio.gather(delivery, return_exceptions=True)
        await dashboard.until(lambda leaf, payload: leaf == "availability" and payload == "offline")


AGENT = """
import asyncio, sys
from agent.config import Mqtt
from agent.events import CampaignStarted
from agent.status.mqtt import MqttPublisher
async def main():
    publisher = MqttPublisher(Mqtt(host="127.0.0.1", port=int(sys.argv[1]), site="test"))
    publisher.on_event(CampaignStarted.model_validate_json(sys.argv[2]))
    await publisher.deliver()
asyncio.run(main())
"""


async def test_of_an_agent_that_is_killed_the_broker_says_offline(port: int) -> None:
    async with _dashboard(port) as dashboard:
        arguments = ["-c", AGENT, str(port), _started().model_dump_json()]
        agent = await asyncio.create_subprocess_exec(sys.executable, *arguments)
        try:
            await dashboard.until(lambda leaf, payload: leaf == "availability" and payload == "online")
        finally:
            agent.kill()
            await agent.wait()
        await dashboard.until(lambda leaf, payload: leaf == "availability" and payload == "offline")


async def test_a_stale_will_is_contradicted(port: int) -> None:
    """A broker may publish the last will of an earlier connection after the new one is online."""
    async with publishing(_broker(port)) as publisher, _dashboard(port) as dashboard:
        publisher.on_event(_started())
        await dashboard.until(lambda leaf, payload: leaf == "availability" and payload == "online")
        ghost = await _connected(port)
        await ghost.publish(f"{ROOT}/availability", "offline", qos=1, retain=True)
        await ghost.__aexit__(None, None, None)
        await dashboard.until(lambda leaf, payload: leaf == "availability" and payload == "offline")
        await dashboard.until(lambda leaf, payload: leaf == "availability" and payload == "online")


async def test_a_broker_that_comes_back_gets_everything_again(tmp_path: Path) -> None:
    number = _free_port()
    publisher = MqttPublisher(_broker(number), first_retry=0.05, last_retry=0.1)
    publisher.on_event(_started())
    delivery = asyncio.ensure_future(publisher.deliver())
    try:
        # Nobody is there yet: posting goes on regardless, and progress does not pile up.
        for received in range(1000):
            publisher.on_event(FramesReceived(trial=1, received=received, total=1000))
        with _mosquitto(number, tmp_path):
            async with _dashboard(number) as dashboard:
                await dashboard.next("session")
                publisher.on_event(BudgetChanged(spent=1.0, budget=2.0))
                await dashboard.next("dose")
                acquisitions = [leaf for leaf, _, _ in dashboard.seen if leaf == "acquisition"]
                assert len(acquisitions) < 10
        publisher.on_event(BudgetChanged(spent=1.5, budget=2.0))
        with _mosquitto(number, tmp_path):
            async with _dashboard(number) as dashboard:
                wanted = {"availability", "session", "state", "dose"}
                await dashboard.until(lambda leaf, _: wanted <= {seen for seen, _, _ in dashboard.seen})
                doses = [json.loads(payload)["spent"] for leaf, payload, _ in dashboard.seen if leaf == "dose"]
                assert doses[-1] == 1.5
                publisher.close()
                await asyncio.wait_for(delivery, LIMIT)
    finally:
        delivery.cancel()
        await asyncio.gather(delivery, return_exceptions=True)


async def test_without_a_broker_a_campaign_ends_at_once() -> None:
    loop = asyncio.get_running_loop()
    began = loop.time()
    async with publishing(Mqtt(host="127.0.0.1", port=_free_port())) as publisher:
        publisher.on_event(_started())
        publisher.on_event(CampaignEnded(state="done"))
    assert loop.time() - began < 1.0


async def test_an_error_of_the_campaign_comes_through_unchanged(port: int) -> None:
    async def campaign() -> None:
        async with publishing(_broker(port)) as publisher:
            publisher.on_event(_started())
            raise BadInputError("too small")

    with pytest.raises(BadInputError, match="too small"):
        await campaign()


def test_a_password_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="password_file"):
        MqttPublisher(Mqtt(host="h", password_file=tmp_path / "secret"))
