"""Acquisitions with the beam blanked: everything happens but the exposure, and the patterns are made up.

Lenses are set, a receiver is waited for; reservations, limits, lease and SAFE hold as ever. A microscope that can scan with
its beam blanked does so (`ScansBlanked`), and its patterns have to be dark; any other is left alone. Agents get discs with
the counts that the plan implies, so that a whole campaign comes to its end; the series says that it is dry.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from instrument.frame_watch import DARK_COUNTS, FRAMES, FrameWatch
from instrument.microscope import Frame, Microscope, ScansBlanked
from instrument.models import AcquisitionPlan, Description

DIFFERENT = 16
"""Patterns that are made up; they repeat."""
LIT = 0.1
"""Part of the counts that the plan implies, above which a pattern is not dark."""


async def dry_frames(
    microscope: Microscope,
    plan: AcquisitionPlan,
    description: Description,
    watch: FrameWatch,
    alarm: Callable[[str], None],
) -> AsyncGenerator[Frame]:
    """The frames of a plan whose beam stays blanked.

    Args:
        microscope: blanked.
        plan: to be gone through.
        description: of the instrument.
        watch: is told the electrons of the plan, where the microscope's patterns are not dark.
        alarm: is told why then; the frames end.
    """
    made_up = _patterns(plan, description)
    if not isinstance(microscope, ScansBlanked):
        for index in range(plan.n_positions):
            yield Frame(index, made_up[index % DIFFERENT])
            await asyncio.sleep(0)
        return
    detector = description.detector
    pixels = detector.shape[0] * detector.shape[1]
    most = LIT * plan.electrons_per_pattern * (detector.counts_per_electron or 1.0)
    most += pixels * (2 * detector.dark_counts + DARK_COUNTS)
    lit = 0
    frames = cast("AsyncGenerator[Frame, None]", microscope.acquire_blanked(plan))
    async with aclosing(frames):
        async for frame in frames:
            total = float(np.sum(frame.pattern, dtype=np.uint64))
            lit = lit + 1 if total > most else 0
            if lit >= min(FRAMES, plan.n_positions):
                msg = (
                    f"{lit} patterns of a dry run have {total:.4g} counts; at most {most:.4g} are dark: the beam "
                    "is not blanked"
                )
                watch.electrons = plan.electrons
                alarm(msg)
                return
            yield Frame(frame.index, made_up[frame.index % DIFFERENT])


def _patterns(plan: AcquisitionPlan, description: Description) -> list[NDArray[Any]]:
    """Bright-field discs with Poisson noise."""
    detector = description.detector
    rows, columns = (np.arange(n) - n // 2 for n in detector.shape)
    disc = np.hypot(rows[:, None], columns[None]) * detector.angular_pixel <= description.semiangle
    mean = disc * (
        plan.electrons_per_pattern * (detector.counts_per_electron or 1.0) / max(1, int(np.count_nonzero(disc)))
    )
    for row, column in detector.dead_pixels:
        mean[row, column] = 0.0
    rng = np.random.default_rng(0)
    largest = min(detector.saturation, int(np.iinfo(detector.dtype).max))
    return [np.minimum(rng.poisson(mean), largest).astype(detector.dtype) for _ in range(DIFFERENT)]
