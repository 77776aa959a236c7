"""Drive our simulated instrument from a bluesky plan: EPICS variables of our client (p4p), and an ophyd-async device of them.

Usage: python drive_epics.py ENVIRONMENT
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from driving import first_json, free_port

FOLDER = Path(__file__).parent
ELECTRONS = 1e9


def check(found: dict[str, Any]) -> None:
    """What the plan's documents and failures say."""
    events, refused = found["events"], found["refused"]
    assert [(each["step"], each["defocus"], each["dose"], each["frames"]) for each in events] == [
        (1.2, 100.0, 2000.0, 25),
        (1.2, 200.0, 2000.0, 25),
    ], events
    assert len({each["acquisition"] for each in events}) == 2
    electrons = 2000.0 * 1.2**2
    for each in events:
        assert 0.9 < each["counts"] / electrons < 1.02, each
        assert each["electrons"] >= 25 * electrons
    spent = [ELECTRONS - each["electrons_left"] for each in events]
    assert abs(spent[1] - 2 * spent[0]) < 1, spent
    assert refused[0] == "defocus of 1e+09 Å is not possible here; legal: -1000 … 1000 Å", refused
    assert refused[1].startswith("dose of -1 e/Å² is not possible here; legal: "), refused
    assert refused[2] == "the instrument is in SAFE (blanked by hand); an operator has to release it with `resume`"
    print(
        f"bluesky {found['bluesky']}, ophyd-async {found['ophyd_async']}, p4p {found['p4p']}: {len(events)} steps of a campaign, "
        f"{events[0]['counts']:.0f} counts a pattern where the dose is {electrons:.0f} electrons; "
        "two illegal puts and a blanked instrument refused with our sentences"
    )


def main() -> None:
    foreign = str(Path(sys.argv[1]) / "bin" / "python")
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="drive-epics-")))
        port = str(free_port())
        conf = {
            "EPICS_PVA_ADDR_LIST": "127.0.0.1",
            "EPICS_PVA_AUTO_ADDR_LIST": "NO",
            "EPICS_PVA_NAME_SERVERS": f"127.0.0.1:{port}",
            "PYTHONPATH": str(FOLDER.parents[1]),
        }

        def run(*command: str) -> subprocess.Popen[str]:
            program = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=os.environ | conf
            )
            stack.callback(program.wait)
            stack.callback(program.kill)
            return program

        simulate = ("-m", "sim_instrument", "simulate", "--state-dir", str(folder / "state"))
        control = first_json(run(sys.executable, *simulate))["control"]
        campaign = ("--campaign", "bluesky", "--electrons", f"{ELECTRONS:g}", "--prefix", "TEST:", "--port", port)
        first_json(run(foreign, "-m", "instrument", "epics", control, *campaign))
        plan = run(foreign, str(FOLDER / "plan_epics.py"), "TEST:")
        found = first_json(plan)
        assert plan.wait(60) == 0
        check(found)


if __name__ == "__main__":
    main()
