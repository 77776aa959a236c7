"""One acquisition, reconstructed again and again: all counts for the picture, two halves of them for the score.

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
    reconstruct,
)
from agent.records import HalvesKind, Score
from agent.scoring.both_kinds import ENOUGH, believed, combined, overlap_of
from agent.scoring.comparison import (
    Compared,
    Reconstruct,
    Rules,
    ScoreFunction,
    compare,
    rings_between,
    score_halves,
    score_of,
)
from agent.scoring.drift import specimen_shift, without_drift
from agent.scoring.registration import Shift
from agent.scoring.ring_correlation import spectrum_of
from agent.scoring.splitting import passes_of, split
from agent.scoring.vetoes import apply_vetoes, grid_of, predict
from instrument.models import Rectangle

__all__ = ["Judged", "judge", "score_halves"]

SPLIT_SEEDS = 1000
"""Distance of the seeds of two splits of one acquisition, so that campaigns with neighbouring seeds share none."""
LARGEST_DRIFT = 0.15
"""Å from pass to pass, beyond which each pass is blurred by its own drift and is reconstructed again without it."""


@dataclass(frozen=True)
class Judged:
    """A picture and how far it can be believed.

    Attributes:
        reconstruction: from all counts.
        half_phases: (2, y, x), rad, from the two halves, on the grid of `reconstruction.phase`, on top of each other.
        score: with its uncertainty and, where there is one, its veto.
        drift: of the specimen from pass to pass, undone in the picture; None: there was one pass.
    """

    reconstruction: Reconstruction
    half_phases: NDArray[np.float32]
    score: Score
    drift: Shift | None = None


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

    Two passes are the halves where the data have them; otherwise `choice.split` says how one scan is halved.

    Args:
        data: (n, ky, kx) unsigned integer counts; a half of a count cannot be drawn from floats.
        settings: of all reconstructions; the halves' are never regularised.
        squares: parts to score, Å, in the frame of `data.positions`, all of one size.
        choice: how the counts of one pass are halved; rings and taper of the correlation.
        seed: of the split and of the order of the mini-batches; each half has an order of its own.
        reconstruct_with: a reconstruction of the user's own; its scores are not examined for overfit and misfit.
        score_with: a score of the user's own; None: the information that the halves share.
        splits: how many splits of the counts of one pass are averaged.
        on_progress: called with the fraction done.

    Raises:
        BadInputError: the data cannot be reconstructed.
        ValueError: a square reaches beyond the reconstruction.
    """
    check_data(data, settings.slices)
    # Halves have half the counts, but the picture's pixels. What would enter a grid at the wrong side agrees in both.
    settings = replace(settings, padding=choose_padding(data, settings, roomy=reconstruct_with is None), seed=seed)
    # A factor common to both halves changes no correlation, but a prior would weigh a ring's reflections above the noise
    # between them.
    plain = replace(settings, quantitative=False, regularise=False)
    rules = Rules(plain, squares, choice, reconstruct_with, score_with)
    whole = reconstruct_with or reconstruct
    if (passes := passes_of(data)) is not None:
        return _judge_passes(data, passes, settings, whole, rules, on_progress)
    picture = whole(data, settings)
    on_progress(1 / (1 + splits))
    scores, first = [], None
    for number in range(splits):
        compared, score = _split(data, picture, rules, seed + SPLIT_SEEDS * number, number)
        scores.append(score)
        first = first or compared
        on_progress((2 + number) / (1 + splits))
    assert first is not None
    return Judged(picture, first.on_grid(picture), _average(scores))


def _split(
    data: DiffractionData, picture: Reconstruction, rules: Rules, seed: int, number: int = 0
) -> tuple[Compared, Score]:
    """Two halves of one scan and their score; `number` is that of the split."""
    kind: HalvesKind = "thinned" if rules.choice.split == "counts" else "positions"
    first, second = split(data, rules.choice.split, seed, number)
    compared = compare((first, second), rules, seed, kind)
    return compared, _examined(compared, second, picture, rules, seed, kind)


def _judge_passes(
    data: DiffractionData,
    passes: tuple[DiffractionData, DiffractionData],
    settings: ReconstructionSettings,
    whole: Reconstruct,
    rules: Rules,
    on_progress: Callable[[float], None],
) -> Judged:
    """The passes first, since they tell the drift to be undone; then the picture; thinned halves where passes hardly overlap."""
    compared = compare(passes, rules, settings.seed, "passes")
    assert compared.shift is not None
    on_progress(0.25)
    given = data
    drift = left = specimen_shift(*compared.pair, compared.shift, data)
    data = without_drift(given, drift)
    if drift.size > LARGEST_DRIFT:
        first = data.pass_index == 0
        passes = (
            replace(passes[0], positions=data.positions[first]),
            replace(passes[1], positions=data.positions[~first]),
        )
        compared = compare(passes, rules, settings.seed, "passes")
        assert compared.shift is not None
        left = specimen_shift(*compared.pair, compared.shift, data)
        drift = drift.plus(left)
        data = without_drift(given, drift)
    on_progress(0.35)
    picture = whole(data, settings)
    second = replace(passes[1], positions=passes[1].positions - np.array(left.by))
    score = _examined(compared, second, picture, rules, settings.seed, "passes")
    if rules.choice.split == "counts" and rules.score_with is None:
        on_progress(0.55)
        overlap = min(overlap_of(half) for half in compared.pair)
        thinned = None if overlap >= ENOUGH else _split(data, picture, rules, settings.seed)[1]
        score = believed(score) if thinned is None else combined(score, thinned, overlap)
    on_progress(1.0)
    return Judged(picture, compared.on_grid(picture), score, drift)


def _examined(
    compared: Compared, second: DiffractionData, picture: Reconstruction, rules: Rules, seed: int, kind: HalvesKind
) -> Score:
    """The score of two halves, marked with what they are, and vetoed where it must not be trusted.

    `second` has the counts of the second half, at positions in the frame of the first.
    """
    score = score_of(compared, rules, seed).model_copy(update={"halves": kind})
    if compared.examined is None:
        return score
    spectrum = spectrum_of(score) if score.frequency else rings_between(compared, rules)
    evidence = predict(compared.examined, second, spectrum)
    grid = grid_of(picture, rules.squares, compared.harmonics, rules.choice)
    return apply_vetoes(score, replace(evidence, grid=grid))


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
