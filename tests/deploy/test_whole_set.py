"""A facility's set on one machine: keys by one command, units, broker, Prometheus, page; a campaign; an alert for SAFE."""

from __future__ import annotations

import asyncio
import json
import os
import re
import runpy
import shlex
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlencode
from urllib.request import urlopen

import pytest
import yaml

from agent.status.broker import connected, parse_broker, read_password
from instrument import InstrumentClient
from instrument.backup import copy_ledger

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
PORTS = (5555, 5556, 5557, 8765, 8883, 9001, 9464, 9465)
"""As they stand in the files; each of them becomes a free one."""
LIMIT = 60.0
NAME = "first-light"

if shutil.which("prometheus") is None and os.environ.get("CI") != "true":
    pytest.skip("needs prometheus and mosquitto (Debian packages)", allow_module_level=True)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_for(condition: Callable[[], Any], what: str) -> Any:
    give_up = time.monotonic() + LIMIT
    while time.monotonic() < give_up:
        try:
            if found := condition():
                return found
        except OSError:
            pass
        time.sleep(0.1)
    raise AssertionError(f"not within {LIMIT:g} s: {what}")


class Facility:
    """The files of deploy/ with paths and ports of this machine."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = {known: _free_port() for known in PORTS}
        self.prometheus = f"127.0.0.1:{_free_port()}"
        self.keys = folder / "etc" / "keys"
        self.campaign = folder / "campaigns" / NAME
        self.environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests" / "integration"), str(ROOT / "tests")]),
            "SMALL_WORLD": str(folder / "world"),
            "SMALL_WORLD_INTERVAL": "0.004",
            "PTYCHOPILOT_BEAM_FILE": str(folder / "beam"),
        }
        for each in ("world", "campaigns", "instrument", "page", "run", "prometheus", "mosquitto", "etc/campaigns"):
            (folder / each).mkdir(parents=True)

    def here(self, text: str) -> str:
        """The text of a file of deploy/, for this machine."""
        places = {
            "/opt/ptychopilot/.venv/bin/python": sys.executable,
            "/opt/ptychopilot/.venv/bin/ptychopilot": str(self.folder / "ptychopilot"),
            "/var/lib/ptychopilot-campaigns": str(self.folder / "campaigns"),
            "/var/lib/ptychopilot-dashboard": str(self.folder / "page"),
            "/var/lib/ptychopilot": str(self.folder),
            "/etc/mosquitto/ptychopilot": str(self.folder / "mosquitto"),
            "/etc/ptychopilot": str(self.folder / "etc"),
            "/run/ptychopilot": str(self.folder / "run"),
            "mylab:make": "small_world:make",
            "mylab:blank_beam": "sim_instrument.beam_file:blank",
            "%i": NAME,
        }
        for there, place in places.items():
            text = text.replace(there, place)
        for known, port in self.port.items():
            text = re.sub(rf"(?<!\d){known}(?!\d)", str(port), text)
        return text

    def command(self, unit: str) -> list[str]:
        """What systemd would start."""
        text = (DEPLOY / "systemd" / f"ptychopilot-{unit}.service").read_text(encoding="utf-8").replace("\\\n", " ")
        found = re.search(r"^ExecStart=(.*)$", text, flags=re.MULTILINE)
        assert found is not None
        return shlex.split(self.here(found[1]))

    def make_files(self) -> None:
        """Keys by the one command, and every configuration in its place."""
        wrapper = self.folder / "ptychopilot"
        wrapper.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{Path(__file__).with_name("ptychopilot.py")}" "$@"\n')
        wrapper.chmod(0o755)
        subprocess.run([wrapper, "keys", self.keys, "--host", "broker.example.org"], env=self.environment, check=True)
        for each in ("mosquitto/passwords", "tls/broker.crt", "tls/broker.key"):
            shutil.copy(self.keys / each, self.folder / "mosquitto")
        shutil.copy(DEPLOY / "mosquitto" / "acl", self.folder / "mosquitto")
        broker = self.here((DEPLOY / "mosquitto" / "mosquitto.conf").read_text(encoding="utf-8"))
        (self.folder / "mosquitto.conf").write_text(broker + "user root\n", encoding="utf-8")
        for path in (DEPLOY / "prometheus").iterdir():
            text = self.here(path.read_text(encoding="utf-8")).replace("interval: 5s", "interval: 1s")
            (self.folder / "prometheus" / path.name).write_text(text, encoding="utf-8")
        campaign = yaml.safe_load(self.here((DEPLOY / "campaigns" / "microscope.yaml").read_text(encoding="utf-8")))
        small: dict[str, Any] = {
            "electrons": 4e6,
            "area": {"height": 24, "width": 24},
            "exploration": {"trials": 6, "height": 16, "width": 16, "initial": 6},
            "search": {"step": [0.8, 2.0], "defocus": [50, 150], "dose": [50, 1000]},
            "policy": "random",
            "score": {"field": 12},
            "keys": None,
        }
        (self.folder / "etc" / "campaigns" / f"{NAME}.yaml").write_text(yaml.safe_dump(campaign | small))

    @contextmanager
    def running(self, name: str, command: list[str]) -> Iterator[subprocess.Popen[bytes]]:
        """A process whose output goes to a file."""
        with (self.folder / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(command, cwd=self.folder, env=self.environment, stdout=log, stderr=log)
            try:
                yield process
            finally:
                process.terminate()
                try:
                    process.wait(10)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()

    def said(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text(errors="replace")

    def ask(self, way: str, **words: Any) -> Any:
        """Ask Prometheus."""
        with urlopen(f"http://{self.prometheus}/api/v1/{way}?{urlencode(words)}", timeout=5) as answer:
            return json.load(answer)["data"]

    def value(self, expression: str) -> float:
        found = self.ask("query", query=expression)["result"]
        return float(found[0]["value"][1]) if found else 0.0

    def firing(self) -> set[tuple[str, str]]:
        """Names and jobs of the alerts that go off."""
        alerts = self.ask("alerts")["alerts"]
        return {(a["labels"]["alertname"], a["labels"]["job"]) for a in alerts if a["state"] == "firing"}

    def set_running(self, stack: ExitStack) -> None:
        """Watchdog, server, broker, Prometheus and page; they answer when this returns."""
        stack.enter_context(self.running("watchdog", self.command("watchdog")))
        _wait_for((self.folder / "run" / "watchdog.sock").exists, "the watchdog")
        stack.enter_context(self.running("instrument", self.command("instrument")))
        stack.enter_context(self.running("mosquitto", ["mosquitto", "-c", str(self.folder / "mosquitto.conf")]))
        prometheus = [
            "prometheus",
            f"--config.file={self.folder / 'prometheus' / 'prometheus.yml'}",
            f"--storage.tsdb.path={self.folder / 'tsdb'}",
            f"--web.listen-address={self.prometheus}",
        ]
        stack.enter_context(self.running("prometheus", prometheus))
        stack.enter_context(self.running("dashboard", self.command("dashboard")))
        _wait_for(lambda: "ready" in self.said("instrument"), "the instrument server")
        _wait_for(lambda: self.value('up{job="instrument"}') == 1, "Prometheus sees the server")


@pytest.fixture
def facility(tmp_path: Path) -> Facility:
    found = Facility(tmp_path)
    found.make_files()
    return found


async def _blank(facility: Facility) -> None:
    async with InstrumentClient(f"tcp://127.0.0.1:{facility.port[5555]}", timeout=10) as client:
        await client.blank()


async def _alarm(facility: Facility) -> dict[str, Any]:
    """The alarm SAFE as a viewer sees it, over TLS and WebSocket."""
    broker = parse_broker(
        f"wss://viewer@127.0.0.1:{facility.port[9001]}",
        password_file=facility.keys / "passwords" / "viewer",
        ca_file=facility.keys / "tls" / "ca.crt",
    )
    async with asyncio.timeout(LIMIT), connected(broker, read_password(broker)) as client:
        await client.subscribe("emagent/1/facility/+/+/alarm/SAFE", qos=1)
        async for message in client.messages:
            if message.payload:
                found: dict[str, Any] = json.loads(bytes(message.payload))
                return found
    raise AssertionError


@pytest.mark.timeout(300)
def test_a_campaign_runs_every_figure_has_a_series_and_safe_gives_an_alert(facility: Facility) -> None:
    begun = time.time()
    with ExitStack() as stack:
        facility.set_running(stack)
        with facility.running("agent", facility.command("agent@")) as agent:
            _wait_for(lambda: facility.value('ptychopilot_trials_total{state="done"}') >= 2, "two trials")
            asyncio.run(_blank(facility))
            assert asyncio.run(_alarm(facility))["text"] == "the instrument is safe: blanked by hand"
            _wait_for(lambda: ("InstrumentSafe", "instrument") in facility.firing(), "an alert")
            agent.wait(LIMIT)
        assert agent.returncode != 0
        assert "SAFE" in facility.said("agent")

        # A person has looked, and goes on: `systemctl start` once more.
        with facility.running("agent", facility.command("agent@")) as agent:
            _wait_for(lambda: ("InstrumentSafe", "instrument") not in facility.firing(), "the end of the alert")
            assert agent.wait(LIMIT) == 0, facility.said("agent")
        assert (facility.campaign / "report.html").exists()

        made = runpy.run_path(str(DEPLOY / "grafana" / "make_dashboard.py"))
        missing = [each for each in made["expressions"]() if not _series(facility, each, begun)]
        assert not missing
        page = f"http://127.0.0.1:{facility.port[8765]}/"
        assert _wait_for(lambda: b"ptychopilot" in urlopen(page, timeout=5).read(), "the page")
    copy_ledger(facility.folder / "backup", facility.folder / "restored")


def _series(facility: Facility, expression: str, begun: float) -> bool:
    found = facility.ask("query_range", query=expression, start=begun, end=time.time(), step=1)
    return any(series["values"] for series in found["result"])
