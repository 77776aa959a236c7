"""The caller's patterns, in memory or on disk, looked at a bounded number at a time."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from agent.errors import BadInputError
from agent.reconstruction.machine_code import Kernel, packed
from agent.reconstruction.threads import share

_add_up = Kernel("kernels_detector", "add_up")
_CHUNK = 512
"""Patterns at a time."""


def free_memory() -> int:
    """Bytes."""
    import psutil

    return int(psutil.virtual_memory().available)


def room(shape: tuple[int, ...], kind: DTypeLike) -> NDArray[Any]:
    """An empty array for counts: in memory, or in a file without a name where it would take more than half of what is free.

    Raises BadInputError where the disk has no room either.
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


def kept_on_disk(counts: Any) -> tuple[str, ...]:
    """A sentence for the user where `counts` are in a file."""
    if not isinstance(counts, np.memmap):
        return ()
    return (f"the counts take {counts.nbytes / 1e9:.3g} GB, more than half of the free memory: they are kept on disk",)


def stored(dataset: Any) -> NDArray[Any]:
    """The numbers of an h5py data set: mapped where the file has them in one piece, otherwise read into `room`.

    Raises OSError or ValueError where the file is damaged.
    """
    import h5py

    size, offset = dataset.size * dataset.dtype.itemsize, dataset.id.get_offset()
    as_in_memory = dataset.id.get_type().equal(h5py.h5t.py_create(dataset.dtype))
    if size and offset is not None and as_in_memory and dataset.id.get_storage_size() == size:
        return np.memmap(dataset.file.filename, dtype=dataset.dtype, mode="r", offset=offset, shape=dataset.shape)
    out = room(dataset.shape, dataset.dtype)
    if size:
        dataset.read_direct(out)  # chunk by chunk
    return out


def selected(patterns: NDArray[Any], which: NDArray[np.bool_]) -> NDArray[Any]:
    """The patterns of (n, ky, kx) that `which` (n,) names; all of them are not copied."""
    if which.all():
        return patterns
    out = room((int(which.sum()), *patterns.shape[1:]), patterns.dtype)
    for to, index in enumerate(np.flatnonzero(which)):
        out[to] = patterns[index]
    return out


def as_type(counts: NDArray[Any], kind: DTypeLike) -> NDArray[Any]:
    """`counts` in another type."""
    out = room(counts.shape, kind)
    out[...] = counts
    return out


def joined(first: Any, second: Any, xp: Any) -> Any:
    """Counts (n, …) and (m, …) of the array module `xp` as (n + m, …)."""
    if xp is not np:
        return xp.concatenate([first, second])
    out = room((len(first) + len(second), *first.shape[1:]), np.promote_types(first.dtype, second.dtype))
    out[: len(first)], out[len(first) :] = first, second
    return out


def counts_type(patterns: NDArray[Any]) -> np.dtype[Any]:
    """The type in which a reconstruction keeps counts: the smallest of uint8, uint16 and float32 that holds them."""
    if patterns.dtype.kind not in "bui":
        return np.dtype(np.float32)
    largest = int(patterns.max()) if patterns.size else 0
    return np.dtype(np.uint8 if largest < 2**8 else np.uint16 if largest < 2**16 else np.float32)


def chunks(patterns: Any, seen: Any = None) -> Iterator[NDArray[Any]]:
    """Patterns (n, ky, kx), in memory or on disk, a bounded number at a time; 0 where `seen` (ky, kx) is given and false."""
    for first in range(0, len(patterns), _CHUNK):
        chunk = np.asarray(patterns[first : first + _CHUNK])
        kind = (
            chunk.dtype.newbyteorder("=") if chunk.dtype.kind != "f" or chunk.dtype.itemsize in (4, 8) else np.float32
        )
        chunk = chunk.astype(kind, copy=False)
        yield chunk if seen is None else np.where(seen, chunk, chunk.dtype.type(0))


def totals_and_mean(patterns: Any, seen: NDArray[np.bool_]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(counts of each pattern in the counting pixels, mean pattern)."""
    totals, mean, visible = [], np.zeros(seen.shape), seen.astype(np.float32)
    for chunk in chunks(patterns):
        counts, total = np.ascontiguousarray(chunk), np.zeros(len(chunk))
        parts: dict[int, NDArray[np.float64]] = {}

        def work(first: int, stop: int, counts: Any = counts, total: Any = total, parts: Any = parts) -> None:
            parts[first] = np.zeros(seen.shape)
            _add_up(packed(counts[first:stop], visible, total[first:stop], parts[first], np.empty(seen.shape[1])))

        share(work, len(counts))
        totals.append(total)
        for _, part in sorted(parts.items()):
            mean += part
    return np.concatenate(totals), mean / len(patterns)
