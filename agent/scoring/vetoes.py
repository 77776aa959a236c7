"""Evidence against a score, from counts: does the model describe what it was fitted to, and does it predict what it was not?

Only the built-in reconstruction is examined; one of the user's own has no model that could be asked.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.reconstruction import (
    DiffractionData,
    Reconstruction,
    ReconstructionSettings,
    Reconstructor,
    expected_deviance,
)
from agent.records import Score

MISFIT = 5.0
"""Deviance over its expectation above which a score is vetoed: the model does not describe these data."""
_EXAMINED = 64
"""Patterns, spread over the scan, from which the misfit is taken."""


@dataclass(frozen=True)
class Evidence:
    """How well the reconstruction of the first half explains counts.

    Attributes:
        misfit: Poisson deviance of its own counts over what counting noise alone explains; 1 is perfect.
        heldout_gain: log-likelihood of the second half's counts over that of an empty specimen, nat per electron.
    """

    misfit: float
    heldout_gain: float


def reconstruct_examined(
    first: DiffractionData,
    second: DiffractionData,
    settings: ReconstructionSettings,
    seed: int,
    *,
    same_positions: bool,
) -> tuple[Reconstruction, Evidence]:
    """Reconstruct the first half and ask it for both halves' counts.

    Args:
        first: the half to reconstruct.
        second: the other half, which is predicted.
        settings: of the reconstruction.
        seed: of the first half's mini-batches.
        same_positions: whether the halves were drawn from the counts of each pattern, or from the positions.
    """
    solver = Reconstructor(first, replace(settings, seed=seed))
    predictor = solver if same_positions else Reconstructor(second, settings)
    empty = predictor.deviance_of(second.patterns)
    solver.run()
    found = solver.result()
    if predictor is not solver:
        predictor.take_over(solver)
    gained = empty - predictor.deviance_of(second.patterns)
    per_electron = second.patterns.size / max(float(second.patterns.sum(dtype=np.float64)), 1.0)
    return found, Evidence(
        relative_deviance(*solver.compared(_spread(len(first.patterns)))), 0.5 * gained * per_electron
    )


def apply_vetoes(score: Score, evidence: Evidence) -> Score:
    """The score with the evidence and, where that speaks against it, the veto; one that it has already stays."""
    veto = None
    if evidence.misfit > MISFIT:
        veto = (
            f"the model does not describe the data: deviance {evidence.misfit:.1f} times what counting noise explains"
        )
    elif evidence.heldout_gain <= 0 and score.value > 2 * score.sd:
        veto = (
            "overfit: the picture predicts held-out counts worse than an empty specimen "
            f"({evidence.heldout_gain:.2g} nat per electron)"
        )
    return score.model_copy(
        update={"heldout_gain": evidence.heldout_gain, "deviance": evidence.misfit, "veto": score.veto or veto}
    )


def relative_deviance(
    counts: NDArray[np.unsignedinteger[Any]], model: NDArray[np.float32], mask: NDArray[np.bool_]
) -> float:
    """Poisson deviance over its expectation if `model` were the truth; 1 is perfect.

    Args:
        counts: (b, ky, kx).
        model: (b, ky, kx), expected counts.
        mask: (ky, kx), False where a pixel is not used.
    """
    seen = np.broadcast_to(mask > 0, counts.shape)
    n, mean = counts[seen].astype(np.float64), np.maximum(model[seen].astype(np.float64), 1e-9)
    observed = 2 * (n * np.log(np.maximum(n, 1e-300) / mean) - (n - mean))
    observed = np.where(n > 0, observed, 2 * mean)
    return float(observed.sum() / expected_deviance(mean).sum())


def _spread(n: int) -> NDArray[np.int64]:
    """Numbers of _EXAMINED of n patterns, spread over the scan."""
    return np.linspace(0, n - 1, min(_EXAMINED, n)).astype(np.int64)
