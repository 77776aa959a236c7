"""Two passes and thinned halves of the same counts: one kind claims too little, the other too much.

A pass alone is scanned half as densely as both together, so its picture is worse than half of the counts would make it: what two
passes have in common underrates the picture of all counts. Halves thinned from both are scanned as densely as the picture, but
share whatever the scan has not seen: they overrate it. Where the scan is dense the two agree; the truth lies between them,
nearer to the passes the farther they are apart (README.md has the measurements).
"""

from __future__ import annotations

import numpy as np

from agent.records import Score
from agent.scoring.information import LARGEST_FRC, score_spectrum
from agent.scoring.ring_correlation import Spectrum, spectrum_of

MIDDLE = 0.5
"""How far from the passes towards the thinned halves the score lies where both nearly agree."""
APART = 1.0
"""Relative difference of the two at which half of that is left."""
UNKNOWN = 0.3
"""Part of their difference that adds to the standard deviation."""
DISAGREE = 2.0
"""The thinned halves' score over that of the passes from which the score is vetoed, where noise does not explain it."""
_SIGNIFICANT = 4.0


def combined(passes: Score, thinned: Score) -> Score:
    """The score between that of two passes and that of thinned halves, ring by ring.

    Args:
        passes: of the two passes, without what registration adds by chance.
        thinned: of halves thinned from all counts.

    Returns:
        Marked as that of passes, with the value of the thinned halves beside it, and vetoed where the two disagree.
    """
    difference = thinned.value - passes.value
    level = max(passes.value, passes.sd)
    share = MIDDLE / (1 + (max(difference, 0.0) / (APART * level)) ** 2)
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
        }
    )
