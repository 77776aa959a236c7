"""What a scan that still runs is going to be worth: the score of its first pass so far, taken to the whole dose.

A first pass has no second look at the specimen beside it, so its halves are thinned. Their score is as of one pass, of the part
of the field that is scanned; rings scale with the dose to that of the whole acquisition. By what the whole acquisition then
differs from that, simulated columns have told (README, "While a scan runs").
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from agent.config import ScoreChoice
from agent.reconstruction import DiffractionData, ReconstructionSettings, choose_padding
from agent.records import Score
from agent.scoring.comparison import Rules, compare, score_of
from agent.scoring.information import scale_score
from agent.scoring.regions import tiles
from agent.scoring.splitting import split
from instrument.models import Rectangle

CHECKPOINTS = (0.3, 0.5)
"""Parts of a scan in two passes after which it is judged; 0.5: all of the first pass."""
FIRST_PASS = 0.5
LEAST = 6.0
"""Å: height of what is scored, below which nothing is said."""
RIM = 2.0
"""Å behind the last line that are lit, but not as often as the rest."""


@dataclass(frozen=True)
class Scanned:
    """What there is of an acquisition in two passes.

    Attributes:
        data: patterns of the first pass so far, in scan order, with their optics.
        complete: whether that is all of the first pass.
        scored: the part of the field that the whole acquisition is scored by, Å.
        edge: of a scored square, Å.
    """

    data: DiffractionData
    complete: bool
    scored: Rectangle
    edge: float

    def squares(self) -> list[Rectangle]:
        """What can be scored by now; none where that is too little."""
        area = self.scored
        if not self.complete:
            low = float(self.data.positions[:, 0].max()) - RIM
            area = area.model_copy(update={"height": max(min(low - area.y, area.height), 1e-3)})
        edge = min(self.edge, area.height)
        return tiles(area, edge) if edge >= min(LEAST, self.edge) else []


def score_so_far(
    scanned: Scanned, settings: ReconstructionSettings, choice: ScoreChoice, seed: int, *, passes: int = 2
) -> Score | None:
    """The score that the whole acquisition is expected to have, as its first pass so far tells.

    Args:
        scanned: what there is.
        settings: of the whole acquisition's reconstruction.
        choice: rings and taper.
        seed: of the split.
        passes: over the field, each at the same dose.

    Returns:
        None where there is too little to tell.

    Raises:
        BadInputError: the data cannot be reconstructed.
    """
    squares = scanned.squares()
    if not squares:
        return None
    data = scanned.data
    plain = replace(
        settings, padding=choose_padding(data, settings, roomy=True), seed=seed, quantitative=False, regularise=False
    )
    rules = Rules(plain, squares, choice)
    compared = compare(split(data, "counts", seed), rules, seed, "thinned")
    return scale_score(score_of(compared, rules, seed), float(passes)).model_copy(update={"halves": "thinned"})


def first_of(data: DiffractionData, part: float, number: int) -> DiffractionData:
    """The patterns of the first pass that are there after part of a scan.

    Args:
        data: of the whole acquisition or its beginning, in scan order.
        part: of the scan.
        number: patterns of the whole acquisition.
    """
    chosen = np.arange(min(round(part * number), number // 2))
    return replace(data.at(chosen), pass_index=None)
