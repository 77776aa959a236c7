"""Two halves of an acquisition: reconstructed, laid on top of each other, and what they have in common."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from agent.config import ScoreChoice
from agent.reconstruction import DiffractionData, Reconstruction, ReconstructionSettings, paste, reconstruct
from agent.records import HalvesKind, Score
from agent.scoring.both_kinds import overlap_of
from agent.scoring.harmonics import scan_harmonics
from agent.scoring.information import score_spectrum, without_chance
from agent.scoring.regions import crop
from agent.scoring.registration import Shift, chance, find_shift, moved
from agent.scoring.ring_correlation import Spectrum, ring_correlation
from agent.scoring.shared_error import reconstruct_seen, shared_error, without_shared
from agent.scoring.vetoes import Examined, reconstruct_examined
from instrument.models import Rectangle

UNKNOWN = 0.5
"""Part of what is taken off for errors that both halves share that adds to the standard deviation."""
Reconstruct = Callable[[DiffractionData, ReconstructionSettings], Reconstruction]
Tiles = Sequence[tuple[NDArray[np.float64], NDArray[np.float64]]]
"""(first, second) phase image, (y, x), rad, of every scored square."""
ScoreFunction = Callable[[Tiles, tuple[float, float], ScoreChoice], Score]
"""Tiles, pixel size (y, x) in Å, the campaign's choice -> score."""


@dataclass(frozen=True)
class Rules:
    """How halves are reconstructed and compared.

    Attributes:
        settings: of the reconstruction of a half.
        squares: parts to score, Å, in the frame of the positions, all of one size.
        choice: rings and taper.
        reconstruct_with: a reconstruction of the user's own; None: the built-in one, which is examined.
        score_with: a score of the user's own; None: the built-in one.
    """

    settings: ReconstructionSettings
    squares: Sequence[Rectangle]
    choice: ScoreChoice
    reconstruct_with: Reconstruct | None = None
    score_with: ScoreFunction | None = None


@dataclass(frozen=True)
class Compared:
    """Two halves on top of each other.

    Attributes:
        pair: their reconstructions.
        phases: (y, x) each, rad, on the lattice of pixels of both, the second one moved by `shift`.
        shift: of the second picture as it was reconstructed; None where halves of one scan cannot have any.
        examined: the first half, with what its model says; None of a reconstruction of the user's own.
        harmonics: (y, x) Fourier pixels of a scored square at which the scan repeats itself.
        shared: power of what both get wrong alike over that of the noise of one, as the counts of one scan tell it.
    """

    pair: tuple[Reconstruction, Reconstruction]
    phases: tuple[NDArray[np.float64], NDArray[np.float64]]
    shift: Shift | None
    examined: Examined | None
    harmonics: NDArray[np.bool_]
    shared: float = 0.0

    def tiles(self, squares: Sequence[Rectangle]) -> list[tuple[NDArray[np.float64], NDArray[np.float64]]]:
        """(first, second) phase image of each square."""
        first, second = self.pair
        return [
            (
                crop(self.phases[0], first.origin, first.pixel_size, square),
                crop(self.phases[1], second.origin, second.pixel_size, square),
            )
            for square in squares
        ]

    def on_grid(self, picture: Reconstruction) -> NDArray[np.float32]:
        """(2, y, x) phases of the halves on the grid of the picture, 0 beyond their rims."""
        phases = np.zeros((2, *picture.phase.shape), np.float32)
        for half, phase, target in zip(self.pair, self.phases, phases, strict=True):
            paste(phase.astype(np.float32), half.origin, target, picture.origin, picture.pixel_size)
        return phases


def compare(parts: tuple[DiffractionData, DiffractionData], rules: Rules, seed: int, kind: HalvesKind) -> Compared:
    """Reconstruct two halves, each from an empty object and with an order of mini-batches of its own.

    Args:
        parts: the halves.
        rules: how.
        seed: of the order of the mini-batches.
        kind: of the halves; those of two passes are registered.
    """
    first, second = parts
    one, other, examined, shared = _reconstructed(first, second, rules, seed, kind)
    shape = crop(one.phase, one.origin, one.pixel_size, rules.squares[0]).shape
    rasters = [first.positions] if kind == "thinned" else [first.positions, second.positions]
    harmonics = scan_harmonics(rasters, rules.squares[0], shape, one.pixel_size, rules.choice.taper)
    phases = np.asarray(one.phase, np.float64), np.asarray(other.phase, np.float64)
    compared = Compared((one, other), phases, None, examined, harmonics, shared)
    if kind != "passes":
        return compared
    shift = find_shift(compared.tiles(rules.squares), one.pixel_size, rules.choice, harmonics)
    return replace(compared, shift=shift, phases=(phases[0], moved(phases[1], shift, other.pixel_size)))


def _reconstructed(
    first: DiffractionData, second: DiffractionData, rules: Rules, seed: int, kind: HalvesKind
) -> tuple[Reconstruction, Reconstruction, Examined | None, float]:
    """Both halves, the first one as it was examined, and what both models get wrong alike."""
    settings, theirs = rules.settings, rules.reconstruct_with
    seeds = (seed + 1, seed + 2)
    if theirs is not None:
        one, other = (theirs(half, replace(settings, seed=n)) for half, n in zip((first, second), seeds, strict=True))
        return one, other, None, 0.0
    examined = reconstruct_examined(first, replace(settings, seed=seeds[0]), of_one_scan=kind == "thinned")
    if examined.seen is None:
        other = reconstruct(second, replace(settings, seed=seeds[1]))
        return examined.reconstruction, other, examined, 0.0
    other, seen = reconstruct_seen(second, replace(settings, seed=seeds[1]))
    shared = shared_error(examined.seen, seen, overlap_of(other))
    return examined.reconstruction, other, examined, shared


def score_halves(pairs: Tiles, pixel_size: tuple[float, float], choice: ScoreChoice) -> Score:
    """Information per area, bit/Å², from the Fourier ring correlation of two half-count phase images.

    Args:
        pairs: (first, second) phase image, (y, x), rad, of every scored square.
        pixel_size: (y, x), Å.
        choice: rings and taper.
    """
    return score_spectrum(ring_correlation(pairs, pixel_size, choice))


def rings_between(compared: Compared, rules: Rules) -> Spectrum:
    """Fourier ring correlation of two halves, without the scan's harmonics."""
    return ring_correlation(
        compared.tiles(rules.squares), compared.pair[0].pixel_size, rules.choice, compared.harmonics
    )


def score_of(compared: Compared, rules: Rules, seed: int) -> Score:
    """What two halves have in common, without what registering them adds by chance; not examined for vetoes.

    Args:
        compared: the halves.
        rules: the rings.
        seed: of what is drawn to find out about chance.
    """
    tiles, pixel_size = compared.tiles(rules.squares), compared.pair[0].pixel_size
    if rules.score_with is not None:
        return rules.score_with(tiles, pixel_size, rules.choice)
    spectrum = rings_between(compared, rules)
    if compared.shift is None:
        plain, honest = score_spectrum(spectrum), score_spectrum(without_shared(spectrum, compared.shared))
        return honest.model_copy(update={"sd": float(np.hypot(plain.sd, UNKNOWN * (plain.value - honest.value)))})
    added, draws = chance(tiles, pixel_size, rules.choice, spectrum, seed, compared.harmonics)
    return without_chance(spectrum, added, draws)
