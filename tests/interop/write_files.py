"""An acquisition and a reconstruction with numbers that are all different, and the same numbers as plain arrays.

python write_files.py FOLDER
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from agent.config import Metadata
from agent.reconstruction import Reconstruction
from agent.records import Optics, Score
from agent.storage.acquisition_file import AcquisitionWriter, read_acquisition
from agent.storage.reconstruction_file import write_reconstruction
from instrument import stream
from instrument.models import AcquisitionPlan, Description, Detector, Outcome, Parameter, Rectangle

SHAPE, PIXELS, STEP = (5, 7), (24, 32), 0.8


def main(folder: Path) -> None:
    """Write `acquisition.h5`, `reconstruction.h5` and `expected.npz`."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    patterns = rng.integers(0, 60_000, (SHAPE[0] * SHAPE[1], *PIXELS), dtype=np.uint16)
    plan = AcquisitionPlan(
        id="a-001", campaign="interop", region="final-001", step=STEP, defocus=100.0, dose=500.0,
        field=Rectangle(y=10, x=20, height=SHAPE[0] * STEP, width=SHAPE[1] * STEP),
    )  # fmt: skip
    assert plan.shape == SHAPE

    def between(low: float, high: float, unit: str) -> Parameter:
        return Parameter(kind="continuous", unit=unit, minimum=low, maximum=high)

    description = Description(
        name="made up",
        voltage=80e3,
        semiangle=21.4,
        detector=Detector(shape=PIXELS, angular_pixel=2.5, dtype="uint16", saturation=65535),
        step=between(0.2, 5, "Å"),
        defocus=between(-1000, 1000, "Å"),
        dose=between(1, 1e6, "e/Å²"),
        electrons_per_pattern=(1, 1e9),
        area=Rectangle(y=0, x=0, height=300, width=300),
    )
    with AcquisitionWriter(folder / "acquisition.h5", plan, description, Metadata()) as writer:
        for index, pattern in enumerate(patterns):
            writer.frame(index, stream.compress(pattern), PIXELS, patterns.dtype)
        writer.finish(Outcome(id="a-001", state="done", frames=len(patterns), electrons=1e4))
    phase = rng.standard_normal((40, 50)).astype(np.float32)
    pixel_size, origin = (0.3, 0.25), (9.0, 19.0)
    reconstruction = Reconstruction(
        object=np.exp(1j * phase)[None].astype(np.complex64), phase=phase, pixel_size=pixel_size, origin=origin,
        probe=rng.standard_normal((1, *PIXELS)).astype(np.complex64), positions=plan.scan_positions(), defocus=98.0,
        aberrations={"C12": 12.0, "phi12": 0.3}, background=None, deviance=(1.1,), passes=1,
        illuminated=np.ones_like(phase), device="cpu", seconds=1.0,
    )  # fmt: skip
    optics = Optics(
        defocus=98.0, rotation=0.2, mirrored=False, centre=(12.0, 16.0), aberrations={"C12": 12.0, "phi12": 0.3},
        sd={"defocus": 1.5, "rotation": 0.01},
    )  # fmt: skip
    frc = Score(value=3.5, sd=0.1, frequency=(0.2, 0.3), frc=(0.9, 0.8), pairs=(40.0, 60.0))
    acquisition = read_acquisition(folder / "acquisition.h5")
    write_reconstruction(
        folder / "reconstruction.h5", reconstruction, frc, None, plan.field, acquisition, optics=optics
    )
    np.savez(
        folder / "expected.npz",
        patterns=patterns.reshape(*SHAPE, *PIXELS),
        scan_y=10 + (np.arange(SHAPE[0]) + 0.5) * STEP,
        scan_x=20 + (np.arange(SHAPE[1]) + 0.5) * STEP,
        detector_y=(np.arange(PIXELS[0]) - PIXELS[0] // 2) * 2.5,
        detector_x=(np.arange(PIXELS[1]) - PIXELS[1] // 2) * 2.5,
        step=STEP,
        q_pixel=2.5e-3 / 0.041757,
        phase=phase,
        y=origin[0] + np.arange(40) * pixel_size[0],
        x=origin[1] + np.arange(50) * pixel_size[1],
        pixel_size=pixel_size,
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
