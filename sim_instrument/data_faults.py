# SPDX-License-Identifier: GPL-3.0-or-later
"""What goes wrong with data on their way from the beam to the file; every fault is off unless it is asked for.

Which frames, lines and pixels it hits depends on the instrument's seed, for frames and lines on the acquisition's id too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from instrument.models import Record

_Count = Annotated[int, Field(ge=0)]


class DataFaults(Record):
    """Faults of frames, of the scan they belong to, and of pixels that touch each other."""

    flicker: Annotated[
        float, Field(ge=0, le=1, description="change of the current from frame to frame, rms, relative")
    ] = 0.0
    current_drift: Annotated[
        float, Field(ge=-1, le=10, description="change of the current from the first to the last frame, relative")
    ] = 0.0
    weak_lines: _Count = Field(default=0, description="scan lines at a reduced current, per scan")
    weak_line_current: Annotated[float, Field(ge=0, le=1, description="current of a weak line, relative")] = 0.8
    blank_frames: _Count = Field(default=0, description="frames during which the beam was off, per scan")
    missing_frames: _Count = Field(default=0, description="frames that were never written and are zero, per scan")
    aborted_at: Annotated[
        float, Field(gt=0, le=1, description="part of the scan after which no frame was written; 1: complete")
    ] = 1.0
    frame_lag: _Count = Field(
        default=0, description="frames by which the detector is late: each shows an earlier position"
    )
    descan_y: float = Field(default=0.0, description="shift of the pattern down the detector over the scan's y, pixels")
    descan_x: float = Field(default=0.0, description="shift of the pattern to the right over the scan's x, pixels")
    hot_blocks: Annotated[
        int, Field(ge=0, le=50, description="blocks of hot pixels that touch; nobody has noticed")
    ] = 0
    hot_block_size: Annotated[int, Field(ge=1, le=8, description="pixels along the edge of a block")] = 2
    hot_block_rate: Annotated[float, Field(ge=0, description="false counts of each pixel of a block, 1/s")] = 1e4
    dead_rows: Annotated[
        int, Field(ge=0, le=16, description="rows of pixels that do not count; nobody has noticed")
    ] = 0
    gap: Annotated[
        int,
        Field(ge=0, le=16, description="width of the cross between four detector chips that does not count, pixels"),
    ] = 0


NO_DATA_FAULTS = DataFaults().model_dump()
"""The value of each fault that switches it off."""


@dataclass(frozen=True)
class FrameFaults:
    """What happens to each frame of a scan.

    Attributes:
        current: (n,) of the beam, relative to what it should be.
        written: (n,) whether the frame got into the file.
        source: (n,) position in scan order that the frame shows.
        shift: (n, 2) of the pattern on the detector at each position, pixels along rows and columns.
    """

    current: NDArray[np.float64]
    written: NDArray[np.bool_]
    source: NDArray[np.int64]
    shift: NDArray[np.float64]

    @classmethod
    def draw(
        cls, faults: DataFaults, positions: NDArray[np.float64], line: int, rng: np.random.Generator
    ) -> FrameFaults:
        """Decide which frames are hit.

        Args:
            faults: how many, and how much.
            positions: (n, 2) set-points in scan order, of all passes, (y, x), Å.
            line: positions in a scan line.
            rng: source of randomness.
        """
        n = len(positions)
        current = np.maximum(1 + faults.flicker * rng.standard_normal(n), 0)
        current *= np.linspace(1, 1 + faults.current_drift, n)
        weak = rng.permutation(n // line)[: faults.weak_lines]
        current.reshape(-1, line)[weak] *= faults.weak_line_current
        order = rng.permutation(n)
        current[order[: faults.blank_frames]] = 0
        written = np.arange(n) < round(faults.aborted_at * n)
        written[order[faults.blank_frames :][: faults.missing_frames]] = False
        extent = np.ptp(positions, axis=0)
        from_centre = (positions - positions.min(axis=0) - extent / 2) / np.where(extent > 0, extent, 1)
        shift = from_centre * (faults.descan_y, faults.descan_x)
        return cls(current, written, np.maximum(np.arange(n) - faults.frame_lag, 0), shift)


def touching_bad_pixels(
    faults: DataFaults, n: int, rng: np.random.Generator
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Where the blocks of hot pixels, dead rows and the gap between chips are.

    Args:
        faults: how many, how large.
        n: detector pixels along an edge.
        rng: source of randomness.

    Returns:
        (n, n) hot pixels, and (n, n) pixels that do not count.
    """
    hot, silent = np.zeros((n, n), dtype=bool), np.zeros((n, n), dtype=bool)
    edge = faults.hot_block_size
    for row, column in rng.integers(0, n - edge + 1, (faults.hot_blocks, 2)):
        hot[row : row + edge, column : column + edge] = True
    silent[rng.permutation(n)[: faults.dead_rows]] = True
    first = (n - faults.gap) // 2
    silent[first : first + faults.gap] = True
    silent[:, first : first + faults.gap] = True
    return hot & ~silent, silent
