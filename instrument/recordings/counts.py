"""From the numbers in a file to counts: which pixels are dead, what is below zero, and whole electrons."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from instrument.errors import BadInputError
from instrument.memory import allocate
from instrument.recordings.recording import Recording

MOST_COUNTS = 1e9
"""Counts in a pixel; more are no electrons."""
_CHUNK = 64 * 2**20
"""Bytes of patterns looked at in one go."""


@dataclass(frozen=True)
class Counts:
    """The patterns of a recording, none of which is negative or not a number.

    Attributes:
        patterns: (n, ky, kx) in scan order; 0 where the detector does not count. A memory map where the file's own numbers serve.
        mean: (ky, kx), their mean.
        mask: (ky, kx), True where the detector counts; None where it does everywhere.
        notes: sentences for the user about what was done with them.
    """

    patterns: NDArray[Any]
    mean: NDArray[np.float64]
    mask: NDArray[np.bool_] | None
    notes: tuple[str, ...]


def counts_of(recording: Recording) -> Counts:
    """Check a recording's patterns, in one sweep over the file where nothing has to be changed.

    A pixel that holds −1, not-a-number or the largest number of its type in every pattern is dead. Where `recording` says how
    many counts an electron gives, the signal of an analogue detector is rounded to electrons: its noise around nothing,
    negative too, becomes none.

    Args:
        recording: as `read_recording` returns it.

    Returns:
        Counts, (n, ky, kx).

    Raises:
        BadInputError: no counts, negative ones, or values that are no numbers.
    """
    path = recording.path
    if recording.patterns.size == 0:
        msg = f"{path}: holds no counts, its shape is {' × '.join(map(str, recording.patterns.shape))}"
        raise BadInputError(msg)
    patterns = _in_a_row(recording.patterns)
    total, low = _survey(patterns)
    dead = _marked(patterns, total, low)
    notes = (
        [f"{int(dead.sum())} pixels hold the mark of a dead pixel in every pattern: they do not count"]
        if dead.any()
        else []
    )
    if recording.mask is not None:
        dead |= ~np.asarray(recording.mask, dtype=bool)
    if dead.any():
        patterns = _without(patterns, dead, total)
        total[dead], low[dead] = 0, 0
    if not np.isfinite(total).all():
        msg = f"{path}: holds values that are not numbers; set them to 0 or repair the file"
        raise BadInputError(msg)
    gain = recording.numbers.get("counts_per_electron")
    if gain is not None and patterns.dtype.kind in "if":
        patterns, total, below = _whole_electrons(path, patterns, gain.value)
        notes.append(
            f"rounded to electrons of {gain.value:g} counts; {below:.2g} % of the pixels are below zero and become none"
        )
    elif low.min() < 0:
        hint = "they become whole electrons" if patterns.dtype.kind == "f" else "what is below zero becomes none"
        msg = f"{path}: holds negative counts (smallest {low.min():g}); give --counts-per-electron, and {hint}"
        raise BadInputError(msg)
    if not total.any():
        msg = f"{path}: holds no counts"
        raise BadInputError(msg)
    return Counts(patterns, total / len(patterns), ~dead if dead.any() else None, tuple(notes))


def whole_counts(path: Path, patterns: NDArray[Any]) -> NDArray[Any]:
    """Counts as unsigned integers, which the score and lower doses are made of.

    Args:
        path: the file, for messages.
        patterns: (n, ky, kx), none negative.

    Returns:
        (n, ky, kx): `patterns` themselves where they are unsigned, otherwise the smallest type that holds them.

    Raises:
        BadInputError: a float is no whole number, or there are more counts in a pixel than electrons can be.
    """
    if patterns.dtype.kind == "u":
        return patterns
    most = 0.0
    for part in _chunks(patterns):
        broken = part != np.rint(part)
        if broken.any():
            value = float(part[broken][0])
            msg = (
                f"{path}: holds {value:g} in a pixel, and the score is made of whole counts; give --counts-per-electron"
            )
            raise BadInputError(msg)
        most = max(most, float(part.max()))
    if most > MOST_COUNTS:
        msg = f"{path}: holds {most:.4g} counts in a pixel; legal: up to {MOST_COUNTS:g}; give --counts-per-electron"
        raise BadInputError(msg)
    return as_type(patterns, np.min_scalar_type(int(most)))


def as_type(patterns: NDArray[Any], dtype: DTypeLike) -> NDArray[Any]:
    """Counts in another type.

    Args:
        patterns: (n, ky, kx).
        dtype: one that holds them, of the machine's byte order.

    Returns:
        (n, ky, kx): `patterns` themselves where they are of this type.
    """
    if patterns.dtype == dtype:
        return patterns
    out = allocate(patterns.shape, dtype)
    out[...] = patterns
    return out


def _in_a_row(patterns: NDArray[Any]) -> NDArray[Any]:
    """(scan_y, scan_x, ky, kx) as (n, ky, kx), copied only where lines do not follow each other in the file."""
    n_y, n_x = patterns.shape[:2]
    if min(n_y, n_x) == 1 or patterns.strides[0] == n_x * patterns.strides[1]:
        return patterns.reshape(-1, *patterns.shape[2:])
    out = allocate((n_y * n_x, *patterns.shape[2:]), patterns.dtype)
    for row, line in enumerate(patterns):
        out[row * n_x : (row + 1) * n_x] = line
    return out


def _chunks(patterns: NDArray[Any]) -> Iterator[NDArray[Any]]:
    """Patterns (n, ky, kx), about _CHUNK bytes at a time."""
    per_pattern = max(1, math.prod(patterns.shape[1:]) * patterns.dtype.itemsize)
    n = max(1, _CHUNK // per_pattern)
    for first in range(0, len(patterns), n):
        yield patterns[first : first + n]


def _survey(patterns: NDArray[Any]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Sum and smallest value (ky, kx) of all patterns; the smallest leaves out what is not a number, the sum does not."""
    total = np.zeros(patterns.shape[1:])
    low = np.full(patterns.shape[1:], np.nan)
    with np.errstate(invalid="ignore", over="ignore"):  # infinities
        for part in _chunks(patterns):
            total += part.sum(axis=0, dtype=np.float64)
            low = np.fmin(low, np.fmin.reduce(part, axis=0))
    return total, low


