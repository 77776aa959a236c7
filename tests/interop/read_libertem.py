"""LiberTEM: the acquisition as a 4D data set, found without being told its scan shape.

python read_libertem.py FOLDER
"""

import sys
from pathlib import Path

import hdf5plugin  # noqa: F401 (patterns are bitshuffle-LZ4)
import numpy as np
from libertem.api import Context
from libertem.udf.base import NoOpUDF  # noqa: F401 (the first import that fails where LiberTEM is broken)
from libertem.udf.raw import PickUDF

folder = Path(sys.argv[1])
expected = np.load(folder / "expected.npz")["patterns"]

with Context.make_with("inline") as context:
    path = str(folder / "acquisition.h5")
    found = context.load("auto", path=path)
    assert tuple(found.shape) == expected.shape, found.shape
    data = context.load("hdf5", path=path, ds_path="entry/diffraction/data")
    assert np.array_equal(context.run_udf(data, PickUDF())["intensity"].data.reshape(expected.shape), expected)
    summed = context.run(context.create_sum_analysis(data))
    assert np.allclose(summed.intensity.raw_data, expected.sum(axis=(0, 1), dtype=np.float64))
print("LiberTEM: every number read back")
