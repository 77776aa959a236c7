"""Large arrays: in memory where they fit, otherwise in a file."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from instrument.errors import BadInputError

MEMINFO = Path("/proc/meminfo")


def free_memory() -> int:
    """Memory that could be allocated now without swapping, bytes: as the system estimates it, which needs no package."""
    if sys.platform == "win32":
        return _free_on_windows()
    with contextlib.suppress(OSError):
        for line in MEMINFO.read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    # Elsewhere the system does not say it in one number.
    return int(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2)


def _free_on_windows() -> int:
    import ctypes

    class Status(ctypes.Structure):
        """MEMORYSTATUSEX."""

        _fields_ = (
            ("length", ctypes.c_uint32),
            ("load", ctypes.c_uint32),
            *(
                (name, ctypes.c_uint64)
                for name in ("physical", "free", "page", "page_free", "virtual", "left", "extended")
            ),
        )

    status = Status(length=ctypes.sizeof(Status))
    ctypes.windll.kernel32.GlobalMemoryStatusEx(ctypes.byref(status))  # type: ignore[attr-defined]
    return int(status.free)


def allocate(shape: tuple[int, ...], kind: DTypeLike) -> NDArray[Any]:
    """An uninitialised array for counts, in memory or on disk.

    It lies in a file without a name where it would take more than half of the free memory.

    Args:
        shape: of the array.
        kind: its data type.

    Returns:
        The array.

    Raises:
        BadInputError: the disk cannot hold it either.
    """
    size, free = int(np.prod(shape, dtype=np.int64)) * np.dtype(kind).itemsize, free_memory()
    if size < free / 2:
        return np.empty(shape, kind)
    folder = tempfile.gettempdir()
    left = shutil.disk_usage(folder).free
    if size > left:
        msg = (
            f"the counts take {size / 1e9:.3g} GB, more than half of the free memory ({free / 1e9:.3g} GB), and {folder} has "
            f"only {left / 1e9:.3g} GB left to keep them; free some, or set TMPDIR to a folder of a larger disk"
        )
        raise BadInputError(msg)
    return np.memmap(tempfile.TemporaryFile(prefix="ptychopilot-counts-"), dtype=kind, mode="w+", shape=shape)


def load_dataset(dataset: Any) -> NDArray[Any]:
    """The numbers of an HDF5 data set, mapped where the file has them in one piece, otherwise read.

    Args:
        dataset: an h5py data set of an open file.

    Returns:
        An array of the data set's shape and type.

    Raises:
        BadInputError: neither memory nor disk can hold it.
        OSError, ValueError: the file is damaged.
    """
    import h5py

    size, offset = dataset.size * dataset.dtype.itemsize, dataset.id.get_offset()
    as_in_memory = dataset.id.get_type().equal(h5py.h5t.py_create(dataset.dtype))
    if size and offset is not None and as_in_memory and dataset.id.get_storage_size() == size:
        return np.memmap(dataset.file.filename, dtype=dataset.dtype, mode="r", offset=offset, shape=dataset.shape)
    out = allocate(dataset.shape, dataset.dtype)
    if size:
        dataset.read_direct(out)  # chunk by chunk
    return out
