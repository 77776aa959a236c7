"""Two passes and thinned halves of the same counts: one kind claims too little, the other too much.

A pass alone is scanned half as densely as both together. Where its patterns hardly overlap, its picture is worse than half of
the counts would make it, and what two passes have in common underrates the picture of all counts. Halves thinned from both are
scanned as densely as the picture, but share whatever the scan has not seen, where the probe really was, and what the model gets
wrong in a way of its own at each position: they overrate it. Where patterns hardly overlap the truth lies between the two, nearer
to the passes the farther they are apart; where those of a pass overlap enough, density explains none of the difference and the
passes are right (README.md has the measurements).
"""

from __future__ import annotations

import numpy as np

from agent.reconstruction import Reconstruction
from agent.records import Score
from agent.scoring.information import LARGEST_FRC, score_spectrum
from agent.scoring.regions import scanned_area
from agent.scoring.ring_correlation import Spectrum, spectrum_of

MIDDLE = 0.5
"""How far from the passes towards the thinned halves the score lies where both nearly agree."""
APART = 1.0
"""Relative difference of the two at which half of that is left."""
ENOUGH = 5.0
"""Patterns of a pass that light a place, from which a pass is as good as half of the counts: discs that overlap by 60 % of their
diameter, which the field takes for enough (O. Bunk et al., Ultramicroscopy 108 (2008) 481)."""
UNKNOWN = 0.3
"""Part of their difference that adds to the standard deviation."""
UNEXPLAINED = 0.05
"""Rms of the relative error of scores of passes that overlap enough (README.md, "Between both kinds of halves")."""
DISAGREE = 2.0
"""The thinned halves' score over that of the passes from which the score is vetoed, where noise does not explain it."""
_SIGNIFICANT = 4.0


def overlap_of(one_pass: Reconstruction) -> float:
    """Patterns of a pass that light a place: their density times the area (ΣI)²/ΣI² of the probe's intensity I."""
    intensity = (np.abs(one_pass.probe) ** 2).sum(axis=0, dtype=np.float64)
    area = intensity.sum() ** 2 / max(float((intensity**2).sum()), 1e-300) * float(np.prod(one_pass.pixel_size))
    return float(len(one_pass.positions) * area / max(scanned_area(one_pass.positions), 1e-300))


def believed(passes: Score) -> Score:
    """The score of two passes that overlap enough to need no thinned halves beside them."""
    return passes.model_copy(update={"sd": float(np.hypot(passes.sd, UNEXPLAINED * passes.value))})


def combined(passes: Score, thinned: Score, overlap: float) -> Score:
    """The score between that of two passes and that of thinned halves, ring by ring.

    Args:
        passes: of the two passes, without what registration adds by chance.
        thinned: of halves thinned from all counts.
        overlap: patterns of a pass that light a place.

    Returns:
        Marked as that of passes, with the value of the thinned halves beside it, and vetoed where the two disagree.
    """
    difference = thinned.value - passes.value
    level = max(passes.value, passes.sd)
    sparse = float(np.clip((ENOUGH - overlap) / (ENOUGH - 1), 0, 1))
    share = sparse * MIDDLE / (1 + (max(difference, 0.0) / (APART * level)) ** 2)
    spectrum = spectrum_of(passes)
    one, other = (np.arctanh(np.clip(s.frc, -LARGEST_FRC, LARGEST_FRC)) for s in (passes, thinned))
    between = score_spectrum(Spectrum(spectrum.edges, np.tanh(one + share * (other - one)), spectrum.pairs))
    noise = float(np.hypot(passes.sd, thinned.sd))
    veto = passes.veto or thinned.veto
    if veto is None and difference > max(_SIGNIFICANT * noise, (DISAGREE - 1) * level):
        veto = (
            f"two passes have {passes.value:.3g} bit/Å² in common, halves of their counts {thinned.value:.3g}: the scan is "
            "too coarse to tell the specimen from what it has not seen"
        )
    return between.model_copy(
        update={
            "sd": float(np.hypot(passes.sd, UNKNOWN * difference)),
            "halves": "passes",
            "thinned": thinned.value,
            "veto": veto,
            "deviance": passes.deviance,
            "heldout_gain": passes.heldout_gain,
            "fourier_error": passes.fourier_error,
            "grid": passes.grid,
        }
    )
