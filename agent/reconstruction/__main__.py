"""`python -m agent.reconstruction`: compile the kernels, so that the first reconstruction finds them ready."""

import numpy as np

from agent.reconstruction import DiffractionData, ReconstructionSettings, reconstruct
from agent.reconstruction.backends import choice
from agent.reconstruction.backends.cpu import warm_up


def main(pixels: int = 128) -> None:
    """On the CPU all of them; on a GPU, where there is one, those of the usual reconstructions.

    Args:
        pixels: of the detector's edge in those.
    """
    warm_up()
    if choice.gpu_reason() is None:
        rows, columns = np.indices((7, 7)).reshape(2, -1)
        patterns = np.random.default_rng(0).poisson(1.0, (49, pixels, pixels)).astype(np.uint16)
        places = np.stack([3.0 * rows, 3.0 * columns], axis=-1)
        data = DiffractionData(
            patterns, places, voltage=80e3, semiangle=20.0, angular_pixel=128 / pixels, defocus=100.0
        )
        for slices in (1, 2):
            reconstruct(data, ReconstructionSettings(slices=slices, slice_spacing=5.0, max_passes=12, device="gpu"))


if __name__ == "__main__":
    main()
