"""pty-chi: LSQML with Gaussian noise, batches of 100 in random order."""

from __future__ import annotations

from typing import Any

import harness
import numpy as np
from numpy.typing import NDArray
from recording import Recording
from score import unwrapped

DEFAULTS = {"batch": 100, "mode": "random", "momentum": 0.0, "noise": "gaussian", "std": 0.5}


def reconstruct(recording: Recording, options: dict[str, Any], passes: int, clock: harness.Clock) -> None:
    """See `harness`."""
    import torchvision_shim  # noqa: F401
    from ptychi import api
    from ptychi.api.task import PtychographyTask

    chosen = DEFAULTS | options
    patterns = recording.flat_patterns.astype(np.float32)
    n = patterns.shape[-1]
    settings = api.LSQMLOptions()
    settings.data_options.free_space_propagation_distance_m = np.inf
    settings.data_options.wavelength_m = recording.wavelength * 1e-10
    settings.data_options.fft_shift = True
    settings.data_options.save_data_on_device = False  # asks for CUDA even where the device is the CPU
    settings.object_options.pixel_size_m = recording.pixel_size * 1e-10
    settings.object_options.optimizable = True
    settings.object_options.optimizer = api.Optimizers.SGD
    settings.object_options.step_size = 1
    settings.probe_options.optimizable = True
    settings.probe_options.optimizer = api.Optimizers.SGD
    settings.probe_options.step_size = 1
    settings.probe_position_options.optimizable = False
    engine = settings.reconstructor_options
    engine.num_epochs = passes
    engine.batch_size = chosen["batch"]
    engine.default_device = api.Devices.CPU
    engine.random_seed = 1
    engine.batching_mode = getattr(api.BatchingModes, chosen["mode"].upper())
    engine.noise_model = getattr(api.NoiseModels, chosen["noise"].upper())
    engine.momentum_acceleration_gain = chosen["momentum"]
    engine.gaussian_noise_std = chosen["std"]
    # its FFT is not normalised: a probe that holds the counts themselves leaves the object empty for ten passes
    probe = recording.probe(patterns.sum(axis=(1, 2)).mean() / n**2)[None, None]
    pixels = recording.positions / recording.pixel_size
    pixels = pixels - (pixels.max(axis=0) + pixels.min(axis=0)) / 2
    extent = int(np.ceil(2 * pixels.max())) + n + 8
    job = PtychographyTask(
        settings,
        diffraction_data=patterns,
        object_data=np.ones((1, extent, extent), np.complex64),
        probe_data=probe,
        probe_position_x_px=pixels[:, 1].copy(),
        probe_position_y_px=pixels[:, 0].copy(),
    )

    def picture() -> tuple[NDArray[Any], tuple[float, float]]:
        first = extent / 2 + pixels[0]
        return unwrapped(job.get_data_to_cpu("object", as_numpy=True)), (float(first[0]), float(first[1]))

    clock.ready()
    for number in range(1, passes + 1):
        job.run(1)
        if not clock.after_pass(number, picture):
            return


if __name__ == "__main__":
    harness.main("pty-chi", ["ptychi", "torch", "numpy"], reconstruct)
