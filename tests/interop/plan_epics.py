"""A bluesky plan that runs steps of a campaign over EPICS, and what it gets when it asks for too much. Usage: PREFIX"""

from __future__ import annotations

import json
import sys
from importlib.metadata import version
from typing import Any

import bluesky.plan_stubs as bps
import bluesky.plans as bp
from bluesky.run_engine import RunEngine
from bluesky.utils import FailedStatus
from ophyd_async.core import init_devices

from instrument.facility.ophyd import PtychographyStep


def main() -> None:
    engine = RunEngine({})
    with init_devices():
        device = PtychographyStep(sys.argv[1])
    events: list[dict[str, Any]] = []

    def take(name: str, document: dict[str, Any]) -> None:
        if name == "event":
            events.append(document["data"])

    step, defocus = device.step, device.defocus
    engine(bps.mv(step, 1.2, device.field_height, 6.0, device.field_width, 6.0, device.dose, 2000.0))
    engine(bp.list_scan([device], defocus, [100.0, 200.0]), take)
    refused = []
    for signal, value in ((defocus, 1e9), (device.dose, -1.0)):
        try:
            engine(bps.mv(signal, value))
        except FailedStatus as failure:
            refused.append(str(failure.__cause__ or failure))
    engine(bps.mv(device.blank, 1))
    try:
        engine(bp.count([device]))
    except FailedStatus as failure:
        refused.append(str(failure.__cause__ or failure))
    told = [{key.removeprefix("ptychography-"): value for key, value in each.items()} for each in events]
    versions = {name: version(name.replace("_", "-")) for name in ("bluesky", "ophyd_async", "p4p")}
    print(json.dumps({"events": told, "refused": refused} | versions))


if __name__ == "__main__":
    main()
