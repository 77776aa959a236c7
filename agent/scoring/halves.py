"""One acquisition, reconstructed three times: all counts for the picture, two halves of them for the score.

Works on arrays only. A user's own reconstruction or score takes the place of the built-in ones through
`reconstruction.function` and `score.function` of the campaign file.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from agent.config import ScoreChoice
from agent.reconstruction import DiffractionData, Reconstruction, ReconstructionSettings, Reconstructor, reconstruct
from agent.reconstruction.model.checks import check_data
from agent.reconstruction.model.geometry import paste
from agent.reconstruction.model.start import padding
from agent.records import Score
from agent.scoring.ring_correlation import crop, ring_correlation, score_spectrum
from agent.scoring.splitting import split
from instrument.models import Rectangle

Reconstruct = Callable[[DiffractionData, ReconstructionSettings], Reconstruction]
Tiles = Sequence[tuple[NDArray[np.float64], NDArray[np.float64]]]
ScoreFunction = Callable[[Tiles, tuple[float, float], ScoreChoice], Score]
"""(first, second) phase image of every scored square, pixel size in Å, the campaign's choice -> score."""

MISFIT = 5.0
"""Deviance over its expectation above which a score is vetoed: the model does not describe these data."""


@dataclass(frozen=True)
class Judged:
    """A picture and how far it can be believed.

    Attributes:
        reconstruction: from all counts.
        half_phases: (2, y, x), rad, from the two halves, on the grid of `reconstruction.phase`.
        score: with its uncertainty and, where there is one, its veto.
    """

    reconstruction: Reconstruction
    half_phases: NDArray[np.float32]
    score: Score


def score_halves(pairs: Tiles, pixel_size: tuple[float, float], choice: ScoreChoice) -> Score:
    """Information per area from the Fourier ring correlation of two half-count phase images."""
    return score_spectrum(ring_correlation(pairs, pixel_size, choice))


def judge(
    data: DiffractionData,
    settings: ReconstructionSettings,
    squares: Sequence[Rectangle],
    choice: ScoreChoice,
    seed: int,
    *,
    reconstruct_with: Reconstruct | None = None,
    score_with: ScoreFunction = score_halves,
    splits: int = 1,
    on_progress: Callable[[float], None] = lambda fraction: None,
) -> Judged:
    """Reconstruct all counts and two halves of them, and score.

    Args:
        data: (n, ky, kx) unsigned integer counts; a half of a count cannot be drawn from floats.
        squares: parts to score, Å, in the frame of `data.positions`, all of one size.
        seed: of the split and of the order of the mini-batches; the halves use orders of their own.
        splits: how many splits are averaged.
        reconstruct_with: a reconstruction of the user's own; the checks against overfit and misfit need the built-in one.
    """
    run = reconstruct_with or reconstruct
    check_data(data, settings.slices)
    # halves have half the counts, but the picture's pixels
    settings = replace(settings, padding=padding(data, settings))
    picture = run(data, replace(settings, seed=seed))
    on_progress(1 / (1 + splits))
    scores, first_pair = [], None
    for number in range(splits):
        parts = split(data, choice.split, seed + 1000 * number, number)
        pair, score = _score_split(parts, settings, squares, choice, seed + 1000 * number, reconstruct_with, score_with)
        first_pair = first_pair or pair
        scores.append(score)
        on_progress((2 + number) / (1 + splits))
    assert first_pair is not None
    return Judged(picture, np.stack([_on_grid(half, picture) for half in first_pair]), _averaged(scores))


def _score_split(
    parts: tuple[DiffractionData, DiffractionData],
    settings: ReconstructionSettings,
    squares: Sequence[Rectangle],
    choice: ScoreChoice,
    seed: int,
    reconstruct_with: Reconstruct | None,
    score_with: ScoreFunction,
) -> tuple[tuple[Reconstruction, Reconstruction], Score]:
    """Both halves' reconstructions and their score, checked where the engine is the built-in one."""
    run = reconstruct_with or reconstruct
    first, second = parts
    # a factor common to both halves changes no correlation, but a prior weighs a ring's reflections above the noise between them
    settings = replace(settings, quantitative=False, regularise=False)
    worker = None
    if reconstruct_with is None:
        worker = Reconstructor(first, replace(settings, seed=seed + 1))
        witness = worker if choice.split == "counts" else Reconstructor(second, settings)
        empty = witness.deviance_of(second.patterns)
        worker.run()
        one = worker.result()
    else:
        one = run(first, replace(settings, seed=seed + 1))
    other = run(second, replace(settings, seed=seed + 2))
    cut = [tuple(crop(half.phase, half.origin, half.pixel_size, square) for half in (one, other)) for square in squares]
    score = score_with([(a, b) for a, b in cut], one.pixel_size, choice)
    if worker is not None:
        if witness is not worker:
            witness.take_over(worker)
        score = _checked(score, worker, first.patterns, empty - witness.deviance_of(second.patterns), second.patterns)
    return (one, other), score


