"""A digital twin for the small world, that simulates in no time: its columns are best at a fine step and at the left edge."""

from __future__ import annotations

import os
import time
from importlib import import_module

from served_small_world import PROCESSING
from small_world import world

from agent.events import Event, TwinChanged
from agent.policy.ensemble import DOSES, PARTS, STEPS
from agent.twin.refine import TwinJob, TwinPicture

VARIABLE = "TWIN_WORLD"
TWIN = "agent.campaign.digital_twin"
CHANGES = (
    (TWIN, "PICTURE", "twin_world:picture"),
    (TWIN, "PROCESSING", PROCESSING),
    (TWIN, "usable_cores", lambda: 2),
    ("agent.processing.child", "give_way", lambda pid: None),  # tests do not wait until the machine is idle
)
"""Module, name and value of what is different in this world."""
COLUMNS = 3
"""That the second scan waits for where `wait-2` is there."""


class _Picture:
    job_type = TwinJob

    def __call__(self, job: TwinJob, _on_progress: object = None) -> TwinPicture:
        with (world() / "twin-processes").open("a") as lines:
            lines.write(f"{os.getpid()}\n")
        if (world() / "twin-raises").exists():
            raise ValueError("no picture")
        if (world() / "twin-hangs").exists():
            time.sleep(3600)
        worth = 4 / STEPS[job.picture // len(PARTS)] - PARTS[job.picture % len(PARTS)] + 0.1 * (job.number % 4)
        return TwinPicture(values=tuple(round(worth * dose / 1000, 3) for dose in DOSES))


picture = _Picture()


class Release:
    """Lets the second scan go on once there are columns, or the twin has given up."""

    def __init__(self) -> None:
        self.troubles: list[str] = []

    def on_event(self, event: Event) -> None:
        if isinstance(event, TwinChanged):
            self.troubles += [event.trouble] if event.trouble else []
            if event.trouble or event.columns >= COLUMNS:
                (world() / "wait-2").unlink(missing_ok=True)


def arm_from_environment() -> None:
    """Have campaigns of this process simulate columns in this world, where TWIN_WORLD is set."""
    if VARIABLE in os.environ:
        for module, name, value in CHANGES:
            setattr(import_module(module), name, value)
