"""A campaign through Nion Swift's control stack: its headless simulator, with a known phase behind its camera.

Nion Swift and our instrument server run in the foreign environment, the agent in ours. Usage: python drive_nion.py ENVIRONMENT
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from driving import first_json

from instrument import AcquisitionPlan, InstrumentClient, Rectangle

FOLDER = Path(__file__).parent
CAMPAIGN = """
name: nion
electrons: 2e7
area: {height: 12, width: 12}
exploration: {trials: 2, height: 10, width: 10, share: 0.5}
search: {step: [0.8, 1.2], defocus: [20, 80]}
passes: 1
reconstruction: {model: given, passes: 5}
"""
"""A model that is given: what is shown is the way through Nion's control stack, not the best picture."""


class Frames:
    def __init__(self) -> None:
        self.indices: list[int] = []

    def start(self, header: object) -> None: ...

    def frame(self, index: int, *rest: Any) -> None:
        self.indices.append(index)


def plan(name: str, dose: float, defocus: float) -> AcquisitionPlan:
    field = Rectangle(y=60, x=20, height=10, width=12)
    return AcquisitionPlan(id=name, campaign="frames", region="r", field=field, step=1.0, defocus=defocus, dose=dose)


async def acquire(control: str) -> None:
    """Through the server: C10 set and confirmed, every frame once, a scan that is stopped with its beam off."""
    async with InstrumentClient(control, timeout=120.0, request_timeout=60.0) as client:
        told = await client.describe()
        assert told.tolerances == {"defocus": 0.5}, told
        await client.open_campaign("frames", 1e9)
        async with client.lease():
            dose = 2 * told.electrons_per_pattern[0]
            await client.prepare(plan("a1", dose, 60.0))
            sink = Frames()
            outcome = await client.acquire("a1", sink)
            assert (outcome.state, sorted(sink.indices)) == ("done", list(range(120))), outcome
            await client.prepare(plan("a2", 10 * dose, -60.0))
            stopping: list[asyncio.Task[Any]] = []

            def stop(received: int, total: int) -> None:
                if not stopping:
                    stopping.append(asyncio.ensure_future(client.stop()))

            stopped = await client.acquire("a2", Frames(), stop)
            assert stopped.state == "aborted", stopped
            assert 0 < stopped.electrons < 1.5 * plan("a2", 10 * dose, -60.0).electrons, stopped
            assert (await client.health()).blanked
    print(
        f"nion: C10 confirmed, {outcome.frames} of 120 frames, stopped after {stopped.frames} frames with the beam off"
    )


def main() -> None:
    foreign = str(Path(sys.argv[1]) / "bin" / "python")
    environment = os.environ | {"PYTHONPATH": f"{FOLDER.parents[1]}{os.pathsep}{FOLDER}"}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="drive-nion-")))

        def run(*arguments: str) -> subprocess.Popen[str]:
            program = subprocess.Popen(
                [foreign, str(FOLDER / "adapter_nion.py"), *arguments],
                stdout=subprocess.PIPE,
                text=True,
                env=environment,
            )
            stack.callback(program.wait)
            stack.callback(program.kill)
            return program

        began = time.monotonic()
        found = first_json(run())
        print(f"nion: {found}")
        assert (found["lag before"], found["lag after"]) == (1, 0), found
        assert found["right before"] < 0.2 < 0.95 < found["right after"], found
        assert found["portions after"] > 1, "the frames came all at once, at the end"
        assert abs(found["defocus"] - 50) < 0.5, found
        control = first_json(run(str(folder / "state")))["control"]
        asyncio.run(acquire(control))
        (folder / "campaign.yaml").write_text(CAMPAIGN)
        program = Path(sys.executable).with_name("ptychopilot")
        result = folder / "result.json"
        command = [program, "run", folder / "campaign.yaml", "--instrument", control, "--out", folder / "campaign"]
        subprocess.run([*command, "--json", result], check=True, timeout=1800)
        ended = json.loads(result.read_text())
        assert ended["state"] == "done", ended
        print(f"nion: campaign {ended['state']} after {time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
