"""What a backend does: an array module and the sums of one batch of patterns."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from agent.reconstruction.model.forward import Problem, Sums, Unknowns, Wanted


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
