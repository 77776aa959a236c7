"""The frames of a running scan, for another process to look at before the acquisition file is finished.

First a byte for every frame, 1 once it is there, then the patterns as they are counted. The file is scratch: it is never put on
the disk for good, and goes with the scan.
"""

from __future__ import annotations

import logging
import math
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

logger = logging.getLogger(__name__)


class FrameMirror:
    """Writes each frame once more. What goes wrong here ends the mirror, never the scan.

    Args:
        path: of the scratch file; it is removed when the context is left.
        number: of frames.
        shape: (detector_y, detector_x) of a pattern.
        dtype: of its counts.

    Raises:
        OSError: there is no room for it.
    """

    def __init__(self, path: Path, number: int, shape: tuple[int, int], dtype: np.dtype[Any]) -> None:
        self.path = path
        self._number, self._bytes = number, math.prod(shape) * dtype.itemsize
        self._open = True
        self._file = path.open("wb", buffering=0)
        self._file.truncate(number * (1 + self._bytes))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open = False
        with suppress(OSError):
            self._file.close()
        self.path.unlink(missing_ok=True)

    def put(self, index: int, pattern: NDArray[Any]) -> None:
        """Take a frame: first its counts, then the mark that it is there.

        Args:
            index: its scan position.
            pattern: (detector_y, detector_x) counts.
        """
        if not self._open:
            return
        try:
            self._file.seek(self._number + index * self._bytes)
            self._file.write(pattern.tobytes())
            self._file.seek(index)
            self._file.write(b"\1")
        except (OSError, ValueError) as error:
            self._open = False
            logger.info("%s: the scan is not shown while it runs: %s", self.path, error)


class MirroredFrames:
    """The other end.

    Args:
        path, number, shape, dtype: see FrameMirror.

    Raises:
        OSError: the scan has ended, and the file is gone.
    """

    def __init__(self, path: Path, number: int, shape: tuple[int, int], dtype: np.dtype[Any]) -> None:
        self._path = path
        self._there = np.memmap(path, np.uint8, "r", 0, (number,))
        self._patterns = np.memmap(path, dtype, "r", number, (number, *shape))

    @property
    def over(self) -> bool:
        """Whether the scan has ended."""
        return not self._path.exists()

    def received(self) -> NDArray[np.bool_]:
        """(number,) whether a frame is there by now."""
        there: NDArray[np.bool_] = np.asarray(self._there) == 1
        return there

    def patterns(self, index: NDArray[np.int64]) -> NDArray[Any]:
        """Frames that are there.

        Args:
            index: (m,) their scan positions.

        Returns:
            (m, detector_y, detector_x) counts.
        """
        return np.asarray(self._patterns[index])
