"""py4DSTEM: gradient descent on the amplitude loss, object as potential, positivity on."""

from __future__ import annotations

import contextlib
import warnings
from typing import Any

import harness
import numpy as np
from numpy.typing import NDArray
from recording import Recording
from score import unwrapped

DEFAULTS = {"batch": 64, "step": 0.5, "object": "potential", "positivity": True}


class _EnoughError(Exception):
    """Raised when the constraints of a pass are done: one call for each pass would cost a tenth more."""


def reconstruct(recording: Recording, options: dict[str, Any], passes: int, clock: harness.Clock) -> None:
    """See `harness`."""
    warnings.filterwarnings("ignore")
    import py4DSTEM
    from py4DSTEM.process.phase import SingleslicePtychography

    chosen = DEFAULTS | options
    made = 0

    class Watched(SingleslicePtychography):
        def _constraints(self, *arrays: Any, **settings: Any) -> Any:
            nonlocal made
            constrained = super()._constraints(*arrays, **settings)
            made += 1

            def picture() -> tuple[NDArray[Any], tuple[float, float]]:
                phase = unwrapped(constrained[0]) if np.iscomplexobj(constrained[0]) else constrained[0]
                return phase, tuple(self._positions_px[0])

            if not clock.after_pass(made, picture):
                raise _EnoughError
            return constrained

    cube = py4DSTEM.DataCube(recording.patterns.astype(np.float32))
    cube.calibration.set_R_pixel_size(recording.step)
    cube.calibration.set_R_pixel_units("A")
    cube.calibration.set_Q_pixel_size(recording.frequency_pixel)
    cube.calibration.set_Q_pixel_units("A^-1")
    job = Watched(
        energy=recording.voltage,
        datacube=cube,
        semiangle_cutoff=recording.semiangle,
        defocus=-recording.c10,
        device="cpu",
        verbose=False,
        object_type=chosen["object"],
    ).preprocess(
        plot_center_of_mass=False,
        plot_rotation=False,
        plot_probe_overlaps=False,
        force_com_rotation=0,
        force_com_transpose=False,
    )

    clock.ready()
    with contextlib.suppress(_EnoughError):
        job.reconstruct(
            num_iter=passes,
            max_batch_size=chosen["batch"],
            step_size=chosen["step"],
            progress_bar=False,
            seed_random=1,
            object_positivity=chosen["positivity"],
        )


if __name__ == "__main__":
    harness.main("py4DSTEM", ["py4DSTEM", "numpy"], reconstruct)
