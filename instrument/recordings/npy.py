"""NumPy's .npy: a four-dimensional array, or patterns in a row. It is mapped, so it takes no memory of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from instrument.errors import NUMPY_REFUSES, BadInputError
from instrument.recordings.raster import as_raster
from instrument.recordings.recording import Recording, RecordingOptions


class NpyFormat:
    """See `RecordingFormat`."""

    name = "NumPy (.npy)"

    def recognises(self, path: Path) -> bool:
        """By the name."""
        return path.suffix.lower() == ".npy"

    def read(self, path: Path, options: RecordingOptions) -> Recording:
        """(scan_y, scan_x, ky, kx), or (n, ky, kx) and `options.scan_shape`. See `RecordingFormat.read`."""
        options.allow_only(path, "scan_shape")
        try:
            patterns: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
        except NUMPY_REFUSES as error:
            msg = f"{path}: not a NumPy array file that can be read to its end ({' '.join(str(error).split())})"
            raise BadInputError(msg) from error
        if patterns.dtype.kind not in "uif" or patterns.ndim not in (3, 4):
            msg = (
                f"{path}: holds {patterns.ndim}-dimensional {patterns.dtype}, not four-dimensional counts "
                f"(scan_y, scan_x, detector_y, detector_x)"
            )
            raise BadInputError(msg)
        if patterns.ndim == 4 and options.scan_shape is None:
            return Recording(path, patterns)
        raster, notes = as_raster(path, patterns.reshape(-1, *patterns.shape[-2:]), options.scan_shape)
        return Recording(path, raster, notes=notes)
