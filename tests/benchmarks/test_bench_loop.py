"""End of a scan to the next command: how long the beam waits for the agent between two acquisitions.

A whole campaign against an instrument server in a process of its own, with the BoTorch policy; the reconstruction is
the small one of tests/integration/small_world.py, so that what is measured is the loop, the journal and the policy.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import pytest

from agent import run_campaign
from agent.config import CampaignConfig
from agent.events import Event, FramesReceived, PhaseChanged

WORLD = Path(__file__).parents[1] / "integration"


class Stopwatch:
    """Notes when the last frame of a scan arrived and when the next acquisition was commanded."""

    def __init__(self) -> None:
        self.last_frame = 0.0
        self.waits: list[float] = []

    def on_event(self, event: Event) -> None:
        now = time.perf_counter()
        if isinstance(event, FramesReceived) and event.received == event.total:
            self.last_frame = now
        elif isinstance(event, PhaseChanged) and event.phase == "acquiring" and self.last_frame and event.message:
            self.waits.append(now - self.last_frame)
            self.last_frame = 0.0


async def test_end_of_scan_to_next_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SMALL_WORLD", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(WORLD), prepend=os.pathsep)
    monkeypatch.syspath_prepend(str(WORLD))
    config = CampaignConfig.model_validate(
        {
            "name": "bench",
            "electrons": 6e6,
            "area": {"height": 24, "width": 24},
            "exploration": {"trials": 10, "height": 21, "width": 21, "initial": 4},
            "search": {
                "step": (1.0, 1.0),  # 441 positions
                "defocus": (50, 150),
                "dose": (50, 1000),
            },
            "score": {"field": 12},
        }
    )
    server = subprocess.Popen(  # noqa: ASYNC220 – before the loop has anything to do
        [sys.executable, "-m", "instrument", "serve", "small_world:make", "--state-dir", str(tmp_path / "state")],
        stdout=subprocess.PIPE,
        env=dict(os.environ),
    )
    try:
        assert server.stdout is not None
        endpoint = json.loads(server.stdout.readline())["control"]
        watch = Stopwatch()
        record = await run_campaign(
            config, endpoint, tmp_path / "campaign", observers=[watch], processing="small_world:process"
        )
    finally:
        server.terminate()
        server.wait(10)
        server.stdout.close()
    assert record.state == "done"
    assert len(watch.waits) >= 8
    with capsys.disabled():
        print(
            f"\nend of scan to next command: median {statistics.median(watch.waits):.3f} s, longest {max(watch.waits):.3f} s "
            f"({len(watch.waits)} acquisitions, model fit and suggestion included)"
        )
    assert statistics.median(watch.waits) < 2
