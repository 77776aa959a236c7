"""Whether patterns are counts, found out in parts: they may lie on disk."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.reconstruction.model.data import DiffractionData
from instrument.errors import BadInputError

MOST_COUNTS = 1e9
"""Counts in a pixel; more are no electrons but a mark, such as the largest number of 32 bits, that a pixel is dead."""
_CHUNK = 8 * 2**20
"""Bytes of patterns that are looked at in one go: they may lie on disk."""


def are_counts(data: DiffractionData) -> bool:
    """Whether a survey of the patterns says already that they can be reconstructed."""
    known = data.survey
    if known is None or known.patterns is not data.patterns or known.broken is not None:
        return False
    return known.largest <= MOST_COUNTS and data.counted() >= 1


def check_counts(patterns: Any, mask: NDArray[np.bool_] | None) -> None:
    """Sweep over patterns; unsigned ones of at most 16 bits only as far as the first count.

    Args:
        patterns: (n, ky, kx), in memory or on disk.
        mask: (ky, kx), True where the detector counts; None: everywhere.

    Raises:
        BadInputError: they are no counts, or empty.
    """
    unsigned = patterns.dtype.kind == "u" and patterns.dtype.itemsize <= 2
    # the first count of unsigned ones lies in the first pattern, as a rule
    n = max(1, (_CHUNK // 64 if unsigned else _CHUNK) // (math.prod(patterns.shape[1:]) * patterns.dtype.itemsize))
    seen, total = False, 0.0
    for first in range(0, len(patterns), n):
        part = np.asarray(patterns[first : first + n])
        if not unsigned:
            if not (part.min() >= 0 and float(part.max()) <= MOST_COUNTS):
                _refuse_counts(part, first)
            total += float(part.sum(dtype=np.float64))
        seen = seen or bool(part.any() if mask is None else part[:, mask].any())
        if seen and unsigned:
            return
    if not seen:
        where = "" if mask is None else " on the pixels that the mask lets count"
        msg = f"all {len(patterns)} patterns are empty{where}; there is nothing to reconstruct"
        raise BadInputError(msg)
    if total < 1 and not unsigned:
        msg = (
            f"all {len(patterns)} patterns together hold {total:.3g} counts, less than one electron; counts are expected, so "
            f"divide by the signal of one electron"
        )
        raise BadInputError(msg)


def _refuse_counts(part: NDArray[Any], first: int) -> None:
    finite = np.isfinite(part)
    if not finite.all():
        index = first + int(np.flatnonzero(~finite.all(axis=(1, 2)))[0])
        msg = f"pattern {index} holds values that are not numbers; mask such pixels and set them to 0"
        raise BadInputError(msg)
    if part.max() > MOST_COUNTS:
        index = first + int(np.flatnonzero((part > MOST_COUNTS).any(axis=(1, 2)))[0])
        msg = (
            f"pattern {index} holds {part.max():.4g} counts in a pixel; legal: up to {MOST_COUNTS:g}; mask such pixels and set "
            f"them to 0, or divide by the signal of one electron"
        )
        raise BadInputError(msg)
    index = first + int(np.flatnonzero((part < 0).any(axis=(1, 2)))[0])
    msg = f"pattern {index} holds negative counts (smallest {part.min():g}); subtract no background before"
    raise BadInputError(msg)
