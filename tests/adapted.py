"""Every adapter of `instrument.adapters` in front of its fake, composed to a microscope that can be tried.

`PYTHONPATH=tests python -m instrument check adapted:temscript --dose 2e4` tries all promises; so do the other functions here.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AbstractContextManager, ExitStack, suppress
from typing import Any

import numpy as np
from examples import between
from fake_ceos import FakeCeos
from fake_merlin import SHAPE as MERLIN
from fake_merlin import FakeMerlin
from fake_parts import FakeCamera, FakeColumn, FakeScan
from fake_simplon import SHAPE as SIMPLON
from fake_simplon import FakeSimplon
from fake_temchannel import FakeTemChannel
from fake_temscript import FakeTemscript

from instrument import AcquisitionPlan
from instrument.adapters.ceos import CeosCorrector, CorrectedColumn
from instrument.adapters.composed import ComposedMicroscope
from instrument.adapters.merlin import MerlinCamera
from instrument.adapters.parts import CameraFrame, Column
from instrument.adapters.simplon import SimplonCamera
from instrument.adapters.temchannel import TemChannelColumn
from instrument.adapters.temscript import TemscriptColumn

DOSE = 2e4
"""e/Å² of the scans: of which the dwell times are longer than the cameras' shortest."""


class CountingScan(FakeScan):
    """Triggers a camera at every position, in time, with patterns of as many counts as the plan has electrons.

    Args:
        shape: of the patterns.
        emit: sends the frame of a position.
        column: without whose beam the patterns are dark.
    """

    def __init__(
        self, shape: tuple[int, int], emit: Callable[[int, np.ndarray], Awaitable[None]], column: Column
    ) -> None:
        self._shape, self._emit, self._lit = shape, emit, False
        unblank, blank = column.unblank, column.blank

        async def on() -> None:
            await unblank()
            self._lit = True

        def off() -> None:
            self._lit = False
            blank()

        vars(column).update(unblank=on, blank=off)
        self._stopped = threading.Event()

    async def start(self, plan: AcquisitionPlan, dwell: float) -> None:
        self._stopped = threading.Event()
        self._scan = asyncio.ensure_future(self._run(plan, dwell, self._stopped))

    def stop(self) -> None:
        self._stopped.set()

    async def _run(self, plan: AcquisitionPlan, dwell: float, stopped: threading.Event) -> None:
        rng = np.random.default_rng(0)
        for index in range(plan.n_positions):
            await asyncio.sleep(dwell)
            if stopped.is_set():
                return
            mean = self._lit * plan.electrons_per_pattern / np.prod(self._shape)
            await self._emit(index, rng.poisson(mean, self._shape).astype(np.uint16))


def with_fake_camera(name: str, column: Column, *to_enter: AbstractAsyncContextManager[Any]) -> ComposedMicroscope:
    """A microscope of a column, with a scan engine and a camera that are fakes."""
    camera = FakeCamera()

    async def emit(index: int, pattern: np.ndarray) -> None:
        camera.queue.put_nowait(CameraFrame(camera.series, 1 + index, pattern))

    scan = CountingScan(camera.detector.shape, emit, column)
    return ComposedMicroscope(name, column, scan, camera, to_enter=to_enter)


class Entering(AbstractAsyncContextManager[Any]):
    """Enters what has no need of an event loop, and then asks or measures what has to be known first."""

    def __init__(self, *parts: AbstractContextManager[Any], then: Callable[[], Awaitable[Any]] | None = None) -> None:
        self._parts, self._then, self._stack = parts, then, ExitStack()

    async def __aenter__(self) -> None:
        for each in self._parts:
            self._stack.enter_context(each)
        if self._then is not None:
            await self._then()

    async def __aexit__(self, *_: object) -> None:
        self._stack.close()


def temscript() -> ComposedMicroscope:
    fake = FakeTemscript()
    column = TemscriptColumn(fake.address, beam_current=20.0, defocus=between(-1000, 1000))
    return with_fake_camera("temscript", column, Entering(fake, column))


def temchannel() -> ComposedMicroscope:
    fake = FakeTemChannel()
    column = TemChannelColumn(fake.url, semiangle=20.0, beam_current=20.0, defocus=between(-1000, 1000))
    return with_fake_camera("temchannel", column, Entering(fake, column))


def ceos() -> ComposedMicroscope:
    fake = FakeCeos()
    corrector = CeosCorrector(port=fake.port)
    column = CorrectedColumn(FakeColumn(), corrector)
    return with_fake_camera("ceos", column, fake, Entering(then=corrector.measure))


def merlin() -> ComposedMicroscope:
    fake = FakeMerlin()
    camera = MerlinCamera(
        "127.0.0.1", fake.control, fake.data, shape=MERLIN, angular_pixel=2.0, frame_rate=1e4, latency=0.0
    )

    async def emit(index: int, pattern: np.ndarray) -> None:
        with suppress(OSError):
            await fake.send(fake.frame(1 + index, pattern))

    column = FakeColumn()
    scan = CountingScan(MERLIN, emit, column)
    return ComposedMicroscope("merlin", column, scan, camera, to_enter=(fake, camera))


def simplon(*, legacy: bool = False) -> ComposedMicroscope:
    fake = FakeSimplon()
    fake.legacy = legacy
    camera = SimplonCamera(fake.rest, fake.frames, angular_pixel=2.0, legacy=legacy, latency=0.0)

    async def emit(index: int, pattern: np.ndarray) -> None:
        fake.send_image(index, pattern=pattern)

    column = FakeColumn()
    scan = CountingScan(SIMPLON, emit, column)
    return ComposedMicroscope("simplon", column, scan, camera, to_enter=(Entering(fake), camera))


def legacy_simplon() -> ComposedMicroscope:
    return simplon(legacy=True)
