"""The microscope behind its server: what is refused, what happens once only, and what turns the beam off."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np

from instrument.client import InstrumentClient
from instrument.conformance.checking import other_apertures
from instrument.conformance.trial import BrokenPromiseError, NotOfferedError, Promise, Trial, require, timed
from instrument.errors import BudgetError, ConflictError, InstrumentError, NotReservedError, OutOfLimitsError
from instrument.microscope import CountsBeamTime, ReadsBack
from instrument.models import AcquisitionPlan, Parameter
from instrument.server import InstrumentServer
from instrument.settings import APERTURE
from instrument.stream import SeriesStart

CAMPAIGN = "check"
SAFE_LIMIT = 1.0
"""s for an answer of the safe socket; the promise is 0.05, but other programs have their share of the processor."""


PUT_BACK = 300
"""Tenths of a second within which the aperture of before has to be in again, once nobody has the lease."""


class _Counted:
    """A sink that counts."""

    def __init__(self) -> None:
        self.indices: list[int] = []
        self.header: SeriesStart | None = None

    def start(self, header: SeriesStart) -> None:
        self.header = header

    def frame(self, index: int, chunk: bytes, pattern_shape: tuple[int, int], dtype: np.dtype[Any]) -> None:
        self.indices.append(index)


@asynccontextmanager
async def _served(trial: Trial, budget: float | None = None) -> AsyncIterator[InstrumentClient]:
    """A client of the microscope behind a server of its own, whose books are thrown away."""
    cost = await _cost(trial)
    with tempfile.TemporaryDirectory(prefix="instrument-check-") as folder:
        async with (
            InstrumentServer(trial.microscope, state_dir=Path(folder)) as server,
            InstrumentClient(server.control) as client,
        ):
            await client.open_campaign(CAMPAIGN, 10 * cost if budget is None else budget * cost)
            yield client


async def _cost(trial: Trial) -> float:
    plan = trial.plan()
    return max(plan.electrons, (await trial.microscope.check(plan)).electrons)


def _beyond(parameter: Parameter) -> float:
    return 2 * parameter.bounds[1] + 1.0


async def _refused(trial: Trial, **changes: Any) -> None:
    plan = trial.plan(**changes)
    async with _served(trial) as client:
        try:
            await client.check(plan)
        except OutOfLimitsError as error:
            require(bool(error.message), "it was refused without a reason")
        else:
            raise BrokenPromiseError(f"a plan with {changes} was accepted")
    await trial.require_blanked("after a refusal")


async def _refuses_step(trial: Trial) -> None:
    step = _beyond(trial.description.step)
    side = 2 * step
    field = trial.plan().field.model_copy(update={"height": side, "width": side})
    await _refused(trial, step=step, field=field)


async def _refuses_defocus(trial: Trial) -> None:
    await _refused(trial, defocus=_beyond(trial.description.defocus))


async def _refuses_semiangle(trial: Trial) -> None:
    offered = trial.description.semiangles
    await _refused(trial, semiangle=1.1 * offered[-1] if offered[-1] < 180 else 0.9 * offered[0])


async def _refuses_dose(trial: Trial) -> None:
    await _refused(trial, dose=_beyond(trial.description.dose))


async def _refuses_field(trial: Trial) -> None:
    area, plan = trial.description.area, trial.plan()
    await _refused(trial, field=plan.field.model_copy(update={"y": area.y + area.height - plan.step}))


async def _refuses_passes(trial: Trial) -> None:
    other = "checkerboard" if trial.description.two_passes == "offset" else "offset"
    await _refused(trial, passes=2, interlacing=other)


async def _refuses_patterns(trial: Trial) -> None:
    offered, plan = trial.description.scan_patterns, trial.plan()
    foreign: list[dict[str, Any]] = [
        {"pattern": name} for name in ("raster", "serpentine", "spiral") if name not in offered
    ]
    if "positions" not in offered:
        middle = (plan.field.y + plan.field.height / 2, plan.field.x + plan.field.width / 2)
        foreign.append({"positions": (middle,)})
    if not foreign:
        raise NotOfferedError("it scans in every pattern")
    for changes in foreign:
        await _refused(trial, **changes)


async def _refuses_unpaid(trial: Trial) -> None:
    async with _served(trial, budget=0.5) as client, client.lease():
        try:
            await client.prepare(trial.plan())
        except BudgetError:
            return
    raise BrokenPromiseError("a plan was reserved that costs twice the budget")


async def _refuses_unreserved(trial: Trial) -> None:
    async with _served(trial) as client, client.lease():
        try:
            await client.acquire(f"{trial.plan().id}-nobody", _Counted())
        except NotReservedError:
            await trial.require_blanked("after a start without reservation")
            return
    raise BrokenPromiseError("a scan was started that nobody had reserved")


async def _serves(trial: Trial) -> None:
    plan, sink = trial.plan(), _Counted()
    microscope = trial.microscope
    async with _served(trial) as client, client.lease():
        reserved = (await client.prepare(plan)).check
        trial.electrons += reserved.electrons
        outcome = await client.acquire(plan.id, sink)
        require(outcome.state == "done", f"the scan {outcome.state}: {outcome.reason}")
        require(len(set(sink.indices)) == plan.n_positions, f"{len(sink.indices)} of {plan.n_positions} frames came")
        lit = microscope.beam_time() if isinstance(microscope, CountsBeamTime) else 0.0
        again = _Counted()
        repeated = await client.acquire(plan.id, again)
        require(repeated == outcome and not again.indices, "a repeated start did not return the first outcome")
        dark = not isinstance(microscope, CountsBeamTime) or microscope.beam_time() == lit
        require(dark, "a repeated start turned the beam on")
        require(outcome.electrons <= reserved.electrons * 1.01 + 1, "more was booked than had been reserved")
    await trial.require_blanked("after a served scan")


async def _serves_other_apertures(trial: Trial) -> None:
    microscope, told = trial.microscope, trial.description
    plan = other_apertures(trial)[0]
    assert isinstance(microscope, ReadsBack)
    before = (await microscope.read_back())[APERTURE]
    sink = _Counted()
    async with _served(trial) as client:
        async with client.lease():
            trial.electrons += (await client.prepare(plan)).check.electrons
            outcome = await client.acquire(plan.id, sink)
            require(outcome.state == "done", f"the scan {outcome.state}: {outcome.reason}")
        for _ in range(PUT_BACK):
            if (now := (await microscope.read_back())[APERTURE]) == before:
                break
            await asyncio.sleep(0.1)
    require(
        abs(now - before) <= told.tolerances[APERTURE],
        f"the aperture of {before:g} mrad was not put back; {now:g} is in",
    )
    require(
        sink.header is not None and sink.header.user_data.get("semiangle") == plan.semiangle, "the series tells another"
    )
    await trial.require_blanked("after a scan through another aperture")


async def _runs_dry(trial: Trial) -> None:
    plan, sink, microscope = trial.plan(dry=True), _Counted(), trial.microscope
    lit = microscope.beam_time() if isinstance(microscope, CountsBeamTime) else 0.0
    async with _served(trial) as client, client.lease():
        before = (await client.open_campaign(CAMPAIGN, 10 * await _cost(trial))).left
        require((await client.prepare(plan)).electrons_left == before, "electrons were reserved for a dry run")
        outcome = await client.acquire(plan.id, sink)
        require(outcome.state == "done", f"the dry run {outcome.state}: {outcome.reason}")
        require(outcome.dry and not outcome.electrons, f"a dry run was charged {outcome.electrons:g} electrons")
        require(len(set(sink.indices)) == plan.n_positions, f"{len(sink.indices)} of {plan.n_positions} frames came")
    dark = not isinstance(microscope, CountsBeamTime) or microscope.beam_time() == lit
    require(dark, "a dry run turned the beam on")
    await trial.require_blanked("after a dry run")


async def _keeps_ids_apart(trial: Trial) -> None:
    plan = trial.plan()
    other = plan.model_copy(update={"field": plan.field.model_copy(update={"height": plan.field.height - plan.step})})
    async with _served(trial) as client, client.lease():
        first = await client.prepare(plan)
        require(await client.prepare(plan) == first, "the same plan was reserved twice")
        try:
            await client.prepare(other)
        except ConflictError:
            return
    raise BrokenPromiseError("another plan was accepted under the same id")


async def _obeys_the_safe_socket(trial: Trial) -> None:
    plan = trial.plan()
    async with _served(trial) as client, client.lease():
        trial.electrons += (await client.prepare(plan)).check.electrons
        blanking: list[asyncio.Task[float]] = []

        async def blank() -> float:
            began = time.monotonic()
            status = await client.blank()
            require(status.blanked and status.phase == "safe", f"after `blank` the status is {status.phase}")
            return time.monotonic() - began

        def at_a_frame(received: int, expected: int) -> None:
            if not blanking:
                blanking.append(asyncio.ensure_future(blank()))

        try:
            outcome = await client.acquire(plan.id, _Counted(), at_a_frame)
        except InstrumentError as error:
            raise BrokenPromiseError(f"the scan ended with {error.code}: {error.message}") from error
        if outcome.state == "done":
            await asyncio.gather(*blanking)
            raise NotOfferedError("the scan was over before it could be blanked")
        require(outcome.state == "aborted", f"the scan {outcome.state}: {outcome.reason}")
        timed(await blanking[0], SAFE_LIMIT, "blank over the safe socket")
        await trial.require_blanked("after `blank` over the safe socket")
        await _stays_safe(client, plan)


async def _stays_safe(client: InstrumentClient, plan: AcquisitionPlan) -> None:
    try:
        await client.prepare(plan.model_copy(update={"id": f"{plan.id}-again"}))
    except InstrumentError as error:
        require(error.code == "SAFE", f"in SAFE a plan was refused with {error.code}")
    else:
        raise BrokenPromiseError("a plan was reserved in SAFE")


PROMISES = (
    Promise("a step out of limits is refused", _refuses_step),
    Promise("a defocus out of limits is refused", _refuses_defocus),
    Promise("a semi-angle that no aperture gives is refused", _refuses_semiangle),
    Promise("a dose out of limits is refused", _refuses_dose),
    Promise("a field outside of the area is refused", _refuses_field),
    Promise("passes that are not offered are refused", _refuses_passes),
    Promise("scan patterns that are not offered are refused", _refuses_patterns),
    Promise("a plan that the budget does not cover is refused", _refuses_unpaid),
    Promise("a start without reservation is refused", _refuses_unreserved),
    Promise("an id stands for one plan and one reservation", _keeps_ids_apart),
    Promise("a dry run keeps the beam off and costs nothing", _runs_dry),
    Promise("a served scan is complete, and a repeated start exposes nothing", _serves, beam=True),
    Promise(
        "a served scan through another aperture is complete, and the aperture is put back",
        _serves_other_apertures,
        beam=True,
    ),
    Promise("blank over the safe socket ends a scan, and leads to SAFE", _obeys_the_safe_socket, beam=True),
)
