"""The second name of the data in our HDF5 files: an EMD 1.0 tree beside the NeXus one, which py4DSTEM and emdfile open.

https://emdatasets.com/format. Nothing is stored twice: the arrays are hard links, and only axes and calibration are added.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

ROOT = "root"
"""Name of the tree. It sorts behind `entry`, so that who looks for data from the start of a file meets the NeXus name first."""


Axis = tuple[str, NDArray[np.floating[Any]], str]
"""Name, values and unit of an axis."""


def write_tree(
    file: h5py.File,
    name: str,
    python_class: str,
    data: h5py.Dataset,
    axes: Sequence[Axis],
    calibration: Mapping[str, float | str] | None = None,
) -> None:
    """Write the EMD 1.0 tree of a file: one array with its axes.

    Args:
        file: that holds `data`.
        name: of the array in the tree.
        python_class: that readers make of it: `DataCube` of py4DSTEM, `Array` of emdfile.
        data: the array, of any shape; it gets a second name.
        axes: of the array, in their order.
        calibration: py4DSTEM's, where the array is a `DataCube`.
    """
    for key, value in (("emd_group_type", "file"), ("version_major", 1), ("version_minor", 0)):
        file.attrs[key] = value
    file.attrs["authoring_program"] = "ptychopilot"
    root = _group(file, ROOT, "root", "Root")
    array = _group(root, name, "array", python_class)
    array["data"] = data
    for number, (axis, values, unit) in enumerate(axes):
        dimension = array.create_dataset(f"dim{number}", data=values)
        dimension.attrs["name"] = axis
        dimension.attrs["units"] = unit
    if calibration is not None:
        bundle = root.create_group("metadatabundle")
        bundle.attrs["emd_group_type"] = "metadatabundle"
        _write_calibration(_group(bundle, "calibration", "metadata", "Calibration"), f"/{name}", calibration)


def _write_calibration(group: h5py.Group, target: str, calibration: Mapping[str, float | str]) -> None:
    for key, value in {"_root_treepath": "", **calibration}.items():
        text = isinstance(value, str)
        group.create_dataset(key, data=np.bytes_(value) if text and value else value)
        group[key].attrs["type"] = np.bytes_("string" if text else "number")
        group[key].attrs["units"] = ""
    paths = group.create_group("_target_paths")
    paths.attrs["type"] = np.bytes_("list_of_strings")
    paths.attrs["length"] = 1
    paths.create_dataset("0", data=np.bytes_(target))


def _group(parent: h5py.Group, name: str, kind: str, python_class: str) -> h5py.Group:
    group = parent.create_group(name)
    group.attrs["emd_group_type"] = kind
    group.attrs["python_class"] = python_class
    return group
