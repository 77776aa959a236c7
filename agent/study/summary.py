"""What a study's records come to: a few figures that say how far calibration and score can be believed."""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from pydantic import Field

from agent.study.records import CalibrationRecord, Kind, ScoreRecord
from instrument.models import Record

TOLERANCE = 0.15
"""Relative deviation of a score from the truth that is allowed in any case."""
RANKED_DOSE = 1e3
"""e/Å², from which settings of a column must be ranked right."""
FEWEST_RANKED = 3
"""Settings that can be ranked."""


class CalibrationSummary(Record):
    """Figures of a calibration study; None where nothing was there to tell."""

    acquisitions: int
    not_found: float | None = Field(description="fraction")
    defocus_median: float | None = Field(description="|error|, Å, also of those where the set-point had to do")
    defocus_90: float | None = Field(description="|error| that 90 % stay below, Å")
    relative_median: float | None = Field(description="|error| over the true defocus")
    relative_90: float | None
    rotation_median: float | None = Field(description="|error|, degrees")
    rotation_90: float | None
    wrong_hand: int = Field(description="acquisitions whose handedness came out wrong")
    pull_rms: float | None = Field(description="of error over stated sd, of the defocus, where found")
    pull_worst: float | None
    rotation_pull_rms: float | None = Field(description="the same of the rotation")
    rotation_pull_worst: float | None


class ScoreSummary(Record):
    """Figures of a score study, for one kind of halves; None where nothing was there to tell."""

    acquisitions: int
    failed: int = Field(description="without a score")
    bias: float | None = Field(description="mean of (score − truth)/truth")
    rms: float | None = Field(description="root mean square of it")
    within: float | None = Field(description="fraction of grid cells whose means agree within max(15 %, 2 sd)")
    rank_median: float | None = Field(description="Spearman's, within a column at one dose from 1e3 e/Å² up")
    rank_worst: float | None
    regret: float | None = Field(description="of the best-scored setting in truth, relative, median")
    vetoes: int
    false_vetoes: int = Field(description="vetoed although the score agrees with the truth")
    rivals: dict[str, float | None] = Field(
        default_factory=dict, description="median rank correlation with the truth of what others tune by"
    )


class Cell(Record):
    """A setting of the grid, of all columns together."""

    step: float
    defocus: float = Field(description="median set-point, Å: a part of each column's window")
    dose: float
    columns: int
    score: float = Field(description="mean")
    truth: float = Field(description="mean")
    right: bool = Field(description="whether the means agree within max(15 %, 2 sd of the mean)")


def cells_of(records: Iterable[ScoreRecord], kind: Kind) -> dict[int, Cell]:
    """The grid's settings by their numbers, from scores that are not vetoed.

    Args:
        records: of the study.
        kind: of halves.
    """
    trusted = [r for r in records if r.halves == kind and r.score is not None and r.veto is None]
    return {
        cell[0].cell: Cell(
            step=_number(cell[0].step),
            defocus=float(np.median([_number(r.defocus) for r in cell])),
            dose=_number(cell[0].dose),
            columns=len(cell),
            score=float(np.mean([_number(r.score) for r in cell])),
            truth=float(np.mean([_number(r.truth) for r in cell])),
            right=_agrees(cell),
        )
        for cell in _cells(trusted)
    }


def summarise_calibration(records: Sequence[CalibrationRecord]) -> CalibrationSummary:
    """Figures of all acquisitions; one that came to nothing counts as not found.

    Args:
        records: of the study.
    """
    errors = np.array(
        [r.defocus - r.true_defocus for r in records if r.defocus is not None and r.true_defocus is not None]
    )
    relative = np.array(
        [
            (r.defocus - r.true_defocus) / r.true_defocus
            for r in records
            if r.defocus is not None and r.true_defocus is not None and r.true_defocus
        ]
    )
    rotations = [r.rotation_error for r in records if r.rotation_error is not None and r.right_hand is not False]
    pulls = [
        (r.defocus - r.true_defocus) / r.defocus_sd
        for r in records
        if r.found and r.defocus is not None and r.true_defocus is not None and r.defocus_sd
    ]
    turned = [r.rotation_error / r.rotation_sd for r in records if r.rotation_error is not None and r.rotation_sd]
    return CalibrationSummary(
        acquisitions=len(records),
        not_found=_mean([float(not r.found) for r in records]),
        defocus_median=_quantile(errors, 0.5),
        defocus_90=_quantile(errors, 0.9),
        relative_median=_quantile(relative, 0.5),
        relative_90=_quantile(relative, 0.9),
        rotation_median=_quantile(rotations, 0.5),
        rotation_90=_quantile(rotations, 0.9),
        wrong_hand=sum(r.right_hand is False for r in records),
        pull_rms=_rms(pulls),
        pull_worst=_quantile(pulls, 1.0),
        rotation_pull_rms=_rms(turned),
        rotation_pull_worst=_quantile(turned, 1.0),
    )


