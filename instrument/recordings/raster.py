"""From patterns in a row to a raster of scan positions."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from instrument.errors import BadInputError


def as_raster(
    path: Path, patterns: NDArray[Any], scan_shape: tuple[int, int] | None
) -> tuple[NDArray[Any], tuple[str, ...]]:
    """Divide patterns in a row into scan lines. A last line that is not complete is left out.

    Args:
        path: the file, for messages.
        patterns: (n, ky, kx), the first axis in the order of the scan.
        scan_shape: (scan_y, scan_x), or None where nobody has said it.

    Returns:
        (scan_y, scan_x, ky, kx), a view, and sentences about what was left out.

    Raises:
        BadInputError: `scan_shape` is missing, or is that of another number of patterns.
    """
    n = len(patterns)
    if scan_shape is None:
        root = math.isqrt(n)
        hint = f"{root},{root}" if root * root == n else "ROWS,COLUMNS"
        msg = f"{path}: holds 3-dimensional counts, {n} patterns in a row, not their scan; give --scan-shape {hint}"
        raise BadInputError(msg)
    rows, columns = scan_shape
    notes: tuple[str, ...] = ()
    if (rows - 1) * columns < n < rows * columns and rows > 1:
        rows, left = rows - 1, n - (rows - 1) * columns
        notes = (f"the last line has {left} of {columns} positions and is left out",)
        patterns = patterns[: rows * columns]
    elif rows * columns != n:
        msg = (
            f"{path}: holds {n} patterns, but a scan of {rows} × {columns} has {rows * columns}; "
            f"give the --scan-shape that was acquired"
        )
        raise BadInputError(msg)
    return patterns.reshape(rows, columns, *patterns.shape[1:]), notes
