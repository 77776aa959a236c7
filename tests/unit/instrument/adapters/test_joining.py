"""Frames find their positions by their numbers, and what does not fit is counted."""

from __future__ import annotations

import pytest

from instrument.adapters.joining import FrameJoin, GapsError


def test_frames_in_any_order_find_their_positions():
    join = FrameJoin(4, "now", first=1)
    assert [join.position("now", number) for number in (3, 1, 4, 2)] == [2, 0, 3, 1]
    assert join.complete
    assert str(join.give_up()) == ""


def test_what_does_not_belong_to_the_scan_is_dropped_and_counted():
    join = FrameJoin(100, "now", most_missing=0.05)
    for number in range(98):
        join.position("now", number)
    stray = [("now", 3), ("before", 3), ("now", 100), ("now", -1)]
    assert [join.position(*each) for each in stray] == [None] * 4
    join.give_up()
    assert join.position("now", 98) is None
    gaps = join.gaps
    assert (gaps.duplicate, gaps.foreign, gaps.outside, gaps.late, gaps.missing) == (1, 1, 2, 1, (98, 99))
    assert str(gaps) == (
        "2 of 100 frames are missing (positions 98, 99); 1 frame was repeated; 1 frame was too late; 1 frame was of another "
        "series; 2 frames were with a number that the scan does not have"
    )


def test_too_many_gaps_are_refused_with_what_to_look_at():
    join = FrameJoin(100, "now", most_missing=0.05)
    for number in range(94):
        join.position("now", number)
    with pytest.raises(
        GapsError, match=r"^6 of 100 frames are missing \(positions 94, .* at most 5% may be missing; see"
    ):
        join.give_up()
