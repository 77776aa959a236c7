"""Suspenders with hysteresis, and the frames that contradict a plan."""

from __future__ import annotations

import numpy as np
import pytest
from examples import check, description, detector, plan

from instrument import Condition, Health
from instrument.frame_watch import FRAMES, FrameWatch
from instrument.suspenders import Suspenders

WELL = Health(blanked=True)


def cooling(kelvin: float) -> Condition:
    return Condition(name="cooling", value=kelvin, unit="K", high=100.0, margin=5.0)


def test_a_value_at_its_limit_does_not_turn_the_beam_on_and_off():
    now = 0.0
    suspenders = Suspenders(lambda: now, hold=10.0)
    assert suspenders.judge(WELL, cooling(99.9)) == ""
    assert suspenders.judge(WELL, cooling(100.1)) == "cooling: 100.1 K, at most 100 K are right"
    for now in range(1, 50):
        assert suspenders.judge(WELL, cooling(99.9 if now % 2 else 95.1))
    assert "in 10 s" in suspenders.judge(WELL, cooling(94.0))
    now += 9
    assert "in 1 s" in suspenders.judge(WELL, cooling(94.0))
    assert suspenders.judge(Health(blanked=True, ok=False), cooling(94.0)) == "microscope: not as it should be"
    assert "in 10 s" in suspenders.judge(WELL, cooling(94.0)), "the hold begins anew"
    now += 10
    assert suspenders.judge(WELL, cooling(99.0)) or suspenders.judge(WELL, cooling(94.0)) == ""


def frames(alarming: np.ndarray, n: int = FRAMES, **changes: object) -> list[str]:
    described = description(detector=detector(32, 2.0, saturation=4095, **changes))
    wanted = plan(dose=1000.0)
    watch = FrameWatch(wanted, check(wanted, dwell_time=1e-3), described)
    return [watch.look(alarming) for _ in range(n)]


def disc(counts: float) -> np.ndarray:
    rows, columns = np.indices((32, 32)) - 16
    pattern = (np.hypot(rows, columns) < 10.7).astype(float)
    return (counts * pattern / pattern.sum()).round().astype(np.uint16)


@pytest.mark.parametrize("counts", [0, 1000, 9000])
def test_what_a_plan_implies_alarms_nobody(counts: float):
    assert not any(frames(disc(counts), 50))


def test_a_hot_pixel_alarms_nobody():
    hot = disc(1000)
    hot[3, 4] = 4095
    assert not any(frames(hot, 50))


def test_ten_times_the_counts_alarm_after_sixteen_patterns():
    found = frames(disc(12_000))
    assert [bool(each) for each in found] == [False] * (FRAMES - 1) + [True]
    assert "the plan implies 1000" in found[-1]


def test_counts_of_which_a_pixel_cannot_hold_its_share_alarm_too():
    found = frames(np.full((32, 32), 65535, np.uint16), counts_per_electron=5e3)
    assert "the plan implies 5e+06" in found[-1]


def test_a_drowned_detector_alarms_whatever_its_counts_are_worth():
    found = frames(np.full((32, 32), 4095, np.uint16), counts_per_electron=1e4)
    assert "saturated pixels" in found[-1]


def test_more_counts_per_second_than_the_detector_bears_alarm():
    found = frames(disc(9000), count_rate_limit=1e4)
    assert "more than 10000 counts/s in many pixels" in found[-1]
    assert not any(frames(disc(9000), count_rate_limit=1e5))
