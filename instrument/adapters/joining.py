"""Frames of a camera joined to the positions of a scan: by their number, never by the order in which they arrive."""

from __future__ import annotations

from pydantic import Field

from instrument.records import Record

MOST_MISSING = 0.05
"""Part of the positions that may be without a frame."""
SHOWN = 5


class GapsError(Exception):
    """More frames are missing than an acquisition can do without."""


class Gaps(Record):
    """What did not go as it should between camera and scan in one acquisition."""

    expected: int
    missing: tuple[int, ...] = Field(default=(), description="positions without a frame, in scan order")
    duplicate: int = Field(default=0, description="frames of a position that had one; the first counts")
    late: int = Field(default=0, description="frames that came after their position had been given up")
    foreign: int = Field(default=0, description="frames of another series")
    outside: int = Field(default=0, description="frames with numbers that the scan does not have")

    @property
    def fraction(self) -> float:
        """Part of the positions without a frame."""
        return len(self.missing) / self.expected

    def __str__(self) -> str:
        """In words; "" where nothing was wrong."""
        first = ", ".join(map(str, self.missing[:SHOWN])) + (" …" if len(self.missing) > SHOWN else "")
        found = (
            [f"{len(self.missing)} of {self.expected} frames are missing (positions {first})"] if self.missing else []
        )
        for count, what in (
            (self.duplicate, "repeated"),
            (self.late, "too late"),
            (self.foreign, "of another series"),
            (self.outside, "with a number that the scan does not have"),
        ):
            if count:
                found.append(f"{count} {'frame was' if count == 1 else 'frames were'} {what}")
        return "; ".join(found)


class FrameJoin:
    """Finds the position of each frame of one acquisition, and keeps account of what does not fit.

    Args:
        n_positions: of the scan.
        series: the camera's name of the series; frames of others are stale, from an acquisition that was aborted, perhaps.
        first: number that the camera gives the frame of the first position.
        most_missing: part of the positions that may be without a frame.
    """

    def __init__(
        self, n_positions: int, series: int | str, *, first: int = 0, most_missing: float = MOST_MISSING
    ) -> None:
        self._series = series
        self._first = first
        self._most_missing = most_missing
        self._seen = bytearray(n_positions)
        self._left = n_positions
        self._over = False
        self._duplicate = self._late = self._foreign = self._outside = 0

    @property
    def complete(self) -> bool:
        """Whether every position has its frame."""
        return self._left == 0

    def position(self, series: int | str, number: int) -> int | None:
        """The position to which a frame belongs, in scan order; None where it is to be dropped.

        Args:
            series: that the frame says it is of.
            number: that the camera has given it in its series.
        """
        index = number - self._first
        if series != self._series:
            self._foreign += 1
        elif not 0 <= index < len(self._seen):
            self._outside += 1
        elif self._seen[index]:
            self._duplicate += 1
        elif self._over:
            self._late += 1
        else:
            self._seen[index] = 1
            self._left -= 1
            return index
        return None

    def give_up(self) -> Gaps:
        """Take what is missing for lost; frames that come now are too late.

        Raises:
            GapsError: more is missing than may be.
        """
        self._over = True
        gaps = self.gaps
        if gaps.fraction > self._most_missing:
            msg = (
                f"{gaps}; at most {self._most_missing:.0%} may be missing; see to the trigger and the camera's buffers"
            )
            raise GapsError(msg)
        return gaps

    @property
    def gaps(self) -> Gaps:
        """The account so far."""
        return Gaps(
            expected=len(self._seen),
            missing=tuple(index for index, seen in enumerate(self._seen) if not seen),
            duplicate=self._duplicate,
            late=self._late,
            foreign=self._foreign,
            outside=self._outside,
        )
