"""silx, h5grove and nexusformat: the default plot, the 4D data set, every number with its unit.

python read_silx.py FOLDER
"""

import json
import sys
from pathlib import Path

import h5py
import hdf5plugin  # noqa: F401 (patterns are bitshuffle-LZ4)
import nexusformat.nexus as nx
import numpy as np
from h5grove.content import create_content, get_content_from_file
from silx.io import nxdata
from silx.io import open as silx_open

folder = Path(sys.argv[1])
expected = np.load(folder / "expected.npz")

with silx_open(str(folder / "acquisition.h5")) as file:
    default = nxdata.get_default(file)
    assert default.is_valid
    assert default.is_image
    assert np.allclose(default.signal[()], expected["patterns"].mean(axis=(0, 1)))
    four = nxdata.NXdata(file["entry/diffraction"])
    assert four.is_valid
    assert np.array_equal(four.signal[()], expected["patterns"])
    for name, values in zip(four.axes_dataset_names, four.axes, strict=True):
        assert np.allclose(values[()], expected[name]), name
        assert values.attrs["units"] in ("Å", "mrad")
with silx_open(str(folder / "reconstruction.h5")) as file:
    default = nxdata.get_default(file)
    assert default.is_valid
    assert default.is_image
    assert np.array_equal(default.signal[()], expected["phase"])
    assert np.allclose(default.axes[0][()], expected["y"])
    assert np.allclose(default.axes[1][()], expected["x"])
    curve = nxdata.NXdata(file["entry/fourier_ring_correlation"])
    assert curve.is_valid
    assert curve.is_curve

with h5py.File(folder / "acquisition.h5") as file:
    content = create_content(file, "/entry/diffraction/data")
    assert content.metadata()["shape"] == expected["patterns"].shape
    assert np.array_equal(content.data(selection="2,3"), expected["patterns"][2, 3])
with get_content_from_file(str(folder / "reconstruction.h5"), "/entry/reconstruction", lambda *_: None) as content:
    assert "phase" in {child["name"] for child in json.loads(json.dumps(content.metadata(), default=str))["children"]}

root = nx.nxload(str(folder / "reconstruction.h5"))
assert np.array_equal(root.plottable_data.nxsignal.nxdata, expected["phase"])
print("silx, h5grove, nexusformat: every number read back")
