"""A whole campaign on de-twin, Direct Electron's microscope, over the vendor's protocols; compared with the twin's truth.

Three programs: the twin (its DE-Server, its DE-TEM-Channel) and our instrument server in the foreign environment, and the agent
in ours. Usage: python drive_deapi.py ENVIRONMENT
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

import numpy as np
from driving import first_json

from instrument import AcquisitionPlan, InstrumentClient, Rectangle, decode_chunk

FOLDER = Path(__file__).parent
ELECTRONS = 2e8
CAMPAIGN = """
name: de-twin
electrons: {electrons:g}
area: {{height: 12, width: 12}}
exploration: {{trials: 2, height: 10, width: 10, share: 0.5}}
search: {{step: [0.9, 1.5], defocus: [-300, 300]}}
passes: 1
reconstruction: {{model: given, passes: 5}}
"""
"""A model that is given: what is shown is the way through the vendor's protocols, not the best picture."""


class Frames:
    def __init__(self) -> None:
        self.patterns: dict[int, np.ndarray] = {}

    def start(self, header: object) -> None: ...

    def frame(self, index: int, chunk: bytes, shape: tuple[int, int], dtype: np.dtype[Any]) -> None:
        self.patterns[index] = decode_chunk(chunk, shape, dtype)


def truth(host: subprocess.Popen[str], path: Path) -> dict[str, np.ndarray]:
    """Of the scan that is set."""
    assert host.stdin is not None
    host.stdin.write(f"{path}\n")
    host.stdin.flush()
    first_json(host)
    with np.load(path) as file:
        return {key: file[key] for key in file}


def nearest(frames: np.ndarray, electrons: np.ndarray) -> np.ndarray:
    """Which of the true patterns each frame is likest to, by what distinguishes it from their mean; both (n, ky, kx)."""
    one, other = (each.reshape(len(each), -1) - each.mean(axis=0).ravel() for each in (frames, electrons))
    return (one @ other.T / np.linalg.norm(other, axis=1)).argmax(axis=1)


async def compare(control: str, host: subprocess.Popen[str], folder: Path) -> None:
    """Frames at the positions, and the defocus with the sign, that the twin says they have."""
    focus = []
    async with InstrumentClient(control, timeout=60.0, request_timeout=60.0) as client:
        told = await client.describe()
        await client.open_campaign("frames", 1e12)
        async with client.lease():
            for defocus in (300.0, -300.0):
                dose = 4 * told.electrons_per_pattern[0]
                plan = AcquisitionPlan(
                    id=f"f{300 + defocus:.0f}",
                    campaign="frames",
                    region="r",
                    field=Rectangle(y=60, x=20, height=10, width=14),
                    step=1.0,
                    defocus=defocus,
                    dose=dose,
                )
                await client.prepare(plan)
                sink = Frames()
                outcome = await client.acquire(plan.id, sink)
                assert outcome.state == "done", outcome
                assert len(sink.patterns) == plan.n_positions
                true = truth(host, folder / f"{plan.id}.npz")
                frames = np.stack([sink.patterns[index] for index in range(plan.n_positions)])
                electrons = true["patterns"].reshape(frames.shape) * dose / told.beam_current * 1.602176634e-7
                found = nearest(frames, electrons) == np.arange(plan.n_positions)
                print(
                    f"de-twin: {found.sum()} of {len(found)} frames are likest to the truth at their own position",
                    end=", ",
                )
                print(f"{frames.sum() / electrons.sum():.3f} of its electrons", end=", ")
                print(f"step {float(true['scan_step_nm']):.4g} nm, C1 {float(true['C1_nm']):.2f} nm")
                assert found.mean() > 0.9
                assert abs(float(true["scan_step_nm"]) - 0.1) < 1e-4
                focus.append(float(true["C1_nm"]))
    assert abs(focus[1] - focus[0] - 60) < 5, f"600 Å less underfocus changed C1 by {focus[1] - focus[0]:.1f} nm"


def main() -> None:
    foreign = str(Path(sys.argv[1]) / "bin" / "python")
    where = {"PYTHONPATH": f"{FOLDER.parents[1]}{os.pathsep}{FOLDER}"}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="drive-deapi-")))

        def run(*command: str, **environment: str) -> subprocess.Popen[str]:
            program = subprocess.Popen(
                [foreign, *command],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                env=os.environ | where | environment,
            )
            stack.callback(program.wait)
            stack.callback(program.kill)
            return program

        began = time.monotonic()
        host = run(str(FOLDER / "host_deapi.py"))
        address = json.dumps(first_json(host))
        print(f"de-twin: ready after {time.monotonic() - began:.0f} s")
        serve = ("-m", "instrument", "serve", "adapter_deapi:make", "--state-dir", str(folder / "state"))
        control = first_json(run(*serve, HOST=address))["control"]
        asyncio.run(compare(control, host, folder))
        (folder / "campaign.yaml").write_text(CAMPAIGN.format(electrons=ELECTRONS))
        command = [
            Path(sys.executable).with_name("ptychopilot"),
            "run",
            folder / "campaign.yaml",
            "--instrument",
            control,
        ]
        result = folder / "result.json"
        subprocess.run([*command, "--out", folder / "campaign", "--json", result], check=True, timeout=1800)
        found = json.loads(result.read_text())
        assert found["state"] == "done", found
        print(f"de-twin: campaign {found['state']} after {time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
