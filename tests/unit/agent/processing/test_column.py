"""What the column is said to be: a defocus that no probe of the window can have is never taken in silence."""

from __future__ import annotations

import numpy as np
import pytest
from examples import description, detector

from agent.processing.column import ColumnState, Measured, measure_column
from agent.reconstruction import DiffractionData

DESCRIPTION = description(semiangle=20.0, detector=detector(16, 4.0))


def measured(nominal: float, offset: float) -> Measured:
    """An acquisition at a nominal defocus, of a column whose defocus was last measured `offset` Å above the nominal."""
    data = DiffractionData(
        patterns=np.ones((16, 16, 16), np.uint16),
        positions=np.zeros((16, 2)),
        voltage=80e3,
        semiangle=20.0,
        angular_pixel=4.0,
        defocus=nominal,
    )
    known = ColumnState(centre=(8.0, 8.0), matrix=np.eye(2), defocus_offset=offset)
    return measure_column(
        data, DESCRIPTION, shape=(4, 4), known=known, enabled=False, on_progress=lambda fraction: None
    )


@pytest.mark.parametrize("sign", [1, -1])
def test_a_defocus_beyond_the_window_is_said_and_the_largest_that_fits_is_used(sign: int) -> None:
    limit = measured(0.0, 0.0).data.largest_defocus
    found = measured(sign * (limit - 5), sign * 20.0)
    assert found.data.defocus == pytest.approx(sign * limit)
    (note,) = found.notes
    assert f"defocus of {sign * (limit + 15):.4g} Å" in note
    assert f"{sign * limit:.4g} Å, the largest that fits" in note


def test_a_defocus_within_the_window_is_taken_as_it_was_measured() -> None:
    found = measured(100.0, 20.0)
    assert found.data.defocus == 120.0
    assert found.notes == ()
