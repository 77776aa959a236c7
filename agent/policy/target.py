"""Goal cheapest: the score that has to be reached, also where a resolution is wanted."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from agent.policy.base import Observation, Problem

SCORE_OF_RESOLUTION = (math.log(4.5), 0.4)
"""ln(score · resolution²), mean and sd over 60 trials of eleven campaigns on columns of the zoo, half-bit resolution."""
SCATTER = 0.3
"""Standard deviation of the same among the trials of one campaign, before there are any."""
SCATTER_WEIGHT = 4
"""Trials that this counts for."""


@dataclass(frozen=True)
class Target:
    """What is to be reached.

    Attributes:
        score: bit/Å².
        sd: of it; 0 where the score itself is the goal.
        words: for people.
    """

    score: float
    sd: float
    words: str


def target_of(problem: Problem, scored: Iterable[Observation]) -> Target | None:
    """The target as far as it is known; None before a reference has told it.

    Args:
        problem: the campaign's.
        scored: trials with a score.
    """
    resolution = problem.config.goal.resolution
    if resolution is None:
        target = problem.target
        return None if target is None else Target(target, 0.0, f"{target:.4g} bit/Å²")
    return _resolved(resolution, scored)


def _resolved(resolution: float, scored: Iterable[Observation]) -> Target:
    """The score at which a resolution, Å, is reached.

    The information within a frequency grows with its square: score = c / resolution². ln c is learned from the trials; one that
    resolves something else says less, by the difference of ln resolution.
    """
    told = [(o.score, o.resolution) for o in scored if o.score is not None and o.score > 0 and o.resolution]
    mean, sd = SCORE_OF_RESOLUTION
    found = np.array([math.log(score * reached**2) for score, reached in told])
    distance = np.array([math.log(reached / resolution) for _, reached in told])
    near = 1 / (1 + (distance / SCATTER) ** 2)  # part of a trial that counts
    own = float(near @ (found - near @ found / near.sum()) ** 2) if len(found) > 1 else 0.0
    scatter = math.sqrt((SCATTER_WEIGHT * SCATTER**2 + own) / (SCATTER_WEIGHT + max(float(near.sum()) - 1, 0.0)))
    weights = 1 / (scatter**2 + distance**2)
    precision = 1 / sd**2 + float(weights.sum())
    centre = (mean / sd**2 + float(weights @ found)) / precision if len(found) else mean
    spread = math.sqrt(1 / precision + scatter**2)
    score = math.exp(centre) / resolution**2
    words = f"a resolution of {resolution:.3g} Å ({score:.3g} ± {score * spread:.2g} bit/Å², after {len(found)} trials)"
    return Target(score, score * spread, words)
