"""The caller's patterns, in memory or on disk, handled a bounded number at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from agent.reconstruction.kernels import table
from agent.reconstruction.kernels.machine_code import pack
from agent.reconstruction.kernels.threads import cores, share
from instrument.memory import allocate

_CHUNK = 512
"""Patterns at a time."""


def kept_on_disk(counts: Any) -> tuple[str, ...]:
    """A sentence for the user where `counts` have been put into a file; otherwise nothing."""
    if not isinstance(counts, np.memmap):
        return ()
    return (f"the counts take {counts.nbytes / 1e9:.3g} GB, more than half of the free memory: they are kept on disk",)


def selected(patterns: NDArray[Any], which: NDArray[np.bool_]) -> NDArray[Any]:
    """Some of the patterns.

    Args:
        patterns: (n, ky, kx).
        which: (n,) True for those wanted; where it is true of all, nothing is copied.
    """
    if which.all():
        return patterns
    out = allocate((int(which.sum()), *patterns.shape[1:]), patterns.dtype)
    for to, index in enumerate(np.flatnonzero(which)):
        out[to] = patterns[index]
    return out


def as_type(counts: NDArray[Any], kind: DTypeLike) -> NDArray[Any]:
    """A copy of counts (n, …) in another type."""
    out = allocate(counts.shape, kind)
    out[...] = counts
    return out


def joined(first: Any, second: Any, xp: Any) -> Any:
    """Counts (n, …) and (m, …), arrays of the module `xp`, one after the other: (n + m, …)."""
    if xp is not np:
        return xp.concatenate([first, second])
    out = allocate((len(first) + len(second), *first.shape[1:]), np.promote_types(first.dtype, second.dtype))
    out[: len(first)], out[len(first) :] = first, second
    return out


def counts_type(patterns: NDArray[Any]) -> np.dtype[Any]:
    """The type in which a reconstruction keeps counts.

    Args:
        patterns: (b, ky, kx) integers or floats.

    Returns:
        The smallest of uint8, uint16 and float32 that holds them; float32 for floats, whole or not.
    """
    if patterns.dtype.kind not in "bui":
        return np.dtype(np.float32)
    largest = int(patterns.max()) if patterns.size else 0
    return np.dtype(np.uint8 if largest < 2**8 else np.uint16 if largest < 2**16 else np.float32)


def chunks(patterns: Any, seen: Any = None) -> Iterator[NDArray[Any]]:
    """Patterns a bounded number at a time.

    Args:
        patterns: (n, ky, kx) in memory or on disk, of either byte order.
        seen: (ky, kx) bool; pixels where it is false become 0. None: none.

    Yields:
        (b, ky, kx) in this machine's byte order.
    """
    for first in range(0, len(patterns), _CHUNK):
        chunk = np.asarray(patterns[first : first + _CHUNK])
        kind = (
            chunk.dtype.newbyteorder("=") if chunk.dtype.kind != "f" or chunk.dtype.itemsize in (4, 8) else np.float32
        )
        chunk = chunk.astype(kind, copy=False)
        yield chunk if seen is None else np.where(seen, chunk, chunk.dtype.type(0))


def in_bins(patterns: NDArray[Any]) -> NDArray[Any]:
    """Patterns with 2 × 2 pixels added up.

    Args:
        patterns: (b, ky, kx) counts; kx is a multiple of 32.

    Returns:
        (b, ky/2, kx/2): 16 bits, or floats where these do not hold the sums.
    """
    n, height, width = patterns.shape
    kind = patterns.dtype if patterns.dtype in (np.uint8, np.uint16) else counts_type(patterns)
    flat = np.ascontiguousarray(patterns, kind).reshape(n, -1)

    def work(first: int, stop: int, out: NDArray[Any], largest: NDArray[np.float32]) -> None:
        arguments = table.PairUpArguments(
            patterns=flat[first:stop].reshape(-1), width=width, out=out[first:stop].reshape(-1), largest=largest
        )
        table.pair_up(pack(arguments))

    return narrow(work, (n, height // 2, width // 2), kind, cores())


def narrow(
    work: Callable[[int, int, NDArray[Any], NDArray[np.float32]], None],
    shape: tuple[int, ...],
    kind: np.dtype[Any],
    workers: int,
) -> NDArray[Any]:
    """Sums of counts in the smaller type that holds them, made by several threads.

    Args:
        work: work(first, stop, out, largest) writes the sums first … stop − 1 into `out` and their largest values into
            `largest` (16,).
        shape: of `out`.
        kind: type of the counts.
        workers: number of threads.

    Returns:
        16 bits, or floats where the counts are floats or the largest sums do not fit.
    """
    out, largest = allocate(shape, np.uint16 if kind.kind == "u" else np.float32), np.zeros((workers, 16), np.float32)
    number = iter(largest)
    share(lambda first, stop: work(first, stop, out, next(number)), shape[0], workers)
    if out.dtype == np.uint16 and largest.max() >= 2**16:
        return narrow(work, shape, np.dtype(np.float32), workers)
    return out
