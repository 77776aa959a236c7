"""Where on the specimen electrons went: the rectangles of a ledger, found by place, and the dose where they pile up."""

from __future__ import annotations

import sqlite3
from bisect import bisect_left

import numpy as np
from numpy.typing import NDArray

from instrument.errors import BudgetError
from instrument.models import AcquisitionPlan, Rectangle

TOLERANCE = 1e-6
"""Å; rectangles that share no more than this do not overlap."""

_OVERLAPPING = """
SELECT a.series, a.y0, a.x0, a.y1, a.x1, a.dose FROM {source}
WHERE {index} a.dose > 0 AND a.series > :after
  AND a.y0 + {tolerance} < :y1 AND :y0 + {tolerance} < a.y1 AND a.x0 + {tolerance} < :x1 AND :x0 + {tolerance} < a.x1
ORDER BY a.series LIMIT :limit
"""
_RTREE = {
    "source": "map AS m JOIN acquisitions AS a ON a.series = m.series",
    "index": "m.y0 < :y1 AND m.y1 > :y0 AND m.x0 < :x1 AND m.x1 > :x0 AND",
}
_COLUMNS = {"source": "acquisitions AS a", "index": ""}


class DoseMap:
    """The illuminated rectangles of the table `acquisitions` whose dose is above 0.

    They are found through an R-tree, or through an index of their columns where this SQLite has none.

    Args:
        database: of the ledger, with its tables; a transaction is open.
    """

    def __init__(self, database: sqlite3.Connection) -> None:
        self._db = database
        self.has_rtree = self._open_rtree()
        self._query = _OVERLAPPING.format(**(_RTREE if self.has_rtree else _COLUMNS), tolerance=TOLERANCE)

    def _open_rtree(self) -> bool:
        try:
            self._db.execute("CREATE VIRTUAL TABLE IF NOT EXISTS map USING rtree (series, y0, y1, x0, x1)")
            known = self._db.execute("SELECT COUNT(*) FROM map").fetchone()[0]
        except sqlite3.OperationalError as error:
            if "no such module" not in str(error):
                raise
            return False
        # They differ after a server whose SQLite had no R-tree, and in a ledger of an earlier version.
        if known != self._db.execute("SELECT COUNT(*) FROM acquisitions WHERE dose > 0").fetchone()[0]:
            self._db.execute("DELETE FROM map")
            self._db.execute("INSERT INTO map SELECT series, y0, y1, x0, x1 FROM acquisitions WHERE dose > 0")
        return True

    def add(self, series: int, rectangle: Rectangle) -> None:
        """Enter the rectangle of an acquisition.

        Args:
            series: its number.
            rectangle: that it illuminates, Å.
        """
        if self.has_rtree:
            r = rectangle
            corners = (series, r.y, r.y + r.height, r.x, r.x + r.width)
            self._db.execute("INSERT INTO map VALUES (?, ?, ?, ?, ?)", corners)

    def remove(self, series: int) -> None:
        """Take out the rectangle of an acquisition that gave no dose.

        Args:
            series: its number.
        """
        if self.has_rtree:
            self._db.execute("DELETE FROM map WHERE series = ?", (series,))

    def overlapping(self, area: Rectangle, after: int = 0, limit: int = -1) -> NDArray[np.float64]:
        """The rectangles that share more than an edge with an area.

        Args:
            area: specimen frame, Å.
            after: only those of acquisitions with a higher number.
            limit: so many at most, in the order of their numbers; -1: all.

        Returns:
            (n, 6): number of the acquisition, y and x of the upper left and of the lower right corner, Å, and dose, e/Å².
        """
        bounds = {"y0": area.y, "x0": area.x, "y1": area.y + area.height, "x1": area.x + area.width}
        rows = self._db.execute(self._query, bounds | {"after": after, "limit": limit})
        return np.array([tuple(row) for row in rows], dtype=np.float64).reshape(-1, 6)


def peak_dose(booked: NDArray[np.float64], area: Rectangle) -> float:
    """The largest dose that any point of an area has.

    A line sweeps over the area from top to bottom and holds the dose along itself. The dose can only rise where a
    rectangle begins, so nothing is lost by looking at those places alone: O(n) each, O(n²) in all.

    Args:
        booked: (n, 6), as `DoseMap.overlapping` gives them for this area.
        area: specimen frame, Å.

    Returns:
        e/Å²; 0 where there is none.
    """
    if not len(booked):
        return 0.0
    top, left = np.maximum(booked[:, 1], area.y), np.maximum(booked[:, 2], area.x)
    bottom, right = booked[:, 3] - TOLERANCE, booked[:, 4] - TOLERANCE
    places = np.unique(left)
    first, stop = np.searchsorted(places, left), np.searchsorted(places, right)
    dose = np.zeros(len(places))
    by_bottom = np.argsort(bottom)
    bottoms = bottom[by_bottom].tolist()
    over, highest = 0, 0.0
    for number in np.argsort(top, kind="stable"):
        gone = bisect_left(bottoms, top[number] + TOLERANCE / 2, over)
        for passed in by_bottom[over:gone]:
            dose[first[passed] : stop[passed]] -= booked[passed, 5]
        over = gone
        line = dose[first[number] : stop[number]]
        line += booked[number, 5]
        highest = max(highest, float(line.max()))
    return highest


def check_region(plan: AcquisitionPlan, before: float, dose: float, limit: float) -> None:
    """Refuse a plan that would give its place too much.

    Args:
        plan: whose region it is.
        before: what the place has already, e/Å².
        dose: of the plan, e/Å².
        limit: what it may have, e/Å².

    Raises:
        BudgetError: it would; nothing is reserved.
    """
    if before + dose > limit * (1 + 1e-9):
        msg = (
            f"region {plan.region} would get {before + dose:g} e/Å² with the {before:g} it already has; at most "
            f"{limit:g} are allowed; move the field to a fresh place or lower the dose"
        )
        raise BudgetError(msg, accumulated=before, dose=dose, limit=limit)