def _marked(patterns: NDArray[Any], total: NDArray[np.float64], low: NDArray[np.float64]) -> NDArray[np.bool_]:
    """(ky, kx) True where every pattern has the same mark of a dead pixel."""
    dead = np.isnan(low)
    if len(patterns) < 2 or patterns.dtype.itemsize < 2:
        return dead
    marks = [-1.0, 2.0**32 - 1] if patterns.dtype.kind == "f" else [float(np.iinfo(patterns.dtype).max)]
    for mark in [*marks, *([-1.0] if patterns.dtype.kind == "i" else [])]:
        dead |= (low == mark) & np.isclose(total, mark * len(patterns), rtol=1e-6)
    return dead


def _without(patterns: NDArray[Any], dead: NDArray[np.bool_], total: NDArray[np.float64]) -> NDArray[Any]:
    """Patterns with 0 in dead pixels; the same ones where these hold nothing else."""
    if not total[dead].any():  # not-a-number is something
        return patterns
    out = patterns if patterns.flags.writeable else allocate(patterns.shape, patterns.dtype)
    for part, to in zip(_chunks(patterns), _chunks(out), strict=True):
        to[...] = part
        to[:, dead] = 0
    return out


def _whole_electrons(
    path: Path, patterns: NDArray[Any], counts_per_electron: float
) -> tuple[NDArray[np.uint16], NDArray[np.float64], float]:
    """The signal of an analogue detector, rounded to electrons; their sum (ky, kx); how many % of the pixels were negative."""
    electrons = allocate(patterns.shape, np.uint16)
    most, below, total = np.iinfo(np.uint16).max, 0, np.zeros(patterns.shape[1:])
    for part, to in zip(_chunks(patterns), _chunks(electrons), strict=True):
        rounded = np.rint(part / counts_per_electron)
        if not rounded.max() <= most:  # also where it is not a number
            worst = f"{rounded.max():g} electrons in a pixel"
            msg = f"{path}: {worst} are not possible; legal: up to {most}; check --counts-per-electron"
            raise BadInputError(msg)
        to[...] = np.maximum(rounded, 0)
        below += int((part < 0).sum())
        total += to.sum(axis=0, dtype=np.float64)
    return electrons, total, 100 * below / patterns.size
