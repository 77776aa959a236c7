"""What a model is worth: how well a short reconstruction predicts counts that it was not made from (README, "How much model")."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.reconstruction.calibration.expectation import central_part
from agent.reconstruction.counts.thinning import thin
from agent.reconstruction.model import forward
from agent.reconstruction.model.data import DiffractionData
from agent.reconstruction.model.settings import ReconstructionSettings
from agent.reconstruction.solver.experiment import load
from agent.reconstruction.solver.passes import fix_gauge, make_pass
from agent.reconstruction.solver.per_pattern import needs_all
from agent.reconstruction.solver.schedule import schedule
from agent.reconstruction.solver.state import SolverState, settle, start, with_reached
from agent.reconstruction.solver.stopping import OFFSET, SEVERAL_COUNTS

HELD_OUT = 0.25
"""Part of the counts, or of the patterns, that is held out."""
BLOCKS = 5
"""Blocks of the scan along each axis, whose differences tell how far their sum is to be believed."""


@dataclass(frozen=True)
class Prediction:
    """Deviance of counts that were held out.

    Attributes:
        blocks: (b,) sums over blocks of the scan.
        pixels: detector pixels of all patterns together that the sums are over.
    """

    blocks: NDArray[np.float64]
    pixels: float

    @property
    def deviance(self) -> float:
        """Per pixel."""
        return float(self.blocks.sum()) / self.pixels

    def gain_over(self, other: Prediction) -> tuple[float, float]:
        """By how much less this deviance is than another of the same counts, per pixel, and its standard deviation.

        The difference is taken block by block, so that what both models get wrong alike does not count.
        """
        gain = other.blocks - self.blocks
        n = len(gain)
        scatter = float(((gain - gain.mean()) ** 2).sum()) * n / max(n - 1, 1)
        return float(gain.sum()) / self.pixels, float(np.sqrt(scatter)) / self.pixels


class HeldOut:
    """The middle of a scan with a part of its counts held out, always the same.

    Where an electron gives several counts these are no independent witnesses: patterns are held out instead, and what each
    pattern has of its own cannot be judged.

    Args:
        data: whole counts.
        n_positions: positions used, the dense square in the middle of the scan.
        seed: of the counts held out.

    Attributes:
        counts: held out, per detector pixel.
    """

    def __init__(self, data: DiffractionData, n_positions: int, seed: int = 0) -> None:
        small = data.at(central_part(data, n_positions))
        patterns = np.ascontiguousarray(small.patterns, small.patterns.dtype.newbyteorder("="))
        n = len(patterns)
        self.by_pattern = data.counts_per_electron > SEVERAL_COUNTS or patterns.dtype.kind != "u"
        self.without: NDArray[np.int64] | None = None
        judged = np.arange(n)
        if self.by_pattern:
            judged = np.sort(np.random.default_rng(seed).permutation(n)[: max(1, round(HELD_OUT * n))])
            self.without, self.held, self.share = judged, patterns, 1.0
        else:
            self.held = thin(patterns, HELD_OUT, seed + 1)
            patterns, self.share = patterns - self.held, HELD_OUT / (1 - HELD_OUT)
        self.data = replace(small, patterns=patterns, survey=None)
        self.counts = float(self.held[judged].mean())
        self.blocks = [judged[block] for block in _blocks(small.positions[judged])]

    def predicted(
        self,
        settings: ReconstructionSettings,
        *,
        probe_waits: bool = False,
        on_pass: Callable[[], None] = lambda: None,
        **changes: Any,
    ) -> Prediction:
        """The held-out counts' deviance from what a reconstruction of the others expects of them.

        Args:
            settings: all passes are made.
            probe_waits: whether the probe stays as long as it does where positions are refined.
            on_pass: called after each pass; what it raises ends the reconstruction.
            changes: of the data: `defocus`, `aperture`, `point_spread` and the like.

        Raises:
            BadInputError: the data cannot be reconstructed so.
            ArithmeticError: the reconstruction holds values that are not numbers.
        """
        experiment = load(replace(self.data, **changes), settings)
        state = start(experiment)
        alike = replace(settings, refine_positions="free") if probe_waits else settings
        for step in schedule(alike, len(state.unknowns.corners), experiment.overlap):
            make_pass(experiment, state, step, without=self.without)
            on_pass()
        fix_gauge(experiment, state)
        settle(state)
        held = (
            experiment.problem()
            if self.by_pattern
            else replace(experiment.constants, counts=experiment.counts.of(self.held))
        )
        model = _scaled(state, self.share, OFFSET * experiment.count_offset)
        wanted = forward.Wanted(adjoint=False, probe=False, ratio=False, deviance=True)
        sums = [experiment.backend.accumulate(held, model, block, wanted).deviance for block in self.blocks]
        each = np.array([float(value) for value in sums])
        if not np.isfinite(each).all():
            msg = "the reconstruction holds values that are not numbers"
            raise ArithmeticError(msg)
        return Prediction(each, sum(map(len, self.blocks)) * float(experiment.mask.sum()))

    def can_judge(self, settings: ReconstructionSettings) -> bool:
        """Whether what the settings ask for shows in the counts held out."""
        return not (self.by_pattern and needs_all(settings))


def _scaled(state: SolverState, share: float, count_offset: float) -> forward.Unknowns:
    """The model of so much of the counts that the reconstruction was made from."""
    model = with_reached(state, background=state.unknowns.background * np.float32(share), count_offset=count_offset)
    model.apertures = model.apertures * np.float32(np.sqrt(share))
    return model


def _blocks(positions: NDArray[np.float64]) -> list[NDArray[np.int64]]:
    """Numbers of the positions (n, 2) in each block; none is empty."""
    low, extent = positions.min(axis=0), np.maximum(np.ptp(positions, axis=0), 1e-9)
    index = np.minimum(((positions - low) / extent * BLOCKS).astype(int), BLOCKS - 1)
    _, block = np.unique(index[:, 0] * BLOCKS + index[:, 1], return_inverse=True)
    return [np.flatnonzero(block == number) for number in range(int(block.max()) + 1)]
