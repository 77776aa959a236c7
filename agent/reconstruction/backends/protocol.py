"""What a backend does: an array module and the sums of one batch of patterns."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from agent.reconstruction.model.forward import Problem, Sums, Unknowns, Wanted


class Backend(Protocol):
    """An array module and the sums of one batch.

    Attributes:
        name: what a result says it was computed by.
        xp: the array module (NumPy or one like it) of everything that a backend is given and gives.
    """

    name: str
    xp: Any

    def load(self, chunks: Iterable[NDArray[Any]], n: int, roll: tuple[int, int], shape: tuple[int, int]) -> Any:
        """Take in counts.

        Args:
            chunks: parts (b, ky, kx) of n patterns, in their order; uint8, uint16 or others.
            n: patterns in all.
            roll: (row, column) pixels that bring the zero beam to pixel (0, 0).
            shape: (ky, kx) pixels; a rim of zeros fills patterns up to them.

        Returns:
            The counts, n first, in the backend's own layout: what `Problem.counts` holds.
        """
        ...

    def thin_counts(self, counts: Any, fraction: float, seed: int) -> Any:
        """Draw each count with a probability.

        Args:
            counts: as `load` gives them, whole numbers.
            fraction: 0 … 1.
            seed: the same seed draws the same counts on the same backend.

        Returns:
            Counts in the same layout and type.
        """
        ...

    def sum_counts(self, counts: Any, shape: tuple[int, int]) -> tuple[Any, Any]:
        """Add counts up.

        Args:
            counts: as `load` gives them.
            shape: (ky, kx) pixels they were loaded for.

        Returns:
            Counts of each pattern (n,) and of each pixel (ky, kx), float64.
        """
        ...

    def bin_counts(self, counts: Any, shape: tuple[int, int]) -> Any:
        """Add 2 × 2 pixels up.

        Args:
            counts: as `load` gives them.
            shape: (ky, kx) pixels they were loaded for.

        Returns:
            Counts as `load` would give them for a detector whose pixel j is the pixels 2j and 2j + 1.
        """
        ...

    def draw_counts(self, model: Any, seed: tuple[int, ...]) -> Any:
        """Draw Poisson counts.

        Args:
            model: expected counts, as `expected_counts` gives them.
            seed: the same seed draws the same counts on the same backend.

        Returns:
            Counts as `load` gives them.
        """
        ...

    def to_host(self, array: Any) -> NDArray[Any]:
        """An array of `xp` as a NumPy array; waits for a device."""
        ...

    def accumulate(self, problem: Problem, unknowns: Unknowns, index: NDArray[np.int64], wanted: Wanted) -> Sums:
        """Patterns through the model and back, as `forward.accumulate` does it.

        Args:
            problem, unknowns: what is given and what is found; arrays of `xp`.
            index: (b,) numbers of the patterns, each at most once.
            wanted: which sums; others may be missing.

        Returns:
            Sums that later batches leave as they are.
        """
        ...

    def expected_counts(self, problem: Problem, unknowns: Unknowns, index: NDArray[np.int64]) -> Any:
        """Expected counts.

        Args:
            problem, unknowns: what is given and what is found.
            index: (b,) numbers of the patterns.

        Returns:
            (b, …) float32 in the layout that `load` gives.
        """
        ...

    def step_phases(self, obj: Any, sums: Sums, size: float, floor: Any, positive: bool) -> None:
        """Step the phases of `obj` (S, y, x) in place; see `forward.step_phases`."""
        ...
