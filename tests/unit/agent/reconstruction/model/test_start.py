"""How much room a reconstruction gets beyond the detector's edge."""

from __future__ import annotations

import numpy as np
import pytest

from agent.reconstruction import DiffractionData, ReconstructionSettings, choose_padding

ONE = ReconstructionSettings()


def scan(counts: int, angular_pixel: float = 1.5) -> DiffractionData:
    """100 patterns of 32² pixels that reach 24 mrad, 12 mrad convergence."""
    axis = np.arange(10.0)
    positions = np.stack(np.meshgrid(axis, axis, indexing="ij"), axis=-1).reshape(-1, 2)
    patterns = np.full((100, 32, 32), counts, np.uint16)
    return DiffractionData(patterns, positions, 80e3, 12.0, angular_pixel)


def test_what_is_scattered_to_the_edge_from_beyond_it_has_room_where_the_counts_tell() -> None:
    assert choose_padding(scan(3), ONE, roomy=True) == pytest.approx(1.5)
    assert choose_padding(scan(0), ONE, roomy=True) == 1.0, "there, amplitudes and far frequencies are noise"
    assert choose_padding(scan(3), ONE) == 1.0
    assert choose_padding(scan(3), ReconstructionSettings(padding=1.2), roomy=True) == 1.2
    assert choose_padding(scan(3, angular_pixel=0.6), ONE, roomy=True) == 2.0, "never more than twice"
