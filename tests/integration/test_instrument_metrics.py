"""What Prometheus finds at an instrument server, also while its event loop is stuck."""

from __future__ import annotations

import asyncio
import re
import shutil
import socket
import subprocess
import time
from pathlib import Path
from urllib.request import urlopen

import pytest
from served_process import PLAN, Signal, server
from served_stripes import Frames, make_plan, serving, until, until_phase
from striped_microscope import StripedMicroscope

from instrument import InstrumentClient
from instrument.errors import BadInputError
from instrument.metrics import LAG_INTERVAL, MetricsAddress, ServerCollector, exposing_metrics

pytest.importorskip("prometheus_client")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _text(port: int) -> str:
    with urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
        return str(answer.read().decode())


def _figures(text: str) -> dict[str, float]:
    lines = [line.rpartition(" ") for line in text.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, _, value in lines}


async def test_a_server_says_what_it_has_exposed_and_that_it_is_in_safe(tmp_path: Path) -> None:
    port = _free_port()
    with server(tmp_path, "--metrics", str(port)) as (_, greeting):
        async with InstrumentClient(greeting["control"], timeout=5) as client:
            await client.open_campaign("c", 1e6)
            async with client.lease():
                await client.prepare(PLAN)
                reserved = _figures(await asyncio.to_thread(_text, port))
                await client.acquire(PLAN.id, Signal(1))
                held = _figures(await asyncio.to_thread(_text, port))
            await client.blank()
            text = await asyncio.to_thread(_text, port)
            safe = _figures(text)
    assert reserved["ptychopilot_instrument_electrons_reserved"] >= PLAN.electrons
    assert (reserved["ptychopilot_frames_total"], held["ptychopilot_frames_total"]) == (0, PLAN.n_positions)
    assert held['ptychopilot_exposures_total{state="done"}'] == 1
    assert held["ptychopilot_instrument_electrons_spent"] >= PLAN.electrons
    assert (held["ptychopilot_lease_held"], safe["ptychopilot_lease_held"]) == (1, 0)
    assert (held["ptychopilot_safe"], safe["ptychopilot_safe"]) == (0, 1)
    assert safe["ptychopilot_leases_lapsed_total"] == safe["ptychopilot_frames_lost_total"] == 0
    assert safe["ptychopilot_disk_free_bytes"] > 1e6
    if shutil.which("promtool"):
        checked = await asyncio.to_thread(_check, text)
        assert (checked.returncode, checked.stderr) == (0, "")


def _check(text: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["promtool", "check", "metrics"], input=text, text=True, capture_output=True)


class Short(StripedMicroscope):
    """Delivers three frames less than it should."""

    async def acquire(self, plan):
        async for frame in super().acquire(plan):
            if frame.index == plan.n_positions - 3:
                return
            yield frame


async def test_lost_frames_and_a_lapsed_lease_are_counted(tmp_path: Path) -> None:
    async with serving(tmp_path, Short()) as (served, client):
        async with client.lease():
            await client.prepare(make_plan())
            assert (await client.acquire("a1", Frames())).state == "failed"
        await client._request("lease.acquire", holder="forgetful", ttl=0.1)
        await until_phase(client, "safe")
        figures = served.figures()
    assert (figures.frames_lost, figures.leases_lapsed, figures.exposures["failed"]) == (3, 1, 1)


async def test_the_lag_is_seen_while_the_event_loop_is_stuck(tmp_path: Path) -> None:
    port = _free_port()
    async with (
        serving(tmp_path, StripedMicroscope()) as (served, _),
        exposing_metrics(
            MetricsAddress("127.0.0.1", port), lambda known: known.register(ServerCollector(served.figures))
        ),
    ):
        asked = asyncio.create_task(asyncio.to_thread(_text, port))
        await until(asked.done)
        before = _figures(await asked)["ptychopilot_event_loop_lag_seconds"]
        late = asyncio.create_task(asyncio.to_thread(_late, port))
        await asyncio.sleep(0)
        time.sleep(4 * LAG_INTERVAL)  # noqa: ASYNC251 - a driver's call that does not return
        assert await late > before
        after = _figures(await asyncio.to_thread(_text, port))["ptychopilot_event_loop_lag_seconds"]
    assert after >= 2 * LAG_INTERVAL, "it is remembered"


def _late(port: int) -> float:
    """The first lag of more than one look."""
    while True:
        lag = _figures(_text(port))["ptychopilot_event_loop_lag_seconds"]
        if lag > LAG_INTERVAL:
            return lag


@pytest.mark.parametrize(
    ("text", "expected"),
    [("9464", ("127.0.0.1", 9464)), ("0.0.0.0:80", ("0.0.0.0", 80)), ("[::1]:9464", ("::1", 9464))],
)
def test_an_address_is_a_port_of_this_machine_or_says_where(text: str, expected: tuple[str, int]) -> None:
    assert MetricsAddress.parse(text) == expected


@pytest.mark.parametrize("text", ["", "http", "0", "65536", "host:", ":"])
def test_what_is_no_address_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(BadInputError, match=re.escape("9464 or 0.0.0.0:9464")):
        MetricsAddress.parse(text)
