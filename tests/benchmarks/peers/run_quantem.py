"""quantem: object as potential, AdamW, the models of PtychoLite with the losses of Ptychography."""

from __future__ import annotations

import contextlib
import warnings
from typing import Any

import harness
import numpy as np
from numpy.typing import NDArray
from recording import Recording
from score import unwrapped

DEFAULTS = {"batch": 64, "lr_object": 5e-3, "lr_probe": 1e-3, "object": "potential", "loss": "l2_amplitude"}


class _EnoughError(Exception):
    """Raised after a pass: one call for each pass would cost a third more, for it collects garbage every time."""


def _raster(recording: Recording) -> Any:
    """The recording as quantem's data set."""
    from quantem.core.datastructures import Dataset4dstem
    from quantem.diffractive_imaging.dataset_models import PtychographyDatasetRaster

    step, pixel = recording.step, recording.frequency_pixel
    raw = Dataset4dstem.from_array(
        array=recording.patterns.astype(np.float32),
        sampling=(step, step, pixel, pixel),
        units=("A", "A", "A^-1", "A^-1"),
    )
    data = PtychographyDatasetRaster.from_dataset4dstem(raw)
    data.preprocess(
        com_fit_function="constant",
        force_com_rotation=0,
        force_com_transpose=False,
        plot_rotation=False,
        plot_com=False,
        probe_energy=recording.voltage,
    )
    return data


def reconstruct(recording: Recording, options: dict[str, Any], passes: int, clock: harness.Clock) -> None:
    """See `harness`."""
    warnings.filterwarnings("ignore")
    from quantem.diffractive_imaging.ptychography import Ptychography
    from quantem.diffractive_imaging.ptychography_lite import PtychoLite

    class Watched(PtychoLite):
        def step_schedulers(self, *loss: Any) -> None:
            super().step_schedulers(*loss)
            if not clock.after_pass(self.num_iters, picture):
                raise _EnoughError

    chosen = DEFAULTS | options
    data = _raster(recording)
    job = Watched.from_dataset(
        data,
        obj_type=chosen["object"],
        num_probes=1,
        energy=recording.voltage,
        defocus=-recording.c10,
        semiangle_cutoff=recording.semiangle,
        device="cpu",
        verbose=False,
        rng=1,
        obj_padding_px=(0, 0),
    )

    def picture() -> tuple[NDArray[Any], tuple[float, float]]:
        obj = job.obj
        obj = obj.detach().cpu().numpy() if hasattr(obj, "detach") else np.asarray(obj)
        phase = obj.real.sum(axis=0) if chosen["object"] == "potential" else unwrapped(obj)
        return phase, tuple(data.scan_positions_px[0].detach().cpu().numpy())

    optimizers = {
        "object": {"name": "adamw", "lr": chosen["lr_object"]},
        "probe": {"name": "adamw", "lr": chosen["lr_probe"]},
    }
    clock.ready()
    with contextlib.suppress(_EnoughError):
        Ptychography.reconstruct(  # PtychoLite's own method has no choice of the loss
            job,
            num_iters=passes,
            reset=True,
            optimizer_params=optimizers,
            batch_size=chosen["batch"],
            loss_type=chosen["loss"],
        )


if __name__ == "__main__":
    harness.main("quantem", ["quantem", "torch", "numpy"], reconstruct)
