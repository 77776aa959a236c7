"""What a scan in two passes is going to be worth, once the first pass is there: its score, taken to the whole dose.

A first pass has no second look at the specimen beside it, so its halves are thinned, and scored as of one pass; rings scale with
the dose to that of the whole acquisition. How uncertain that is beyond counting, `hopeless` says.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from agent.config import ScoreChoice
from agent.reconstruction import DiffractionData, ReconstructionSettings, choose_padding
from agent.records import Score
from agent.scoring.comparison import Rules, compare, score_of
from agent.scoring.information import scale_score
from agent.scoring.splitting import split
from instrument.models import Rectangle

CHECKPOINTS = (0.5,)
"""Parts of a scan in two passes after which it is judged: all of the first pass. A strip of it tells too little (README)."""
PASSES = 2.0


def score_so_far(
    data: DiffractionData,
    settings: ReconstructionSettings,
    squares: Sequence[Rectangle],
    choice: ScoreChoice,
    seed: int,
) -> Score:
    """The score that the whole acquisition is expected to have, as its first pass tells.

    Args:
        data: of the first pass, in scan order, with its optics.
        settings: of the whole acquisition's reconstruction.
        squares: that the whole acquisition is scored by, Å.
        choice: rings and taper.
        seed: of the split.

    Raises:
        BadInputError: the data cannot be reconstructed.
    """
    plain = replace(
        settings, padding=choose_padding(data, settings, roomy=True), seed=seed, quantitative=False, regularise=False
    )
    rules = Rules(plain, squares, choice)
    compared = compare(split(data, "counts", seed), rules, seed, "thinned")
    return scale_score(score_of(compared, rules, seed), PASSES).model_copy(update={"halves": "thinned"})


def first_of(data: DiffractionData, part: float, number: int) -> DiffractionData:
    """The patterns of the first pass that are there after part of a scan.

    Args:
        data: of the whole acquisition or its beginning, in scan order.
        part: of the scan.
        number: patterns of the whole acquisition.
    """
    chosen = np.arange(min(round(part * number), number // 2))
    return replace(data.at(chosen), pass_index=None)
