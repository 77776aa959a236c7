"""A campaign's process as `ptychopilot serve` starts it, without console and report, which take longer than a tiny campaign."""

from __future__ import annotations

import argparse
import asyncio
import sys
from pathlib import Path

from agent import resume_campaign, run_campaign
from agent.cli.errors import describe
from agent.config import load_config
from agent.events import Observer
from agent.status.commands import CommandDesk
from agent.status.local import listening


async def main() -> None:
    """What `run` and `resume` do."""
    from agent.campaign.steering import Control, Steering

    parser = argparse.ArgumentParser()
    parser.add_argument("verb")
    parser.add_argument("path", type=Path)
    for name in ("--out", "--pool"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--instrument")
    parser.add_argument("--wait", type=float)
    for name in ("--keep-safe", "--no-progress"):
        parser.add_argument(name, action="store_true")
    given = parser.parse_args()
    folder = given.out or given.path
    control = Control()
    steering = Steering(control)
    async with listening(folder, CommandDesk(steering.act)) as door:
        observers: list[Observer] = [door]
        if given.verb == "run":
            await run_campaign(
                load_config(given.path),
                given.instrument,
                folder,
                observers=observers,
                patience=given.wait,
                control=control,
                steering=steering,
                pool=given.pool,
            )
        else:
            await resume_campaign(
                folder,
                endpoint=given.instrument,
                observers=observers,
                patience=given.wait,
                control=control,
                steering=steering,
                pool=given.pool,
                keep_safe=given.keep_safe,
            )


if __name__ == "__main__":
    try:
        asyncio.run(main())
    except Exception as error:
        code, message = describe(error)
        sys.stderr.write(f"ptychopilot: {message}\n")
        sys.exit(code)
