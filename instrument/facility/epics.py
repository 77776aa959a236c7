"""EPICS process variables over PVAccess (p4p, BSD; imported here only) for the acquisitions of one campaign.

A put of a setting that is not legal fails with the sentence that says what is; a put of 1 to `Acquire` ends when the
acquisition has, and fails with the reason where it did not come to its end. EPICS knows no keys: by default the variables are on
this machine only. What can be done over them costs no more than the campaign's electrons.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from instrument.client import InstrumentClient
from instrument.errors import BadInputError, InstrumentError
from instrument.facility.steps import SETTINGS, AcquisitionSteps
from instrument.keys import ClientKeys

log = logging.getLogger(__name__)

VARIABLES = {
    "y": "FieldY",
    "x": "FieldX",
    "height": "FieldHeight",
    "width": "FieldWidth",
    "step": "Step",
    "defocus": "Defocus",
    "dose": "Dose",
}
"""Setting -> name of its variable, behind the prefix."""
READINGS = {"Acquisition": "s", "State": "s", "Frames": "i", "Electrons": "d", "ElectronsLeft": "d", "Counts": "d"}
"""Name of a variable that is only read -> its type."""


class ProcessVariables:
    """The variables of a campaign; `provide` serves them until it is cancelled.

    Args:
        steps: opened.
        prefix: of all names, "PTYCHO:".
    """

    def __init__(self, steps: AcquisitionSteps, prefix: str) -> None:
        try:
            from p4p.nt import NTNDArray, NTScalar
            from p4p.server.asyncio import SharedPV
        except ImportError as error:
            msg = "the package p4p is missing: pip install 'ptychopilot[facility]'"
            raise BadInputError(msg) from error
        self._steps, self._prefix = steps, prefix
        self._variables: dict[str, Any] = {}
        for setting in SETTINGS:
            low, high = steps.limits(setting)
            variable = SharedPV(nt=NTScalar("d", display=True), handler=_Put(self._set, setting))
            unit = "e/Å²" if setting == "dose" else "Å"
            variable.open({"value": steps.values[setting], "display.limitLow": low, "display.limitHigh": high})
            variable.post({"value": steps.values[setting], "display.units": unit})
            self._variables[VARIABLES[setting]] = variable
        for name, kind in READINGS.items():
            self._variables[name] = SharedPV(nt=NTScalar(kind), initial="" if kind == "s" else 0)
        self._variables["Picture"] = SharedPV(nt=NTNDArray())
        self._variables["Acquire"] = SharedPV(nt=NTScalar("i"), initial=0, handler=_Put(self._acquire, ""))
        self._variables["Blank"] = SharedPV(nt=NTScalar("i"), initial=0, handler=_Put(self._blank, ""))
        self._variables["State"].post("idle")
        self._variables["ElectronsLeft"].post(steps.left)

    async def provide(self, interface: str = "127.0.0.1", port: int = 5075) -> None:
        """Serve the variables until cancelled.

        Args:
            interface: address to listen at.
            port: TCP port; 0 takes a free one.
        """
        from p4p.server import Server

        conf = {
            "EPICS_PVAS_INTF_ADDR_LIST": interface,
            "EPICS_PVAS_BEACON_ADDR_LIST": interface,
            "EPICS_PVAS_SERVER_PORT": str(port),
            "EPICS_PVAS_BROADCAST_PORT": "5076",
            "EPICS_PVAS_AUTO_BEACON_ADDR_LIST": "NO",
        }
        names = {f"{self._prefix}{name}": variable for name, variable in self._variables.items()}
        with Server(providers=[names], conf=conf, useenv=True) as server:
            print(
                f'{{"ready": true, "variables": "{self._prefix}", "port": {server.conf()["EPICS_PVAS_SERVER_PORT"]}}}',
                flush=True,
            )
            await asyncio.Event().wait()

    async def _set(self, setting: str, value: float) -> None:
        self._steps.set(setting, value)

    async def _acquire(self, _: str, value: float) -> None:
        if value != 1:
            return
        told = self._variables
        told["State"].post("acquiring")
        try:
            result = await self._steps.acquire(self._say_which)
        finally:
            told["State"].post("idle")
            told["ElectronsLeft"].post(self._steps.left)
        told["Frames"].post(result.frames)
        told["Electrons"].post(result.electrons)
        told["Counts"].post(result.counts)
        if told["Picture"].isOpen():
            told["Picture"].post(result.picture)
        else:
            told["Picture"].open(result.picture)

    async def _say_which(self, acquisition: str) -> None:
        self._variables["Acquisition"].post(acquisition)

    async def _blank(self, _: str, value: float) -> None:
        if value == 1:
            await self._steps.client.blank()


class _Put:
    """Has a put done, and answers it."""

    def __init__(self, act: Any, setting: str) -> None:
        self._act, self._setting = act, setting

    async def put(self, variable: Any, operation: Any) -> None:
        value = operation.value()
        try:
            await self._act(self._setting, float(value))
        except InstrumentError as error:
            operation.done(error=error.message)
        except Exception as error:
            log.exception("%s could not be put", operation.name())
            operation.done(error=f"{type(error).__name__}: {error}")
        else:
            if self._setting:
                variable.post(float(value))
            operation.done()


async def provide(
    control: str,
    campaign: str,
    electrons: float,
    prefix: str,
    *,
    interface: str = "127.0.0.1",
    port: int = 5075,
    keys: ClientKeys | None = None,
) -> None:
    """Connect to an instrument and serve the variables of a campaign until cancelled.

    Args:
        control: endpoint of the instrument.
        campaign: whose electrons are spent.
        electrons: of the campaign.
        prefix: of all names.
        interface: address to listen at.
        port: TCP port; 0 takes a free one.
        keys: of the client, where the instrument is not on this machine.
    """
    async with InstrumentClient(control, holder=f"epics {prefix}", keys=keys) as client:
        steps = AcquisitionSteps(client, campaign, electrons)
        await steps.open()
        await ProcessVariables(steps, prefix).provide(interface, port)