def summarise_score(records: Sequence[ScoreRecord], kind: Kind) -> ScoreSummary:
    """Figures of all acquisitions with one kind of halves. Vetoed scores count as vetoes, and for nothing else.

    Args:
        records: of the study.
        kind: of halves.
    """
    ours = [r for r in records if r.halves == kind]
    told = [r for r in ours if r.score is not None and r.truth is not None and r.sd is not None]
    trusted = [r for r in told if r.veto is None]
    deviations = [deviation for r in trusted if (deviation := _deviation(r)) is not None]
    ranks = [
        rank for group in _columns(trusted) if (rank := _rank([_number(r.score) for r in group], group)) is not None
    ]
    return ScoreSummary(
        acquisitions=len(ours),
        failed=len(ours) - len(told),
        bias=_mean(deviations),
        rms=_rms(deviations),
        within=_mean([float(_agrees(cell)) for cell in _cells(trusted)]),
        rank_median=None if not ranks else float(np.median(ranks)),
        rank_worst=min(ranks, default=None),
        regret=_median_regret(told),
        vetoes=len(told) - len(trusted),
        false_vetoes=sum(r.veto is not None and _agrees([r]) for r in told),
        rivals={name: _rival(told, name) for name in ("data_error", "fourier_error", "contrast", "entropy")},
    )


def _deviation(record: ScoreRecord) -> float | None:
    """(score − truth)/truth; None where the truth is nothing."""
    score, truth = _number(record.score), _number(record.truth)
    return (score - truth) / truth if truth > 0.01 else None


def _agrees(cell: Sequence[ScoreRecord]) -> bool:
    """Whether the means of score and truth differ by no more than 15 %, or twice the standard deviation of the mean."""
    score, truth = (
        float(np.mean([_number(v) for v in values])) for values in zip(*((r.score, r.truth) for r in cell), strict=True)
    )
    sd = float(np.sqrt(sum(_number(r.sd) ** 2 for r in cell))) / len(cell)
    return abs(score - truth) <= max(TOLERANCE * truth, 2 * sd)


def _cells(records: Iterable[ScoreRecord]) -> list[list[ScoreRecord]]:
    """Records of the same setting, of all columns."""
    cells: Mapping[int, list[ScoreRecord]] = defaultdict(list)
    for record in records:
        cells[record.cell].append(record)
    return list(cells.values())


def _columns(records: Iterable[ScoreRecord]) -> list[list[ScoreRecord]]:
    """Records of the same column and dose, from `RANKED_DOSE` up."""
    columns: Mapping[tuple[str, float], list[ScoreRecord]] = defaultdict(list)
    for record in records:
        dose = _number(record.dose)
        if dose >= RANKED_DOSE * (1 - 1e-9):
            columns[record.name, dose].append(record)
    return list(columns.values())


def _rank(values: Sequence[float], records: Sequence[ScoreRecord]) -> float | None:
    """Spearman's correlation of values with the truth; None where there is nothing to rank."""
    from scipy.stats import spearmanr

    if len(values) < FEWEST_RANKED:
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of constant values, for which it is not defined
        rank = float(spearmanr(values, [_number(r.truth) for r in records]).statistic)
    return rank if np.isfinite(rank) else None


def _median_regret(records: Sequence[ScoreRecord]) -> float | None:
    """What is lost by taking the setting with the best score instead of the truly best one."""
    regrets = []
    for group in _columns(records):
        trusted = [r for r in group if r.veto is None]
        best = max(_number(r.truth) for r in group)
        if trusted and best > 0:
            chosen = max(trusted, key=lambda r: _number(r.score))
            regrets.append(1 - _number(chosen.truth) / best)
    return float(np.median(regrets)) if regrets else None


def _rival(records: Sequence[ScoreRecord], name: str) -> float | None:
    """Median rank correlation with the truth of another objective, less being better but for the contrast."""
    sign = 1.0 if name == "contrast" else -1.0
    ranks = []
    for group in _columns(records):
        known = [r for r in group if getattr(r, name) is not None]
        if (rank := _rank([sign * getattr(r, name) for r in known], known)) is not None:
            ranks.append(rank)
    return float(np.median(ranks)) if ranks else None


def _number(value: float | None) -> float:
    assert value is not None
    return value


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if len(values) else None


def _rms(values: Sequence[float]) -> float | None:
    return float(np.sqrt(np.mean(np.square(values)))) if len(values) else None


def _quantile(values: Sequence[float] | np.ndarray, part: float) -> float | None:
    """Quantile of the magnitudes."""
    return float(np.quantile(np.abs(values), part)) if len(values) else None
