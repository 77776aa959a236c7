"""The reference backend: the plain form of `forward` over NumPy or CuPy arrays, the oracle of the fused ones."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.reconstruction.counts.layout import bin_counts, draw_counts, framed, sum_counts
from agent.reconstruction.counts.thinning import thin
from agent.reconstruction.model.forward import Problem, Sums, Unknowns, Wanted, accumulate, expected_counts, step_phases


class ArrayBackend:
    """The plain form of `forward` over an array module; see `protocol.Backend`.

    Args:
        xp: NumPy, or a module with its functions.
        name: what a result says it was computed by.
    """

    chunk = 64
    """Patterns at a time."""

    def __init__(self, xp: Any, name: str) -> None:
        self.xp, self.name = xp, name

    def load(self, chunks: Iterable[NDArray[Any]], n: int, roll: tuple[int, int], shape: tuple[int, int]) -> Any:
        """See `Backend.load`."""
        return self.xp.concatenate([self.xp.asarray(framed(chunk, roll, shape)) for chunk in chunks])

    def thin_counts(self, counts: Any, fraction: float, seed: int) -> Any:
        """See `Backend.thin_counts`; drawn on the host."""
        return self.xp.asarray(thin(self.to_host(counts), fraction, seed))

    def sum_counts(self, counts: Any, shape: tuple[int, int]) -> tuple[Any, Any]:
        """See `Backend.sum_counts`."""
        return sum_counts(counts)

    def bin_counts(self, counts: Any, shape: tuple[int, int]) -> Any:
        """See `Backend.bin_counts`."""
        return bin_counts(counts)

    def draw_counts(self, model: Any, seed: tuple[int, ...]) -> Any:
        """See `Backend.draw_counts`; drawn on the host."""
        return self.xp.asarray(draw_counts(self.to_host(model), np.random.default_rng(seed)))

    def to_host(self, array: Any) -> NDArray[Any]:
        """Copied from the device where there is one."""
        return array.get() if hasattr(array, "get") else np.asarray(array)

    def expected_counts(self, problem: Problem, unknowns: Unknowns, index: NDArray[np.int64]) -> Any:
        """See `Backend.expected_counts`."""
        return expected_counts(problem, unknowns, index, self.xp, self.chunk)

    def accumulate(self, problem: Problem, unknowns: Unknowns, index: NDArray[np.int64], wanted: Wanted) -> Sums:
        """See `Backend.accumulate`."""
        parts = [
            accumulate(problem, unknowns, self.xp.asarray(index[start : start + self.chunk]), wanted, self.xp)
            for start in range(0, len(index), self.chunk)
        ]
        return _added(parts, self.xp)

    def step_phases(self, obj: Any, sums: Sums, size: float, floor: Any, positive: bool) -> None:
        """See `forward.step_phases`."""
        step_phases(obj, sums, size, floor, positive, self.xp)


def _added(parts: list[Sums], xp: Any) -> Sums:
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
