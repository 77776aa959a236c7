"""A real Mosquitto with passwords and the access rules of deploy/, and an agent that publishes on it."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import pytest
from examples import description

from agent.config import Mqtt, parse_config
from agent.events import CampaignStarted
from agent.status.commands import CommandDesk
from agent.status.contract import Command
from agent.status.mqtt import MqttPublisher

if shutil.which("mosquitto") is None and os.environ.get("CI") != "true":
    pytest.skip("needs the broker mosquitto (Debian: apt install mosquitto)", allow_module_level=True)

RULES = Path(__file__).parents[2] / "deploy" / "mosquitto" / "acl"
ROOT = "emagent/1/test/test_column/ptychopilot"
USERS = ("agent", "viewer", "operator")
LIMIT = 20.0


class Broker:
    """Mosquitto with our access rules, which can be ended and begun again."""

    def __init__(self, folder: Path, *, websockets: bool = False) -> None:
        with socket.socket() as probe, socket.socket() as other:
            for each in (probe, other):
                each.bind(("127.0.0.1", 0))
            self.port, self.websocket_port = (int(each.getsockname()[1]) for each in (probe, other))
        self._folder = folder
        passwords = folder / "passwords"
        passwords.touch(mode=0o600)
        for user in USERS:
            subprocess.run(["mosquitto_passwd", "-b", str(passwords), user, f"{user}-password"], check=True)
            (folder / user).write_text(f"{user}-password\n")
        self._configuration = folder / "mosquitto.conf"
        self._configuration.write_text(
            f"listener {self.port} 127.0.0.1\nallow_anonymous false\npassword_file {passwords}\nacl_file {RULES}\n"
            "persistence false\nuser root\n"
            + (f"listener {self.websocket_port} 127.0.0.1\nprotocol websockets\n" if websockets else "")
        )

    @contextmanager
    def running(self) -> Iterator[None]:
        with subprocess.Popen(["mosquitto", "-c", str(self._configuration)], stderr=subprocess.DEVNULL) as process:
            try:
                yield
            finally:
                process.kill()

    def as_user(self, user: str) -> Mqtt:
        return Mqtt(host="127.0.0.1", port=self.port, site="test", username=user, password_file=self._folder / user)


@asynccontextmanager
async def agent(broker: Broker, campaign: str, verbs: list[str]) -> AsyncIterator[MqttPublisher]:
    async def act(verb: str, command: Command, way: str) -> str:
        verbs.append(verb)
        return f"{verb} done"

    publisher = MqttPublisher(
        broker.as_user("agent"), CommandDesk(act), heartbeat=0.1, first_retry=0.05, last_retry=0.05
    )
    raw = {
        "name": campaign,
        "electrons": 1e6,
        "area": {"height": 9, "width": 9},
        "exploration": {"height": 9, "width": 9},
    }
    config = parse_config(raw, "test")
    publisher.on_event(
        CampaignStarted(campaign=campaign, folder="/c", config=config, description=description(), trials_planned=9)
    )
    work = asyncio.create_task(publisher.deliver())
    try:
        yield publisher
    finally:
        work.cancel()
        await asyncio.wait([work])
