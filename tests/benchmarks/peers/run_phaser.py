"""phaser: gradient engine, Adam, JAX. It compiles anew for every job (about a second), so its first pass is never warm."""

from __future__ import annotations

from typing import Any

import harness
import numpy as np
from numpy.typing import NDArray
from recording import Recording
from score import unwrapped

DEFAULTS = {"batch": 64, "lr": 2e-2, "noise": "anscombe", "eps": 0.1, "amplitude": 1.1}


class _EnoughError(Exception):
    """Raised inside the observer: the plan itself has no other way to stop."""


def plan_of(recording: Recording, chosen: dict[str, Any], passes: int) -> dict[str, Any]:
    """The job in phaser's own terms."""
    engine = {
        "type": "gradient",
        "probe_modes": 1,
        "niter": passes,
        "grouping": chosen["batch"],
        "bwlim_frac": None,
        "calc_error_fraction": 0.05,
        "buffer_n_groups": None,
        "shuffle_groups": True,
        "noise_model": {"type": chosen["noise"], "eps": chosen["eps"]},
        "save": False,
        "save_images": False,
        "solvers": {
            "object": {"type": "adam", "learning_rate": chosen["lr"], "nesterov": True},
            "probe": {"type": "adam", "learning_rate": chosen["lr"]},
        },
        "regularizers": [],
        "group_constraints": [{"type": "clamp_object_amplitude", "amplitude": chosen["amplitude"]}],
        "iter_constraints": [],
    }
    return {
        "name": "benchmark",
        "backend": "jax",
        "raw_data": {
            "type": "manual",
            "path": str(recording.path.resolve()),
            "key": "patterns",
            "diff_step": recording.angular_pixel,
            "kv": recording.voltage / 1e3,
            "adu": 1.0,
        },
        "init": {
            "probe": {"type": "focused", "conv_angle": recording.semiangle, "defocus": recording.c10},
            "scan": {"type": "raster", "shape": [recording.n, recording.n], "step_size": recording.step},
            "object": {"type": "random", "sigma": 1e-6},
        },
        "engines": [engine],
    }


def reconstruct(recording: Recording, options: dict[str, Any], passes: int, clock: harness.Clock) -> None:
    """See `harness`."""
    from phaser.execute import execute_plan
    from phaser.observer import Observer
    from phaser.plan import ReconsPlan

    class Watch(Observer):
        def start_engine(self, state: Any) -> None:
            clock.ready()

        def update_iteration(self, state: Any, i: int, n: int, errors: Any) -> None:
            def picture() -> tuple[NDArray[Any], tuple[float, float]]:
                sampling = state.object.sampling
                first = (np.asarray(state.scan.data).reshape(-1, 2)[0] - sampling.corner) / sampling.sampling
                return unwrapped(np.asarray(state.object.data)), (float(first[0]), float(first[1]))

            if not clock.after_pass(i, picture):
                raise _EnoughError

    plan = ReconsPlan.from_data(plan_of(recording, DEFAULTS | options, passes))
    try:
        execute_plan(plan, override_observers=[Watch()])
    except _EnoughError:
        return


if __name__ == "__main__":
    harness.main("phaser", ["phaserEM", "jax", "numpy"], reconstruct)
