"""The one protocol a new microscope has to implement."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
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

    The server that owns it calls every coroutine from one event loop; none may keep the loop busy for more than 20 ms
    (put computing into threads). `blank` alone may be called from any thread at any time.
    """

    async def describe(self) -> Description:
        """What there is and which settings are legal. May change between acquisitions (a recording gets used up).

        `semiangle` and what goes with it are those of the aperture that was in when the microscope was made, whichever is in now.
        """
        ...

    async def check(self, plan: AcquisitionPlan) -> PlanCheck:
        """Say what a plan would cost; no side effect.

        Args:
            plan: within the limits of the description.

        Returns:
            The cost, with all electrons that reach the specimen.

        Raises:
            OutOfLimitsError: it cannot be done.
            ExhaustedError: a recording has too few counts left.
        """
        ...

    def acquire(self, plan: AcquisitionPlan) -> AsyncIterator[Frame]:
        """Expose. The beam is on only while frames are being asked for; it is off when the iterator ends, fails or is closed.

        The iterator is suspended while its consumer holds a frame. A scan may run on for `instrument.beam.HOLD_LIMIT` (0.5 s)
        then, into the buffers of detector and driver. After that the beam is off, until the next frame is asked for: the
        driver pauses the scan with the beam blanked, or gives it up with BlankedError. `instrument.beam.Hold` has the timer.

        Args:
            plan: that has been checked and reserved.

        Yields:
            The frames, each index once, in any order.

        Raises:
            BlankedError: `blank` was called meanwhile, or a frame was held for too long.
        """
        ...

    def blank(self) -> None:
        """Turn the beam off now; a running acquisition stops. Idempotent, thread-safe, returns within 10 ms."""
        ...

    async def health(self) -> Health:
        """Whether the beam is blanked, and whether the column is well. Asked every second; answers within 10 s, always."""
        ...


@runtime_checkable
class CountsBeamTime(Protocol):
    """What a microscope has besides, where it knows how long its beam has been on (a counter, the clock of a simulation).

    Without it, an acquisition that did not come to its end is charged for all the time from the first frame that was asked
    for to the blanking.
    """

    def beam_time(self) -> float:
        """s for which the beam has been on the specimen so far, in all acquisitions. Quick; never decreases."""
        ...


@runtime_checkable
class LosesFrames(Protocol):
    """What a microscope has besides, where a camera may lose frames that a trial can do without.

    An acquisition whose frames and lost ones are as many as its positions is done; what is lost is masked. Where more is
    lost than is good, `acquire` raises.
    """

    def lost_frames(self) -> int:
        """How many frames of the acquisition that has just ended are known to be lost."""
        ...


@runtime_checkable
class ScansBlanked(Protocol):
    """What a microscope has besides, where it can scan and read its camera with the beam blanked, for dry runs.

    Without it a dry run sets the column where that can be read back, and leaves scan engine and camera alone.
    """

    def acquire_blanked(self, plan: AcquisitionPlan) -> AsyncIterator[Frame]:
        """As `acquire`, but the beam is never on.

        Args:
            plan: that has been checked.

        Yields:
            The frames, dark, each index once, in any order.
        """
        ...


@runtime_checkable
class NeedsHeartbeat(Protocol):
    """What a microscope has besides, where a hardware line keeps its beam on only as long as it is pulsed."""

    def heartbeat(self) -> None:
        """Give one pulse. Called ten times a second from the thread that guards the beam; returns within 10 ms."""
        ...


@runtime_checkable
class ReadsBack(Protocol):
    """What a microscope has besides, where it can be set and asked what it is set to.

    The server sets `defocus` before an exposure, waits for `Description.settle_time`, and compares what it reads back with
    `Description.tolerances`. When nobody has the lease any more it puts back everything that has a tolerance. A setting that has
    a slew is changed in portions, one that is called `beam_stop` is set to 1 (in) and 0 (out), and `semiangle` to that of one of
    `Description.apertures`, mrad.
    """

    async def set(self, settings: Mapping[str, float]) -> None:
        """Set the column; the beam is blanked meanwhile.

        Args:
            settings: name -> value, in the units of the description.
        """
        ...

    async def read_back(self) -> Mapping[str, float]:
        """What the column is set to, as it says itself: name -> value, in the units of the description."""
        ...
