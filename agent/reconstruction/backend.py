"""Where the arithmetic happens: fused kernels on the CPU, CuPy on a GPU. Nothing here touches CUDA before it is asked to."""

from __future__ import annotations

import importlib.util
import threading
from collections.abc import Iterable
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import DTypeLike, NDArray

from agent.errors import BadInputError
from agent.reconstruction.forward import Problem, Sums, Unknowns, Wanted, accumulate, expected, turn
from agent.reconstruction.thinning import thin


class Backend(Protocol):
    """An array module and the sums of one batch."""

    name: str
    xp: Any

    def load(self, chunks: Iterable[NDArray[Any]], n: int, roll: tuple[int, int], shape: tuple[int, int]) -> Any:
        """n patterns that come in chunks (b, ky, kx), in the backend's own layout.

        The zero beam is rolled to pixel (0, 0); a rim of zeros fills patterns up to `shape`.
        """
        ...

    def thin(self, counts: Any, fraction: float, seed: int) -> Any:
        """Draw each of the counts that `load` has made, whole numbers, with the probability `fraction`."""
        ...

    def summed(self, counts: Any, shape: tuple[int, int]) -> tuple[Any, Any]:
        """Sums of counts that `load` has made for a detector of `shape`: of each pattern (n,), and over all of them (ky, kx)."""
        ...

    def binned(self, counts: Any, shape: tuple[int, int]) -> Any:
        """Counts that `load` has made for a detector of `shape`, as it would for one whose pixel j is the pixels 2j, 2j + 1."""
        ...

    def drawn(self, model: Any, seed: tuple[int, ...]) -> Any:
        """Poisson counts, in the layout that `load` gives, of what `expected` has modelled."""
        ...

    def to_host(self, array: Any) -> NDArray[Any]:
        """A NumPy array."""
        ...

    def accumulate(self, problem: Problem, unknowns: Unknowns, index: NDArray[np.int64], wanted: Wanted) -> Sums:
        """`forward.accumulate` over the patterns `index`; sums that are not wanted may be missing."""
        ...

    def expected(self, problem: Problem, unknowns: Unknowns, index: NDArray[np.int64]) -> Any:
        """Modelled counts of the patterns `index`, float32, in the layout that `load` gives."""
        ...

    def turn(self, obj: Any, sums: Sums, size: float, floor: Any, positive: bool) -> None:
        """See `forward.turn`."""
        ...


class ArrayBackend:
    """The plain form of `forward` over an array module, a bounded number of patterns at a time."""

    chunk = 64

    def __init__(self, xp: Any, name: str) -> None:
        self.xp, self.name = xp, name

    def load(self, chunks: Iterable[NDArray[Any]], n: int, roll: tuple[int, int], shape: tuple[int, int]) -> Any:
        """See `Backend.load`."""
        return self.xp.concatenate([self.xp.asarray(framed(chunk, roll, shape)) for chunk in chunks])

    def thin(self, counts: Any, fraction: float, seed: int) -> Any:
        """See `Backend.thin`; drawn on the host."""
        return self.xp.asarray(thin(self.to_host(counts), fraction, seed))

    def summed(self, counts: Any, shape: tuple[int, int]) -> tuple[Any, Any]:
        """See `Backend.summed`."""
        return sums_of(counts)

    def binned(self, counts: Any, shape: tuple[int, int]) -> Any:
        """See `Backend.binned`."""
        return bins_of(counts)

    def drawn(self, model: Any, seed: tuple[int, ...]) -> Any:
        """See `Backend.drawn`; drawn on the host."""
        return self.xp.asarray(drawn(self.to_host(model), np.random.default_rng(seed)))

    def to_host(self, array: Any) -> NDArray[Any]:
        """Copied from the device where there is one."""
        return array.get() if hasattr(array, "get") else np.asarray(array)

    def expected(self, problem: Problem, unknowns: Unknowns, index: NDArray[np.int64]) -> Any:
        """See `Backend.expected`."""
        return expected(problem, unknowns, index, self.xp, self.chunk)

    def accumulate(self, problem: Problem, unknowns: Unknowns, index: NDArray[np.int64], wanted: Wanted) -> Sums:
        """See `Backend.accumulate`."""
        parts = [
            accumulate(problem, unknowns, self.xp.asarray(index[start : start + self.chunk]), wanted, self.xp)
            for start in range(0, len(index), self.chunk)
        ]
        return added(parts, self.xp)

    def turn(self, obj: Any, sums: Sums, size: float, floor: Any, positive: bool) -> None:
        """See `forward.turn`."""
        turn(obj, sums, size, floor, positive, self.xp)


