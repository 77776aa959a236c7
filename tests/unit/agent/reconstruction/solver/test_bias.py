"""How far a bias is believed that was found in noise."""

from __future__ import annotations

import numpy as np
import pytest

from agent.reconstruction.solver.bias import believed

ERROR = 0.01


@pytest.mark.parametrize(("bias", "most"), [(0.0, 0.75), (0.5 * ERROR, 0.9), (-20 * ERROR, 1.03)])
def test_what_is_believed_of_a_bias_is_nearer_to_it_than_what_was_found(bias: float, most: float) -> None:
    found = bias + ERROR * np.random.default_rng(1).standard_normal(4000)
    kept = np.array([believed(value, ERROR**2) for value in found])
    assert np.sqrt(np.mean((kept - bias) ** 2)) < most * np.sqrt(np.mean((found - bias) ** 2))
    assert (kept * found >= 0).all()
    assert (np.abs(kept) <= np.abs(found)).all()


def test_no_bias_found_is_no_bias() -> None:
    assert believed(0.0, ERROR**2) == 0.0
    assert believed(0.0, 0.0) == 0.0
    assert believed(-0.2, 0.0) == pytest.approx(-0.2)
