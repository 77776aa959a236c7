"""Work is shared out between threads once, whole, and in parts that are not empty."""

from __future__ import annotations

import numpy as np
import pytest

from agent.reconstruction.backends.cpu import CpuBackend
from agent.reconstruction.kernels.threads import share


@pytest.mark.parametrize("n", [0, 1, 2, 3, 7, 100])
def test_every_piece_is_done_once(n: int) -> None:
    parts: list[tuple[int, int]] = []
    share(lambda first, stop: parts.append((first, stop)), n, workers=3)
    assert sorted(i for first, stop in parts for i in range(first, stop)) == list(range(n))
    assert all(first < stop for first, stop in parts)


def test_one_pattern_is_summed_by_more_threads() -> None:
    backend = CpuBackend(workers=4)
    patterns = np.random.default_rng(0).poisson(3.0, (1, 32, 16)).astype(np.uint8)
    for _ in range(20):
        totals, image = backend.sum_counts(backend.load([patterns], 1, (0, 0), (32, 16)), (32, 16))
        assert totals[0] == patterns.sum()
        assert np.array_equal(image, patterns[0])
