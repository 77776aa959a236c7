"""emdfile and py4DSTEM: a DataCube with its pixel sizes, the phase as an Array.

python read_py4dstem.py FOLDER
"""

import sys
from pathlib import Path

import emdfile
import h5py
import hdf5plugin  # noqa: F401 (patterns are bitshuffle-LZ4)
import numpy as np
from emdfile.utils import _get_EMD_rootgroups

folder = Path(sys.argv[1])
expected = np.load(folder / "expected.npz")

# emdfile alone, before py4DSTEM has told it what a DataCube is
phase = emdfile.read(str(folder / "reconstruction.h5"))
assert np.array_equal(phase.data, expected["phase"])
assert list(phase.dim_units) == ["Å", "Å"]
for values, name in zip(phase.dims, "yx", strict=True):
    assert np.allclose(values, expected[name])
assert _get_EMD_rootgroups(folder / "acquisition.h5") == ["root"]
with h5py.File(folder / "acquisition.h5") as file:
    cube = emdfile.Array.from_h5(file["root/datacube"])
    assert np.array_equal(cube.data, expected["patterns"])
    for values, name in zip(cube.dims, cube.dim_names, strict=True):
        assert np.allclose(values, expected[name])

import py4DSTEM  # noqa: E402

cube = py4DSTEM.read(str(folder / "acquisition.h5"))
assert isinstance(cube, py4DSTEM.DataCube), type(cube)
assert np.array_equal(cube.data, expected["patterns"])
assert np.isclose(cube.calibration.get_R_pixel_size(), expected["step"])
assert cube.calibration.get_R_pixel_units() == "A"
assert np.isclose(cube.calibration.get_Q_pixel_size(), expected["q_pixel"], rtol=1e-4)
assert cube.calibration.get_Q_pixel_units() == "A^-1"
print("emdfile, py4DSTEM: every number read back")
