"""One small scan for the tests of recordings."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

SCAN = (14, 20)


@pytest.fixture(scope="module")
def counts() -> NDArray[np.uint16]:
    """(14, 20, 16, 16)."""
    return np.random.default_rng(0).poisson(20, (*SCAN, 16, 16)).astype(np.uint16)


@pytest.fixture
def row(counts: NDArray[np.uint16]) -> NDArray[np.uint16]:
    """(280, 16, 16)."""
    return counts.reshape(-1, 16, 16)
