# SPDX-License-Identifier: GPL-3.0-or-later
"""Faults on purpose, for trying an agent: frames lost, doubled, late, at wrong places or with rubbish, a server that dies.

`simulate --chaos "drop=0.01,dup=0.01,late=2s,lag=1,nan=1e-6,die_after=5000,flicker=0.1"`. Frames are lost and doubled on the
wire, behind the server: it books all of them. What is drawn depends on the seed.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from typing import Annotated, Any

import numpy as np
from pydantic import Field, ValidationError

from instrument import AcquisitionPlan, Frame, MalformedRequestError
from instrument.models import Record
from sim_instrument.microscope import SimulatedMicroscope

_Chance = Annotated[float, Field(ge=0, le=1)]
_START_OF_A_MESSAGE = 32
"""Bytes among which a message of the data socket says its type."""


class Chaos(Record):
    """What goes wrong; 0 switches a fault off."""

    drop: _Chance = Field(default=0.0, description="chance of a frame to be lost on the wire")
    dup: _Chance = Field(default=0.0, description="chance of a frame to be sent twice")
    late: Annotated[float, Field(ge=0, le=3600)] = Field(
        default=0.0, description="s by which one frame of every acquisition is late"
    )
    lag: Annotated[int, Field(ge=0, le=10_000)] = Field(
        default=0, description="frames by which the detector is late: each shows an earlier position"
    )
    nan: _Chance = Field(default=0.0, description="part of the pixels that hold the largest number of their type")
    die_after: Annotated[int, Field(ge=0)] = Field(
        default=0, description="frames after which the process dies, as by kill -9"
    )
    flicker: _Chance = Field(default=0.0, description="change of the current from frame to frame, rms, relative")


def chaos_from(text: str) -> Chaos:
    """The faults that somebody has asked for.

    Args:
        text: NAME=NUMBER, with commas between.

    Raises:
        MalformedRequestError: a name that is none, or a number that is not legal.
    """
    known = ", ".join(Chaos.model_fields)
    values: dict[str, str] = {}
    for part in filter(None, map(str.strip, text.split(","))):
        name, equals, number = (each.strip() for each in part.partition("="))
        if name not in Chaos.model_fields:
            msg = f"--chaos: {name!r} is no fault; known: {known}"
            raise MalformedRequestError(msg)
        if not equals or name in values:
            msg = f"--chaos: {part!r} is {'there twice' if name in values else 'without a number'}; write {name}=NUMBER once"
            raise MalformedRequestError(msg)
        values[name] = re.sub(r"(?<=[0-9.])\s*s$", "", number) if name == "late" else number
    if not values:
        msg = f"--chaos names no fault; write NAME=NUMBER with commas between, like drop=0.01,late=2s; known: {known}"
        raise MalformedRequestError(msg)
    try:
        return Chaos.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0])
        msg = f"--chaos: {name}={values[name]}: {first['msg']} ({Chaos.model_fields[name].description})"
        raise MalformedRequestError(msg) from error


class ChaoticMicroscope(SimulatedMicroscope):
    """A simulated microscope whose frames are late or hold rubbish, and whose process dies.

    Args:
        specimen, column: as those of `SimulatedMicroscope`.
        chaos: what goes wrong. `lag` and `flicker` replace those of the column.
        seed: of what is drawn, too.
        options: further ones of `SimulatedMicroscope`.
    """

    def __init__(self, specimen: Any, column: Any, *, chaos: Chaos, seed: int = 0, **options: Any) -> None:
        changes = {"frame_lag": chaos.lag, "flicker": chaos.flicker}
        column = column.model_copy(update={name: value for name, value in changes.items() if value})
        super().__init__(specimen, column, seed=seed, **options)
        self._chaos = chaos
        self._rng = np.random.default_rng([seed, 1])
        self._frames = 0

    async def acquire(self, plan: AcquisitionPlan) -> AsyncIterator[Frame]:
        """Those of the simulated microscope, late, with rubbish in them, until it dies."""
        late = int(self._rng.integers(plan.n_positions)) if self._chaos.late else -1
        count = 0
        async with aclosing(super().acquire(plan)) as frames:  # type: ignore[type-var]
            async for frame in frames:
                if count == late:
                    await asyncio.sleep(self._chaos.late)
                count += 1
                yield self._spoilt(frame)
                self._frames += 1
                if self._frames == self._chaos.die_after:
                    os.kill(os.getpid(), getattr(signal, "SIGKILL", signal.SIGTERM))

    def _spoilt(self, frame: Frame) -> Frame:
        if not self._chaos.nan:
            return frame
        pattern = frame.pattern.copy()
        pattern[self._rng.random(pattern.shape) < self._chaos.nan] = np.iinfo(pattern.dtype).max
        return Frame(frame.index, pattern)


class ChaoticWire:
    """What becomes of the messages of the data socket: frames are lost or doubled, starts and ends are not.

    Args:
        chaos: what goes wrong.
        seed: of what is drawn.
    """

    def __init__(self, chaos: Chaos, seed: int = 0) -> None:
        self._chaos = chaos
        self._rng = np.random.default_rng([seed, 2])

    def __call__(self, message: bytes) -> Iterator[bytes]:
        """What is sent instead of a message.

        Args:
            message: encoded Stream V2.
        """
        drawn = self._rng.random(2) if b"image" in message[:_START_OF_A_MESSAGE] else (1.0, 1.0)
        if drawn[0] >= self._chaos.drop:
            yield message
            if drawn[1] < self._chaos.dup:
                yield message
