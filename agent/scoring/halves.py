"""One acquisition, reconstructed three times: all counts for the picture, two halves of them for the score.

Works on arrays only. A reconstruction or a score of the user's own takes the place of the built-in one
(`reconstruction.function` and `score.function` of the campaign file; the README of this package shows how).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from agent.config import ScoreChoice
from agent.reconstruction import (
    DiffractionData,
    Reconstruction,
    ReconstructionSettings,
    check_data,
    choose_padding,
    paste,
    reconstruct,
)
from agent.records import Score
from agent.scoring.information import score_spectrum
from agent.scoring.regions import crop
from agent.scoring.ring_correlation import ring_correlation
from agent.scoring.splitting import split
from agent.scoring.vetoes import Evidence, apply_vetoes, reconstruct_examined
from instrument.models import Rectangle

Reconstruct = Callable[[DiffractionData, ReconstructionSettings], Reconstruction]
Tiles = Sequence[tuple[NDArray[np.float64], NDArray[np.float64]]]
"""(first, second) phase image, (y, x), rad, of every scored square."""
ScoreFunction = Callable[[Tiles, tuple[float, float], ScoreChoice], Score]
"""Tiles, pixel size (y, x) in Å, the campaign's choice -> score."""

SPLIT_SEEDS = 1000
"""Distance of the seeds of two splits of one acquisition, so that campaigns with neighbouring seeds share none."""


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


def judge(
    data: DiffractionData,
    settings: ReconstructionSettings,
    squares: Sequence[Rectangle],
    choice: ScoreChoice,
    seed: int,
    *,
    reconstruct_with: Reconstruct | None = None,
    score_with: ScoreFunction | None = None,
    splits: int = 1,
    on_progress: Callable[[float], None] = lambda fraction: None,
) -> Judged:
    """Reconstruct all counts and two halves of them, and score what the halves have in common.

    Args:
        data: (n, ky, kx) unsigned integer counts; a half of a count cannot be drawn from floats.
        settings: of all three reconstructions; the halves' are never regularised.
        squares: parts to score, Å, in the frame of `data.positions`, all of one size.
        choice: how the counts are halved; rings and taper of the correlation.
        seed: of the split and of the order of the mini-batches; each half has an order of its own.
        reconstruct_with: a reconstruction of the user's own; its scores are not examined for overfit and misfit.
        score_with: a score of the user's own; None: `score_halves`.
        splits: how many splits of the same counts are averaged.
        on_progress: called with the fraction done.

    Raises:
        BadInputError: the data cannot be reconstructed.
        ValueError: a square reaches beyond the reconstruction.
    """
    check_data(data, settings.slices)
    # halves have half the counts, but the picture's pixels
    settings = replace(settings, padding=choose_padding(data, settings))
    picture = (reconstruct_with or reconstruct)(data, replace(settings, seed=seed))
    on_progress(1 / (1 + splits))
    # A factor common to both halves changes no correlation, but a prior would weigh a ring's reflections above the noise
    # between them.
    settings = replace(settings, quantitative=False, regularise=False)
    scores, first_pair = [], None
    for number in range(splits):
        split_seed = seed + SPLIT_SEEDS * number
        parts = split(data, choice.split, split_seed, number)
        pair, evidence = _reconstruct_halves(parts, settings, choice, split_seed, reconstruct_with)
        images = [_cut(pair, square) for square in squares]
        score = (score_with or score_halves)(images, pair[0].pixel_size, choice)
        scores.append(score if evidence is None else apply_vetoes(score, evidence))
        first_pair = first_pair or pair
        on_progress((2 + number) / (1 + splits))
    assert first_pair is not None
    return Judged(picture, np.stack([_on_grid(half, picture) for half in first_pair]), _average(scores))


def score_halves(pairs: Tiles, pixel_size: tuple[float, float], choice: ScoreChoice) -> Score:
    """Information per area, bit/Å², from the Fourier ring correlation of two half-count phase images.

    Args:
        pairs: (first, second) phase image, (y, x), rad, of every scored square.
        pixel_size: (y, x), Å.
        choice: rings and taper.
    """
    return score_spectrum(ring_correlation(pairs, pixel_size, choice))


def _reconstruct_halves(
    parts: tuple[DiffractionData, DiffractionData],
    settings: ReconstructionSettings,
    choice: ScoreChoice,
    seed: int,
    reconstruct_with: Reconstruct | None,
) -> tuple[tuple[Reconstruction, Reconstruction], Evidence | None]:
    """Both halves' reconstructions, with the evidence of the first where it is the built-in one."""
    first, second = parts
    evidence = None
    if reconstruct_with is None:
        one, evidence = reconstruct_examined(first, second, settings, seed + 1, same_positions=choice.split == "counts")
    else:
        one = reconstruct_with(first, replace(settings, seed=seed + 1))
    other = (reconstruct_with or reconstruct)(second, replace(settings, seed=seed + 2))
    return (one, other), evidence


def _cut(
    pair: tuple[Reconstruction, Reconstruction], square: Rectangle
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    first, second = (crop(half.phase, half.origin, half.pixel_size, square) for half in pair)
    return first, second


def _on_grid(half: Reconstruction, picture: Reconstruction) -> NDArray[np.float32]:
    """The phase of a half on the grid of the picture, 0 beyond its rim: where positions are halved the rims differ."""
    phase = np.zeros_like(picture.phase)
    paste(half.phase, half.origin, phase, picture.origin, picture.pixel_size)
    return phase


def _average(scores: Sequence[Score]) -> Score:
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
