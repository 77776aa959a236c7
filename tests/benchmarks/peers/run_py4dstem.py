"""py4DSTEM: gradient descent on the amplitude loss, object as potential, positivity on."""

from __future__ import annotations

import warnings
from typing import Any

import harness
import numpy as np
from numpy.typing import NDArray
from recording import Recording
from score import unwrapped

DEFAULTS = {"batch": 64, "step": 0.5, "object": "potential", "positivity": True}


def reconstruct(recording: Recording, options: dict[str, Any], passes: int, clock: harness.Clock) -> None:
    """See `harness`."""
    warnings.filterwarnings("ignore")
    import py4DSTEM
    from py4DSTEM.process import phase as phase_methods

    chosen = DEFAULTS | options
    cube = py4DSTEM.DataCube(recording.patterns.astype(np.float32))
    cube.calibration.set_R_pixel_size(recording.step)
    cube.calibration.set_R_pixel_units("A")
    cube.calibration.set_Q_pixel_size(recording.frequency_pixel)
    cube.calibration.set_Q_pixel_units("A^-1")
    job = phase_methods.SingleslicePtychography(
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

    def picture() -> tuple[NDArray[Any], tuple[float, float]]:
        obj = job.object
        phase = unwrapped(obj) if np.iscomplexobj(obj) else obj
        return phase, tuple(job._positions_px[0])

    clock.ready()
    for number in range(1, passes + 1):
        job.reconstruct(
            num_iter=1,
            reset=None if number == 1 else False,
            max_batch_size=chosen["batch"],
            step_size=chosen["step"],
            progress_bar=False,
            seed_random=number,  # the same seed every time would repeat one order of the batches
            object_positivity=chosen["positivity"],
        )
        if not clock.after_pass(number, picture):
            return


if __name__ == "__main__":
    harness.main("py4DSTEM", ["py4DSTEM", "numpy"], reconstruct)
