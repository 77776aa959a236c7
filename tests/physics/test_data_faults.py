# SPDX-License-Identifier: GPL-3.0-or-later
"""Each fault of the data is seen in the counts as it was asked for, and nothing else changes."""

from __future__ import annotations

from typing import Any

import examples
import numpy as np
import pytest
from numpy.typing import NDArray

from sim_instrument import Column, SimulatedMicroscope, SpecimenOptions, build_specimen, simulate

VACUUM = build_specimen(SpecimenOptions(material="vacuum"))
MOS2 = build_specimen(SpecimenOptions(size=300))
PLAN = examples.plan(size=10, y=140, x=140, defocus=200.0, dose=5000.0)
SMALL = {"detector_pixels": 48, "angular_pixel": 1.9}
PER_PATTERN = PLAN.electrons_per_pattern


def counts(specimen: Any = VACUUM, seed: int = 0, **faults: Any) -> NDArray[np.uint16]:
    return simulate(PLAN, specimen, Column.ideal(**SMALL, **faults), seed=seed)


def totals(**faults: Any) -> NDArray[np.float64]:
    """(scan_y, scan_x) electrons of each frame, over what they should be."""
    return counts(**faults).sum(axis=(2, 3)) / PER_PATTERN


def test_without_faults_every_frame_has_its_electrons() -> None:
    np.testing.assert_allclose(totals(), 1, atol=5 / np.sqrt(PER_PATTERN))


def test_flicker_and_drift_of_the_current() -> None:
    assert totals(flicker=0.15).std() == pytest.approx(0.15, rel=0.25)
    drifting = totals(current_drift=-0.5).ravel()
    assert drifting[:10].mean() == pytest.approx(0.975, abs=0.03)
    assert drifting[-10:].mean() == pytest.approx(0.525, abs=0.03)


def test_blank_and_missing_frames() -> None:
    """A blank frame holds what hot pixels count, a missing one nothing at all."""
    frames = counts(blank_frames=3, hot_pixels=5, hot_rate=1e6).sum(axis=(2, 3))
    assert (frames < 0.5 * PER_PATTERN).sum() == 3
    assert frames.min() > 100
    frames = counts(missing_frames=4, hot_pixels=5, hot_rate=1e6).sum(axis=(2, 3))
    assert (frames == 0).sum() == 4
    assert (frames < 0.9 * PER_PATTERN).sum() == 4


def test_an_aborted_scan_ends_in_zeros() -> None:
    written = totals(aborted_at=0.63).ravel() > 0
    assert written[:63].all()
    assert not written[63:].any()


def test_a_line_at_reduced_current() -> None:
    lines = totals(weak_lines=1, weak_line_current=0.8).mean(axis=1)
    weak = lines < 0.9
    assert weak.sum() == 1
    assert lines[weak] == pytest.approx(0.8, abs=0.01)


def test_descan_moves_the_disc_with_the_scan() -> None:
    """Down the detector with the scan's y, to the right with its x, as far as asked for from first to last."""
    stack = counts(descan_y=2.0, descan_x=-1.0).astype(float)
    index = np.arange(48)
    down = (stack.sum(axis=3) @ index) / stack.sum(axis=(2, 3))
    right = (stack.sum(axis=2) @ index) / stack.sum(axis=(2, 3))
    assert np.ptp(down.mean(axis=1)) == pytest.approx(2, abs=0.1)
    assert down[-1].mean() > down[0].mean()
    assert right[:, -1].mean() - right[:, 0].mean() == pytest.approx(-1, abs=0.1)
    assert np.ptp(down.mean(axis=0)) < 0.3
    assert stack.sum() == pytest.approx(counts().sum(), rel=0.01)


def test_two_passes_have_the_faults_of_one_longer_scan() -> None:
    plan = PLAN.model_copy(update={"passes": 2})
    column = Column.ideal(**SMALL, aborted_at=0.75, weak_lines=1, weak_line_current=0.0, descan_y=4.0, shot_noise=False)
    stack = simulate(plan, VACUUM, column).astype(float)
    frames = stack.sum(axis=(-1, -2)).reshape(20, 10)
    assert (frames[15:] == 0).all()
    assert (frames[:15].sum(axis=1) == 0).sum() <= 1
    index = np.arange(48)
    down = (stack.sum(axis=-1) @ index).reshape(20, 10).sum(axis=1)[[0, 10]] / frames[[0, 10]].sum(axis=1)
    assert down[1] - down[0] == pytest.approx(4.0 * 0.5 / 9.5, abs=0.05)


def test_a_late_detector_shows_the_position_before() -> None:
    exact = counts(MOS2, shot_noise=False)
    late = counts(MOS2, shot_noise=False, frame_lag=1)
    flat, behind = exact.reshape(100, 48, 48), late.reshape(100, 48, 48)
    np.testing.assert_array_equal(behind[1:], flat[:-1])
    np.testing.assert_array_equal(behind[0], flat[0])


@pytest.mark.parametrize("size", [2, 3])
def test_hot_pixels_that_touch(size: int) -> None:
    extra = counts(shot_noise=False, hot_blocks=1, hot_block_size=size, hot_block_rate=1e6).astype(int) - counts(
        shot_noise=False
    )
    rows, columns = np.nonzero(extra.sum(axis=(0, 1)))
    assert len(rows) == size**2
    assert np.ptp(rows) == np.ptp(columns) == size - 1


def test_dead_rows_and_the_gap_between_chips() -> None:
    rows = counts(hot_pixels=300, hot_rate=1e7, dead_rows=2, gap=3).sum(axis=(0, 1))
    assert rows[:, 22:25].sum() == rows[22:25].sum() == 0
    silent = np.flatnonzero(rows.sum(axis=1) == 0)
    assert 3 < len(silent) <= 5


async def test_the_facility_does_not_know_of_faults() -> None:
    told = []
    for faults in ({}, {"dead_rows": 1, "gap": 2, "hot_blocks": 2, "flicker": 0.1}):
        microscope = SimulatedMicroscope(SpecimenOptions(material="vacuum"), Column(**SMALL, **faults))
        told.append(await microscope.describe())
        microscope.close()
    assert told[0] == told[1]


def test_faults_are_the_same_for_the_same_seed_only() -> None:
    every = {"flicker": 0.1, "blank_frames": 2, "missing_frames": 2, "weak_lines": 1, "hot_blocks": 2, "dead_rows": 1}
    np.testing.assert_array_equal(counts(**every), counts(**every))
    one, other = counts(**every), counts(**every, seed=1)
    assert not np.array_equal(one.sum(axis=(2, 3)) == 0, other.sum(axis=(2, 3)) == 0)
    assert not np.array_equal(one.sum(axis=(0, 1)) == 0, other.sum(axis=(0, 1)) == 0)


async def test_the_microscope_delivers_the_same_faulty_counts_as_simulate() -> None:
    column = Column(**SMALL, flicker=0.2, missing_frames=3, descan_x=1.0, aborted_at=0.9)
    microscope = SimulatedMicroscope(SpecimenOptions(material="vacuum"), column)
    frames = [frame.pattern async for frame in microscope.acquire(PLAN.model_copy(update={"dose": 2000.0}))]
    microscope.close()
    expected = simulate(PLAN.model_copy(update={"dose": 2000.0}), VACUUM, column)
    np.testing.assert_array_equal(np.reshape(frames, expected.shape), expected)