def _on_grid(half: Reconstruction, picture: Reconstruction) -> NDArray[np.float32]:
    """The phase of a half on the grid of the picture, 0 beyond its rim: where positions are halved the rims differ."""
    phase = np.zeros_like(picture.phase)
    paste(half.phase, half.origin, phase, picture.origin, picture.pixel_size)
    return phase


def _averaged(scores: Sequence[Score]) -> Score:
    """The mean over several splits of the same counts; the sd stays that of one, since the counting noise is shared."""
    if len(scores) == 1:
        return scores[0]
    resolutions = [s.resolution for s in scores]
    return scores[0].model_copy(
        update={
            "value": float(np.mean([s.value for s in scores])),
            "frc": tuple(np.mean([s.frc for s in scores], axis=0).tolist()),
            "resolution": None if None in resolutions else max(r for r in resolutions if r is not None),
            "veto": next((s.veto for s in scores if s.veto), None),
        }
    )


def _checked(
    score: Score,
    worker: Reconstructor,
    fitted: NDArray[np.unsignedinteger],
    gained: float,
    held_out: NDArray[np.unsignedinteger],
) -> Score:
    """Add held-out likelihood and misfit of the first half's reconstruction, and the veto they may give.

    `gained` is what the second half's deviance per detector pixel lost, from the empty object to that of the first half.
    """
    gain = 0.5 * gained * held_out.size / max(float(held_out.sum(dtype=np.float64)), 1.0)
    index = np.linspace(0, len(fitted) - 1, min(64, len(fitted))).astype(np.int64)
    misfit = relative_deviance(*worker.compared(index))
    veto = None
    if misfit > MISFIT:
        veto = f"the model does not describe the data: deviance {misfit:.1f} times what counting noise explains"
    elif gain <= 0 and score.value > 2 * score.sd:
        veto = (
            f"overfit: the picture predicts held-out counts worse than an empty specimen ({gain:.2g} nat per electron)"
        )
    return score.model_copy(update={"heldout_gain": gain, "deviance": misfit, "veto": score.veto or veto})


def relative_deviance(
    counts: NDArray[np.unsignedinteger], model: NDArray[np.float32], mask: NDArray[np.bool_]
) -> float:
    """Poisson deviance over its expectation if `model` were the truth, for (b, ky, kx) counts; 1 is perfect."""
    seen = np.broadcast_to(mask > 0, counts.shape)
    n, mean = counts[seen].astype(np.float64), np.maximum(model[seen].astype(np.float64), 1e-9)
    observed = 2 * (n * np.log(np.maximum(n, 1e-300) / mean) - (n - mean))
    observed = np.where(n > 0, observed, 2 * mean)
    return float(observed.sum() / expected_deviance(mean).sum())


def expected_deviance(mean: NDArray[np.float64]) -> NDArray[np.float64]:
    """E[2(n log(n/I) − (n − I))] for n ~ Poisson(I), by summation, interpolated in log I; 1 + 1/(6 I) for large I."""
    grid = np.geomspace(1e-9, 30, 200)
    n = np.arange(1, 120)
    log_factorial = np.cumsum(np.log(n))
    probability = np.exp(n[None] * np.log(grid[:, None]) - grid[:, None] - log_factorial[None])
    terms = 2 * (n[None] * np.log(n[None] / grid[:, None]) - (n[None] - grid[:, None]))
    table = (probability * terms).sum(axis=1) + np.exp(-grid) * 2 * grid
    small = np.exp(np.interp(np.log(mean), np.log(grid), np.log(table)))
    return np.where(mean > 30, 1 + 1 / (6 * mean), small)
