"""RosettaSciIO, and so HyperSpy: signals with axes and units, eagerly and lazily.

python read_rosettasciio.py FOLDER
"""

import sys
from pathlib import Path

import hdf5plugin  # noqa: F401 (patterns are bitshuffle-LZ4)
import numpy as np
from rsciio.nexus import file_reader

folder = Path(sys.argv[1])
expected = np.load(folder / "expected.npz")


def signals(name: str, **options: object) -> dict[str, dict]:
    found = file_reader(str(folder / name), nxdata_only=True, **options)
    return {signal["metadata"]["General"]["title"]: signal for signal in found}


def check_axes(signal: dict, names: list[str], navigated: int) -> None:
    for number, (axis, name) in enumerate(zip(signal["axes"], names, strict=True)):
        values = axis.get("axis")
        if values is None:
            values = axis["offset"] + axis["scale"] * np.arange(axis["size"])
        assert np.allclose(values, expected[name]), name
        assert axis["units"] in ("Å", "mrad"), axis
        assert axis["navigate"] == (number < navigated), axis


for lazy in (False, True):
    found = signals("acquisition.h5", lazy=lazy)
    patterns = found["diffraction"]
    assert np.array_equal(np.asarray(patterns["data"]), expected["patterns"])
    check_axes(patterns, ["scan_y", "scan_x", "detector_y", "detector_x"], 2)
    mean = found["mean_pattern"]
    assert np.allclose(np.asarray(mean["data"]), expected["patterns"].mean(axis=(0, 1)))
    found = signals("reconstruction.h5", lazy=lazy)
    phase = found["phase_image"]
    assert np.array_equal(np.asarray(phase["data"]), expected["phase"])
    check_axes(phase, ["y", "x"], 0)
    assert "fourier_ring_correlation" in found
assert file_reader(str(folder / "reconstruction.h5")), "with everything else in the file as metadata"
print("RosettaSciIO: every number read back")
