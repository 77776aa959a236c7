"""Raw bytes as the EMPAD and many cameras write them. They are mapped, so they take no memory of their own."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from instrument.errors import BadInputError
from instrument.recordings.raster import as_raster
from instrument.recordings.recording import Recording, RecordingOptions

EMPAD_ROWS, EMPAD_SIZE = 130, 128
"""An EMPAD frame is 130 rows of 128 float32; the last two are not pixels (Tate et al., Microsc. Microanal. 22 (2016) 237)."""
_EMPAD_NAME = re.compile(r"x(\d+)_y(\d+)")


class RawFormat:
    """See `RecordingFormat`. Without `options.detector_shape` the file is taken for an EMPAD's."""

    name = "raw bytes (.raw, .bin, .dat), the EMPAD's among them"

    def recognises(self, path: Path) -> bool:
        """By the name: raw bytes do not say what they are."""
        return path.suffix.lower() in (".raw", ".bin", ".dat")

    def read(self, path: Path, options: RecordingOptions) -> Recording:
        """Patterns one after the other, each of which may have bytes before and after it. See `RecordingFormat.read`.

        An EMPAD's frame is 130 × 128 float32, of which 128 × 128 are returned, and the scan's shape is read from a name like
        scan_x256_y256.raw.
        """
        options.allow_only(path, "scan_shape", "detector_shape", "dtype", "offset", "frame_header", "frame_gap")
        empad = options.detector_shape is None
        scan_shape = options.scan_shape
        if scan_shape is None and empad and (named := _EMPAD_NAME.search(path.name)):
            scan_shape = (int(named[2]), int(named[1]))
        if empad and (options.dtype is not None and _dtype(options.dtype) != np.float32):
            msg = f"{path}: a raw file does not say how large its patterns are; give --detector-shape beside --dtype"
            raise BadInputError(msg)
        if scan_shape is None:
            msg = f"{path}: a raw file does not say how many positions were scanned; give --scan-shape ROWS,COLUMNS"
            raise BadInputError(msg)
        if not empad and options.dtype is None:
            msg = (
                f"{path}: a raw file does not say the type of its counts; give --dtype (uint8, uint16, >u2, float32, …)"
            )
            raise BadInputError(msg)
        detector_shape = options.detector_shape or (EMPAD_ROWS, EMPAD_SIZE)
        patterns = _mapped(path, options, _dtype(options.dtype or "<f4"), scan_shape, detector_shape)
        raster, notes = as_raster(path, patterns, scan_shape)
        return Recording(path, raster[:, :, :EMPAD_SIZE] if empad else raster, notes=notes)


def _mapped(
    path: Path,
    options: RecordingOptions,
    dtype: np.dtype[Any],
    scan_shape: tuple[int, int],
    detector_shape: tuple[int, int],
) -> NDArray[Any]:
    """(n, ky, kx), a memory map. The last scan line may be incomplete, and the gap after the last pattern missing."""
    offset, header, gap = options.offset or 0, options.frame_header or 0, options.frame_gap or 0
    (n_y, n_x), (height, width) = scan_shape, detector_shape
    frame = height * width * dtype.itemsize
    stride = header + frame + gap
    needed, size = offset + n_y * n_x * stride, path.stat().st_size
    n, rest = divmod(size - offset, stride)
    if rest and rest == stride - gap:
        n, rest = n + 1, 0
    if rest or not (n_y - 1) * n_x < n <= n_y * n_x:
        between = "".join(f", {k} bytes {where} each" for k, where in ((header, "before"), (gap, "after")) if k)
        msg = (
            f"{path}: has {size} bytes, but {n_y} × {n_x} × {height} × {width} of {dtype.name} after {offset} bytes{between} "
            f"take {needed}; it is {'truncated' if size < needed else 'longer'}, or other --scan-shape, --detector-shape, "
            f"--dtype, --offset are meant ({(size - offset) / stride:.6g} patterns of {stride} bytes)"
        )
        raise BadInputError(msg)
    if stride == frame:
        return np.memmap(path, dtype=dtype, mode="r", offset=offset, shape=(n, height, width))
    # A map of all bytes from the first count on, seen as counts; the last few bytes may not make a whole one.
    after = np.memmap(path, dtype=np.uint8, mode="r", offset=offset + header)
    counts = after[: len(after) // dtype.itemsize * dtype.itemsize].view(dtype)
    strides = (stride, width * dtype.itemsize, dtype.itemsize)
    shape = (n, height, width)
    return np.lib.stride_tricks.as_strided(counts, shape, strides, subok=True, writeable=False)


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
