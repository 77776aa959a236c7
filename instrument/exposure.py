"""From the microscope to the data socket: one acquisition as a Stream V2 series."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import NDArray

from instrument import stream
from instrument.beam import BeamTime
from instrument.data_socket import DataSocket
from instrument.dry_run import dry_frames
from instrument.frame_watch import FrameWatch
from instrument.microscope import CountsBeamTime, Frame, LosesFrames, Microscope
from instrument.models import ELEMENTARY_CHARGE, AcquisitionPlan, Description
from instrument.status import LedgerEntry

YIELD_INTERVAL, TURNS = 0.001, 6
"""s after which frames let everything else in the loop have its turn, and how many turns: a request of the control socket is
received, understood, answered and sent in one each, and would otherwise wait for that long before every one of them."""
END_TIMEOUT = 1.0


@dataclass(frozen=True)
class ExposureResult:
    """How an exposure ended: its state, the frames the microscope delivered, the electrons they cost, and the frames it owes."""

    state: Literal["done", "aborted", "failed"]
    frames: int
    electrons: float
    reason: str = ""
    lost: int = 0


class FrameError(Exception):
    """The microscope delivered something that is not a frame of the plan."""


async def expose(
    microscope: Microscope,
    entry: LedgerEntry,
    description: Description,
    data: DataSocket,
    *,
    beam_time: BeamTime,
    blank: Callable[[], None],
    stop_reason: Callable[[], str],
    clock: Callable[[], float],
    on_frame: Callable[[int], None],
    alarm: Callable[[str], None],
) -> ExposureResult:
    """Run one acquisition to its end, whatever happens, and say what it cost; the beam is blanked before this returns.

    Args:
        microscope: to expose with; its iterator is closed before this returns.
        entry: the reservation.
        description: of the instrument at the time.
        data: where the frames go.
        beam_time: told when the beam may be on.
        blank: turns it off.
        stop_reason: asked before every frame; a text ends the acquisition.
        clock: monotonic time, s.
        on_frame: told the number of frames so far, when each has been sent.
        alarm: told why, where frames contradict the plan; turns the beam off, and `stop_reason` says so.

    Returns:
        State, frames, electrons to book and the reason where it did not end well.
    """
    plan, started = entry.plan, clock()
    own = microscope if isinstance(microscope, CountsBeamTime) else None
    before, count, reason = 0.0 if own is None else own.beam_time(), 0, ""
    state: Literal["done", "aborted", "failed"] = "done"
    watch = FrameWatch(plan, entry.check, description)
    try:
        await data.send(stream.encode_start(_series_start(entry, description)), lambda: bool(stop_reason()))
        source = _source(microscope, entry, description, watch, alarm)
        async with aclosing(_frames(source, plan, description, beam_time, stop_reason, watch, alarm)) as frames:
            async for index, pattern in frames:
                count += 1
                if not await data.send(_image(entry, index, pattern, clock() - started), lambda: bool(stop_reason())):
                    break
                on_frame(count)
        if not stop_reason() and count < plan.n_positions:
            reason = f"the microscope delivered {count} of {plan.n_positions} frames"
            state = "done" if _accounted_for(microscope, count, plan) else "failed"
    except asyncio.CancelledError:
        if not stop_reason():
            raise
    except Exception as error:
        state, reason = "failed", f"{type(error).__name__}: {error}"
    finally:
        blank()
    if why := stop_reason():
        state, reason = "aborted", why
    await _send_end(data, entry, clock)
    measured = None if own is None else own.beam_time() - before
    result = ExposureResult(state, count, math.ceil(watch.electrons), reason, plan.n_positions - count)
    return _charged(result, entry, description, beam_time.seconds, measured, alarm)


def _source(
    microscope: Microscope,
    entry: LedgerEntry,
    description: Description,
    watch: FrameWatch,
    alarm: Callable[[str], None],
) -> AsyncIterator[Frame]:
    if entry.check.dry:
        return dry_frames(microscope, entry.plan, description, watch, alarm)
    return microscope.acquire(entry.plan)


def _charged(
    result: ExposureResult,
    entry: LedgerEntry,
    description: Description,
    seconds: float,
    measured: float | None,
    alarm: Callable[[str], None],
) -> ExposureResult:
    """With what it is charged, by s of beam time as the server sees it and as the microscope has measured it."""
    if result.state == "aborted":
        result = replace(result, lost=0)
    if entry.check.dry:
        return _of_dry_run(result, entry, description, measured or 0.0, alarm)
    known, done = measured is not None, result.state == "done"
    seconds = seconds if measured is None else measured
    charged = _booked(entry, description.beam_current, seconds, result.frames, done=done, measured=known)
    return replace(result, electrons=max(charged, result.electrons))


def _of_dry_run(
    result: ExposureResult, entry: LedgerEntry, description: Description, seconds: float, alarm: Callable[[str], None]
) -> ExposureResult:
    """Charge a dry run nothing, unless its patterns (who have given alarm) or the microscope itself say that its beam was on."""
    if seconds > 0:
        current = description.beam_current
        lit = entry.plan.electrons if current is None else electrons_of(seconds, current)
        why = f"the microscope says that its beam was on for {seconds:.3g} s in a dry run"
        alarm(why)
        return replace(result, state="failed", electrons=max(result.electrons, lit), reason=why)
    return replace(result, state="failed" if result.electrons else result.state)


def _accounted_for(microscope: Microscope, delivered: int, plan: AcquisitionPlan) -> bool:
    lost = microscope.lost_frames() if isinstance(microscope, LosesFrames) else 0
    return delivered > 0 and delivered + lost == plan.n_positions


def _image(entry: LedgerEntry, index: int, pattern: NDArray[Any], elapsed: float) -> bytes:
    begun = max(0.0, elapsed - entry.check.dwell_time)
    return stream.encode_image(entry.series, entry.id, index, pattern, begun, elapsed)


async def _send_end(data: DataSocket, entry: LedgerEntry, clock: Callable[[], float]) -> None:
    deadline = clock() + END_TIMEOUT
    await data.send(stream.encode_end(entry.series, entry.id), lambda: clock() > deadline or not data.receivers())


def _booked(
    entry: LedgerEntry, current: float | None, seconds: float, frames: int, *, done: bool, measured: bool
) -> float:
    """What an acquisition is charged: by the time of its beam where a current (pA) is known, otherwise by its frames.

    One that is done costs what was reserved for it, unless the microscope itself has `measured` a beam that was on for longer.
    """
    if current is None:
        return entry.electrons if done else electrons_of_frames(entry, frames)
    electrons = electrons_of(seconds, current)
    return entry.electrons if done and (not measured or electrons <= entry.electrons + 1) else electrons


def electrons_of(seconds: float, current: float) -> float:
    """The electrons of a beam that was on for some time, rounded up to a whole one.

    Args:
        seconds: for which it was on.
        current: pA.
    """
    exact = seconds * current * 1e-12 / ELEMENTARY_CHARGE
    return float(math.ceil(exact * (1 - 1e-9)))


def electrons_of_frames(entry: LedgerEntry, frames: int) -> float:
    """The electrons (or counts) of an unfinished scan of a recording, whose beam current is not known.

    All of the overhead (settling, flyback), the frames that were delivered and one that was under way, rounded up to a
    whole electron and limited by what had been reserved.

    Args:
        entry: the reservation.
        frames: that the microscope delivered.
    """
    overhead = entry.electrons - entry.plan.electrons
    return min(entry.electrons, float(math.ceil(overhead + (frames + 1) * entry.plan.electrons_per_pattern)))


async def _frames(
    source: AsyncIterator[Frame],
    plan: AcquisitionPlan,
    description: Description,
    beam_time: BeamTime,
    stop_reason: Callable[[], str],
    watch: FrameWatch,
    alarm: Callable[[str], None],
) -> AsyncGenerator[tuple[int, NDArray[Any]]]:
    """The microscope's frames, verified, until they end or `stop_reason` says so."""
    shape, dtype = description.detector.shape, np.dtype(description.detector.dtype)
    seen = bytearray(plan.n_positions)
    loop = asyncio.get_running_loop()
    turn = loop.time()
    if stop_reason():
        return
    async with aclosing(cast("AsyncGenerator[Frame, None]", source)) as frames:
        beam_time.asked()
        async for frame in frames:
            beam_time.delivered()
            if not 0 <= frame.index < plan.n_positions or seen[frame.index]:
                msg = f"frame index {frame.index} is repeated or outside of 0 … {plan.n_positions - 1}"
                raise FrameError(msg)
            if frame.pattern.shape != shape or frame.pattern.dtype != dtype:
                msg = f"a frame of {frame.pattern.shape} {frame.pattern.dtype}; the detector has {shape} {dtype}"
                raise FrameError(msg)
            seen[frame.index] = 1
            if why := watch.look(frame.pattern):
                alarm(why)
            yield frame.index, frame.pattern
            if stop_reason():
                return
            # An iterator that never has to wait would keep everything else in this loop from running.
            if loop.time() - turn > YIELD_INTERVAL:
                for _ in range(TURNS):
                    await asyncio.sleep(0)
                turn = loop.time()
            beam_time.asked()


def _series_start(entry: LedgerEntry, description: Description) -> stream.SeriesStart:
    detector, plan, check = description.detector, entry.plan, entry.check
    mask = None
    if detector.dead_pixels:
        mask = np.zeros(detector.shape, np.uint32)
        rows, columns = np.array(detector.dead_pixels).T
        mask[rows, columns] = 2
    return stream.SeriesStart(
        series_id=entry.series,
        series_unique_id=entry.id,
        image_dtype=detector.dtype,
        image_size_y=detector.shape[0],
        image_size_x=detector.shape[1],
        number_of_images=plan.n_positions,
        count_time=check.dwell_time,
        frame_time=check.dwell_time + description.frame_overhead,
        incident_energy=description.voltage,
        saturation_value=detector.saturation,
        arm_date=entry.started_at,
        pixel_mask=mask,
        user_data={
            "acquisition": entry.id,
            "campaign": entry.campaign,
            "region": entry.region,
            "scan_shape": list(check.shape),
            "step": plan.step,
            "defocus": plan.defocus,
            "dose": plan.dose,
            "passes": plan.passes,
            "semiangle": description.semiangle,
            **({"dry": True} if check.dry else {}),
        },
    )
