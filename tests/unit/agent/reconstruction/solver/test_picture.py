"""What a notebook shows of a reconstruction: its phase as a picture that is to scale, and its numbers."""

from __future__ import annotations

import base64
import re
from io import BytesIO

import matplotlib.image
import numpy as np

from agent.reconstruction import Reconstruction
from agent.reconstruction.solver.picture import grey_png


def reconstruction() -> Reconstruction:
    phase = np.linspace(-1, 1, 30 * 40, dtype=np.float32).reshape(30, 40)
    lit = np.zeros_like(phase)
    lit[5:25, 10:30] = 1
    return Reconstruction(
        object=np.exp(1j * phase)[None].astype(np.complex64), phase=phase, pixel_size=(0.5, 0.25), origin=(0, 0),
        probe=np.ones((2, 8, 8), np.complex64), positions=np.zeros((9, 2)), defocus=-120.0,
        aberrations={"C12": 12.0, "phi12": 0.3}, background=None, deviance=(1.5, 1.1), passes=2, illuminated=lit,
        device="cpu", seconds=1.25, optics_sd={"defocus": 3.0}, notes=("<kept> on disk",),
    )  # fmt: skip


def test_a_png_holds_the_levels_that_it_was_made_of() -> None:
    levels = np.arange(12 * 7, dtype=np.uint8).reshape(12, 7)
    read = matplotlib.image.imread(BytesIO(grey_png(levels)), format="png")
    assert np.array_equal(np.rint(read * 255), levels)


def test_a_notebook_shows_the_phase_to_scale_and_the_numbers() -> None:
    html = reconstruction()._repr_html_()
    found = re.search(r'height:280px;width:(\d+)px" src="data:image/png;base64,([^"]+)"', html)
    assert found
    assert int(found[1]) == 140, "half as wide as high: the pixels are not square"
    picture = matplotlib.image.imread(BytesIO(base64.b64decode(found[2])), format="png")
    assert picture.shape[:2] == (20, 20), "what was not illuminated is cut off"
    assert picture.flat[0] < picture.flat[-1], "a larger phase is lighter"
    for expected in (
        "10 × 5 Å",
        "-120 ± 3 Å",
        "C12",
        "12 Å",
        "1.1 a pixel",
        "9 patterns in 2 passes",
        "&lt;kept&gt; on disk",
    ):
        assert expected in html
