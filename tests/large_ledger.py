"""A ledger with a long history, made faster than a microscope could."""

from __future__ import annotations

from examples import check, plan

from instrument.ledger import Ledger

SPREAD = 2e4
"""Å; edge of the square over which the exposures lie."""


def fill(ledger: Ledger, count: int, *, whole_trail: bool = False) -> None:
    """Book `count` exposures of 30 × 30 Å, of campaign `c`, all over the specimen. The map follows when it is opened again.

    Their audit trail is one entry, unless it is to have the three of each of them.
    """
    scan = plan("first", 30.0, 0.0, 0.0)
    ledger.open_campaign("c", 1e12)
    ledger.reserve(scan, check(scan), None)
    ledger.finish("first", "done", frames=900, electrons=scan.electrons)
    ledger._db.execute(
        """
        WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT ?),
            p(i, y, x) AS (
                SELECT i, ?2 * ((i * 7548776662 % 10000000000) / 1e10), ?2 * ((i * 5698402909 % 10000000000) / 1e10) FROM n
            )
        INSERT INTO acquisitions (id, campaign, region, state, plan, plan_check, electrons, dose, frames, reserved_at,
            y0, x0, y1, x1)
        SELECT 'old-' || p.i, 'c', 'r', 'done', plan, plan_check, electrons, dose, frames, reserved_at,
            p.y, p.x, p.y + 30.0, p.x + 30.0 FROM p, acquisitions WHERE id = 'first'
        """,
        (count, SPREAD),
    )
    ledger._db.execute(
        "UPDATE campaigns SET spent = (SELECT SUM(electrons) FROM acquisitions WHERE campaign = campaigns.id)"
    )
    if whole_trail:
        ledger._db.execute("BEGIN")
        for number in range(1, count + 1):
            for what in ("reserved", "started", "done"):
                ledger._note(what, f"old-{number}", electrons=scan.electrons)
        ledger._db.execute("COMMIT")
    else:
        ledger._trail.add(ledger._stamp(), "filled")
    ledger._trail.seal()
