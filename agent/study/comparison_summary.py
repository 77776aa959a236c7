"""What a comparison of policies comes to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from agent.study.comparison import FINAL_AREA, ComparisonRecord

DRAWS = 1000
"""Of the bootstrap over columns."""


@dataclass(frozen=True)
class Row:
    """A policy after some trials.

    Attributes:
        policy: its name.
        dose: of the final picture, e/Å².
        budget: trials.
        cost: electrons of exploration over those of the final picture, mean.
        regret: median over columns and seeds.
        band: 5 and 95 % of the median under resampling of columns.
        over_random: truth over that of random search after as many trials, paired, median; None: there was none.
    """

    policy: str
    dose: float
    budget: int
    cost: float
    regret: float
    band: tuple[float, float]
    over_random: float | None


def summarise(records: Sequence[ComparisonRecord]) -> list[Row]:
    """One row for each policy, dose and budget with a result, in the order of the records.

    Args:
        records: of a study.
    """
    groups: dict[tuple[str, float, int], list[ComparisonRecord]] = {}
    for record in records:
        if record.regret is not None:
            groups.setdefault((record.policy, record.dose, record.budget), []).append(record)
    rows = []
    for (policy, dose, budget), group in sorted(groups.items(), key=lambda item: (item[0][1], item[0][2])):
        random = {(r.column, r.seed): r.truth for r in groups.get(("random", dose, budget), [])}
        paired = [(r.truth or 0.0) / t for r in group if (t := random.get((r.column, r.seed)))]
        rows.append(
            Row(
                policy,
                dose,
                budget,
                float(np.mean([r.electrons for r in group])) / (dose * FINAL_AREA),
                float(np.median([r.regret or 0.0 for r in group])),
                _band(group),
                float(np.median(paired)) if paired else None,
            )
        )
    return rows


def _band(group: Sequence[ComparisonRecord]) -> tuple[float, float]:
    """5 and 95 % of the median regret when columns are drawn with replacement."""
    columns: dict[str, list[float]] = {}
    for record in group:
        columns.setdefault(record.column, []).append(record.regret or 0.0)
    lists, rng = list(columns.values()), np.random.default_rng(0)
    medians = [
        np.median(np.concatenate([lists[i] for i in rng.integers(len(lists), size=len(lists))])) for _ in range(DRAWS)
    ]
    low, high = np.percentile(medians, [5, 95])
    return float(low), float(high)