def drawn(model: Any, random: Any) -> Any:
    """Poisson counts of what is expected, in 16 bits where these can hold them."""
    counts = random.poisson(model.clip(0))
    return counts.astype(np.float32 if model.max() > 5e4 else np.uint16)


def sums_of(counts: Any) -> tuple[Any, Any]:
    """`Backend.summed` of counts (n, ky, kx)."""
    return counts.sum(axis=(1, 2), dtype=np.float64), counts.sum(axis=0, dtype=np.float64)


def bins_of(counts: Any) -> Any:
    """`Backend.binned` of counts (n, ky, kx)."""
    return two_by_two(counts, np.uint16 if counts.dtype == np.uint8 else np.float32)


def two_by_two(images: Any, kind: DTypeLike | None = None) -> Any:
    """Images (…, y, x) with 2 × 2 pixels added up, in the type `kind`."""
    *rest, n_y, n_x = images.shape
    return images.reshape(*rest, n_y // 2, 2, n_x // 2, 2).sum(axis=(-3, -1), dtype=kind)


def added(parts: list[Sums], xp: Any) -> Sums:
    """The sums of several parts of one batch, in their order."""
    first = parts[0]
    for name in ("object_numerator", "illumination", "aperture_numerator", "ratio"):
        if getattr(first, name) is not None:
            setattr(first, name, sum((getattr(p, name) for p in parts[1:]), getattr(first, name)))
    first.deviance = sum(p.deviance for p in parts)
    first.modelled = xp.concatenate([p.modelled for p in parts])
    if first.slopes is not None:
        first.slopes = xp.concatenate([p.slopes for p in parts])
    return first


def framed(patterns: NDArray[Any], roll: tuple[int, int], shape: tuple[int, int]) -> NDArray[Any]:
    """Patterns (b, ky, kx) with the zero beam rolled to pixel (0, 0) and a rim of zeros up to `shape`."""
    size = patterns.shape[1:]
    if size == shape:
        return np.roll(patterns, roll, axis=(1, 2))
    out = np.zeros((len(patterns), *shape), patterns.dtype)
    rows, columns = ((np.arange(n) + r) % m for n, r, m in zip(size, roll, shape, strict=True))
    out[:, rows[:, None], columns[None, :]] = patterns
    return out


def gpu_reason() -> str | None:
    """None where a CUDA device and CuPy are at hand, otherwise why not. Imports CuPy only where it is installed."""
    if importlib.util.find_spec("cupy") is None:
        return "CuPy is not installed (pip install 'ptychopilot[gpu]')"
    import cupy

    try:
        count = cupy.cuda.runtime.getDeviceCount()
    except cupy.cuda.runtime.CUDARuntimeError as error:
        return f"CUDA does not answer: {error}"
    return None if count else "no CUDA device"


_kept = threading.local()
"""The CPU backend of each thread: its scratch memory serves one reconstruction after another, and fresh memory is slow."""


def _cpu() -> Backend:
    from agent.reconstruction.cpu import CpuBackend

    if not hasattr(_kept, "backend"):
        _kept.backend = CpuBackend()
    backend: Backend = _kept.backend
    return backend


def choose(device: Literal["auto", "cpu", "gpu"]) -> Backend:
    """The backend for a device; `auto` takes a GPU where there is one. Raises BadInputError for an absent GPU."""
    reason = None if device == "cpu" else gpu_reason()
    if device == "cpu" or (device == "auto" and reason is not None):
        return _cpu()
    if reason is not None:
        msg = f"device gpu was asked for, but {reason}; use device: auto or cpu"
        raise BadInputError(msg)
    from agent.reconstruction.gpu import GpuBackend

    return GpuBackend()
