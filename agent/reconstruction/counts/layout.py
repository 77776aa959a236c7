"""How images of counts are laid out for a reconstruction, and the plain form of what backends do with counts."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray


def framed(patterns: NDArray[Any], roll: tuple[int, int], shape: tuple[int, int]) -> NDArray[Any]:
    """Patterns with the zero beam at pixel (0, 0) and a rim of zeros.

    Args:
        patterns: (b, ky, kx).
        roll: (row, column) pixels that bring the zero beam there.
        shape: (ky, kx) pixels wanted, no fewer than the patterns have.

    Returns:
        (b, *shape).
    """
    size = patterns.shape[1:]
    if size == shape:
        return np.roll(patterns, roll, axis=(1, 2))
    out = np.zeros((len(patterns), *shape), patterns.dtype)
    rows, columns = ((np.arange(n) + r) % m for n, r, m in zip(size, roll, shape, strict=True))
    out[:, rows[:, None], columns[None, :]] = patterns
    return out


def two_by_two(images: Any, kind: DTypeLike | None = None) -> Any:
    """Images with 2 × 2 pixels added up.

    Args:
        images: (…, y, x), of even numbers of pixels.
        kind: type of the sums; None: NumPy's choice.

    Returns:
        (…, y/2, x/2).
    """
    *rest, n_y, n_x = images.shape
    return images.reshape(*rest, n_y // 2, 2, n_x // 2, 2).sum(axis=(-3, -1), dtype=kind)


def bin_counts(counts: Any) -> Any:
    """The plain form of `Backend.bin_counts`, of counts (n, ky, kx)."""
    return two_by_two(counts, np.uint16 if counts.dtype == np.uint8 else np.float32)


def sum_counts(counts: Any) -> tuple[Any, Any]:
    """The plain form of `Backend.sum_counts`, of counts (n, ky, kx)."""
    return counts.sum(axis=(1, 2), dtype=np.float64), counts.sum(axis=0, dtype=np.float64)


def draw_counts(model: Any, random: Any) -> Any:
    """The plain form of `Backend.draw_counts`: Poisson counts, in 16 bits where these hold them.

    Args:
        model: expected counts, of any shape.
        random: generator of the array's module.
    """
    counts = random.poisson(model.clip(0))
    return counts.astype(np.float32 if model.max() > 5e4 else np.uint16)
