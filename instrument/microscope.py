"""The one protocol a new microscope has to implement."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from instrument.models import AcquisitionPlan, Description, Health, PlanCheck


@dataclass(frozen=True, slots=True)
class Frame:
    """One diffraction pattern.

    Attributes:
        index: position in scan order, 0 … n_positions − 1.
        pattern: (detector_y, detector_x) counts, uint8 or uint16, zero beam near the middle.
    """

    index: int
    pattern: NDArray[np.uint8] | NDArray[np.uint16]


@runtime_checkable
class Microscope(Protocol):
    """A column, a scan engine and a pixelated detector, real, simulated or recorded.

    The server that owns it calls every coroutine from one event loop; none may keep the loop busy for more than
    20 ms (put computing into threads). `blank` alone may be called from any thread at any time.
    """

    async def describe(self) -> Description:
        """What there is and which settings are legal. May change between acquisitions (a recording gets used up)."""
        ...

    async def check(self, plan: AcquisitionPlan) -> PlanCheck:
        """Cost of `plan`; raises OutOfLimitsError or ExhaustedError where it cannot be done. No side effect."""
        ...

    def acquire(self, plan: AcquisitionPlan) -> AsyncIterator[Frame]:
        """Expose. The beam is on only while this iterator is being consumed; it is off when it ends, fails or is closed.

        Raises BlankedError from the iterator when `blank` was called meanwhile.
        """
        ...

    def blank(self) -> None:
        """Beam off now; a running acquisition stops. Idempotent, thread-safe, returns within 10 ms."""
        ...

    async def health(self) -> Health:
        """Is the beam blanked, and is the column well."""
        ...
