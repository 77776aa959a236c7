"""ptychopilot, through its public interface only."""

from __future__ import annotations

from typing import Any

import harness
import numpy as np
from numpy.typing import NDArray
from recording import Recording

from agent.reconstruction import DiffractionData, Reconstruction, ReconstructionSettings, Reconstructor

DEFAULTS: dict[str, Any] = {"device": "cpu", "stop_early": False, "quantitative": False, "background": False}
"""No peer models a background, stops by itself or calibrates its phase; here nobody is asked to."""


class _EnoughError(Exception):
    """Raised in the progress callback, to stop before the schedule ends."""


def picture_of(result: Reconstruction) -> tuple[NDArray[np.float32], tuple[float, float]]:
    """Phase, and the pixel (row, column) of the first scan position."""
    first = (result.positions[0] - np.asarray(result.origin)) / np.asarray(result.pixel_size)
    return result.phase, (float(first[0]), float(first[1]))


def reconstruct(recording: Recording, options: dict[str, Any], passes: int, clock: harness.Clock) -> None:
    """See `harness`."""
    chosen = DEFAULTS | options
    if passes < harness.MAX_PASSES:
        chosen = chosen | {"max_passes": passes}
    data = DiffractionData(
        recording.flat_patterns,
        recording.positions,
        voltage=recording.voltage,
        semiangle=recording.semiangle,
        angular_pixel=recording.angular_pixel,
        defocus=-recording.c10,
    )
    job = Reconstructor(data, ReconstructionSettings(**chosen))

    def after_pass(done: int, _total: int) -> None:
        if not clock.after_pass(done, lambda: picture_of(job.result())):
            raise _EnoughError

    clock.ready()
    try:
        job.run(after_pass)
    except _EnoughError:
        return
    clock.finished(lambda: picture_of(job.result()))


if __name__ == "__main__":
    harness.main("ptychopilot", ["ptychopilot", "numpy", "numba"], reconstruct)
