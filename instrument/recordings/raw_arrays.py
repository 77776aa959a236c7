"""Patterns in files that hold little more than numbers: NumPy's .npy, and raw bytes as the EMPAD and many cameras write them.

Nothing is read here: what is returned is a memory map, so that a scan of 65,536 positions needs no memory of its own.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, fields
from pathlib import Path
from tokenize import TokenError
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from instrument.errors import BadInputError

EMPAD_ROWS, EMPAD_SIZE = 130, 128
"""An EMPAD frame is 130 rows of 128 float32; the last two are not pixels (Tate et al., Microsc. Microanal. 22 (2016) 237)."""
_EMPAD_NAME = re.compile(r"x(\d+)_y(\d+)")


@dataclass(frozen=True)
class ArrayLayout:
    """How the numbers lie in a file that does not say it; None: not given.

    Attributes:
        scan_shape: (scan_y, scan_x) positions.
        detector_shape: (detector_y, detector_x) pixels.
        dtype: of one count, in NumPy's words: uint8, uint16, >u2 (big-endian), float32, …
        offset: bytes before the first pattern.
    """

    scan_shape: tuple[int, int] | None = None
    detector_shape: tuple[int, int] | None = None
    dtype: str | None = None
    offset: int | None = None

    def allow_only(self, path: Path, *legal: str) -> None:
        """Raise BadInputError where something is given besides the attributes `legal`, which the file states itself."""
        for field in fields(self):
            if getattr(self, field.name) is not None and field.name not in legal:
                option = f"--{field.name.replace('_', '-')}"
                msg = f"{path}: states its {field.name.replace('_', ' ')} itself; leave {option} out"
                raise BadInputError(msg)


def map_npy(path: Path, layout: ArrayLayout) -> NDArray[Any]:
    """(scan_y, scan_x, ky, kx) or, as `layout.scan_shape` divides them, (n, ky, kx) counts of a .npy file, memory-mapped.

    Raises BadInputError where the file is no such array, or cut short.
    """
    layout.allow_only(path, "scan_shape")
    try:
        patterns: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError, TokenError) as error:  # the last from a header that is cut short
        msg = f"{path}: not a NumPy array file that can be read to its end ({' '.join(str(error).split())})"
        raise BadInputError(msg) from error
    if patterns.dtype.kind not in "uif" or patterns.ndim not in (3, 4):
        msg = (
            f"{path}: holds {patterns.ndim}-dimensional {patterns.dtype}, not four-dimensional counts "
            f"(scan_y, scan_x, detector_y, detector_x)"
        )
        raise BadInputError(msg)
    if patterns.ndim == 3 or layout.scan_shape is not None:
        patterns = as_raster(path, patterns.reshape(-1, *patterns.shape[-2:]), layout.scan_shape)
    return patterns


def map_raw(path: Path, layout: ArrayLayout) -> NDArray[Any]:
    """(scan_y, scan_x, ky, kx) counts of a file of bare numbers, memory-mapped.

    Without `layout.detector_shape` the file is taken for an EMPAD's: 130 × 128 float32, of which 128 × 128 are returned, and
    the scan's shape is read from a name like scan_x256_y256.raw.

    Raises:
        BadInputError: a shape is missing, or the file's size is another than shape and type make it.
    """
    empad = layout.detector_shape is None
    if empad and (layout.dtype is not None and np.dtype(_dtype(layout.dtype)) != np.float32):
        msg = f"{path}: a raw file does not say how large its patterns are; give --detector-shape beside --dtype"
        raise BadInputError(msg)
    scan_shape = layout.scan_shape
    if scan_shape is None and empad and (named := _EMPAD_NAME.search(path.name)):
        scan_shape = (int(named[2]), int(named[1]))
    if scan_shape is None:
        msg = f"{path}: a raw file does not say how many positions were scanned; give --scan-shape ROWS,COLUMNS"
        raise BadInputError(msg)
    if not empad and layout.dtype is None:
        msg = f"{path}: a raw file does not say the type of its counts; give --dtype (uint8, uint16, >u2, float32, …)"
        raise BadInputError(msg)
    dtype = _dtype(layout.dtype or "<f4")
    shape = (*scan_shape, *(layout.detector_shape or (EMPAD_ROWS, EMPAD_SIZE)))
    offset = layout.offset or 0
    needed, size = offset + math.prod(shape) * dtype.itemsize, path.stat().st_size
    if size != needed:
        what = " × ".join(map(str, shape))
        frame = math.prod(shape[2:]) * dtype.itemsize
        msg = (
            f"{path}: has {size} bytes, but {what} of {dtype.name} after {offset} bytes take {needed}; it is "
            f"{'truncated' if size < needed else 'longer'}, or other --scan-shape, --detector-shape, --dtype, --offset are "
            f"meant ({(size - offset) / frame:.6g} patterns of {frame} bytes)"
        )
        raise BadInputError(msg)
    patterns = np.memmap(path, dtype=dtype, mode="r", offset=offset, shape=shape)
    return patterns[:, :, :EMPAD_SIZE] if empad else patterns


def as_raster(path: Path, patterns: NDArray[Any], scan_shape: tuple[int, int] | None) -> NDArray[Any]:
    """(n, ky, kx) as (scan_y, scan_x, ky, kx), a view. Raises BadInputError where `scan_shape` is missing or has another n."""
    n = len(patterns)
    if scan_shape is None:
        root = math.isqrt(n)
        hint = f"{root},{root}" if root * root == n else "ROWS,COLUMNS"
        msg = f"{path}: holds 3-dimensional counts, {n} patterns in a row, not their scan; give --scan-shape {hint}"
        raise BadInputError(msg)
    if math.prod(scan_shape) != n:
        msg = (
            f"{path}: holds {n} patterns, but a scan of {scan_shape[0]} × {scan_shape[1]} has {math.prod(scan_shape)}; "
            f"give the --scan-shape that was acquired"
        )
        raise BadInputError(msg)
    return patterns.reshape(*scan_shape, *patterns.shape[1:])


def _dtype(name: DTypeLike) -> np.dtype[Any]:
    try:
        dtype = np.dtype(name)
    except TypeError as error:
        msg = f"--dtype {name} is not a type of numbers; legal: uint8, uint16, uint32, >u2, float32, …"
        raise BadInputError(msg) from error
    if dtype.kind not in "uif":
        msg = f"--dtype {name} cannot hold counts; legal: unsigned or signed integers and floats"
        raise BadInputError(msg)
    return dtype
