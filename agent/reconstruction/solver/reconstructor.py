"""A reconstruction that can be asked, continued and added to."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.reconstruction.counts.layout import framed
from agent.reconstruction.model import forward
from agent.reconstruction.model.data import DiffractionData
from agent.reconstruction.model.geometry import paste
from agent.reconstruction.model.settings import ReconstructionSettings
from agent.reconstruction.solver.bias import phase_scale
from agent.reconstruction.solver.experiment import appended, load
from agent.reconstruction.solver.learned import Learned
from agent.reconstruction.solver.passes import Progress, fix_gauge, planned
from agent.reconstruction.solver.result import Reconstruction, finished
from agent.reconstruction.solver.state import grow, last_reached, settle, start
from agent.reconstruction.solver.stopping import can_hold_out, run_all, run_with_held_out


class Reconstructor:
    """An experiment and the state of its reconstruction; for patterns that arrive later, and for questions to the model.

    Args:
        data: patterns and geometry.
        settings: how.
        probe_k: start of the probe, (modes, ky, kx) in the aperture plane, corner-centred; scaled to the data. None:
            from the nominal optics.

    Raises:
        BadInputError: the data cannot be reconstructed; the message says why.
    """

    def __init__(
        self, data: DiffractionData, settings: ReconstructionSettings, probe_k: NDArray[np.complex64] | None = None
    ) -> None:
        self.experiment = load(data, settings, probe_k)
        self.state = start(self.experiment)
        self.phase_scale = 1.0
        """By what noise has weakened the phases, once `run` has found it."""
        self.seconds = 0.0
        """Wall-clock time that `run` took."""

    def run(self, on_progress: Progress | None = None) -> None:
        """Make the passes of the schedule, or as many of them as held-out counts ask for.

        Args:
            on_progress: told after each pass.
        """
        started = time.perf_counter()
        given, found = self.experiment, self.state
        steps = planned(given, found)
        if given.settings.stop_early and can_hold_out(given):
            run_with_held_out(given, found, steps, on_progress)
        else:
            run_all(given, found, steps, on_progress)
        fix_gauge(given, found)
        settle(found)
        if given.settings.quantitative:
            self.phase_scale = phase_scale(given, found)
        self.seconds += time.perf_counter() - started

    def append(self, patterns: NDArray[Any], positions: NDArray[np.float64]) -> None:
        """Take in patterns that arrive later; object and probe go on from where they are.

        Args:
            patterns: (m, ky, kx) counts.
            positions: (m, 2), Å, in the frame of those before.

        Raises:
            BadInputError: as for the first patterns; nothing is changed then.
        """
        before = self.experiment
        self.experiment = appended(before, patterns, positions)
        grow(before, self.experiment, self.state)

    def result(self) -> Reconstruction:
        """The state as a finished reconstruction.

        Raises:
            ArithmeticError: it holds values that are not numbers.
        """
        return finished(self.experiment, self.state, self.phase_scale, self.seconds)

    def deviance_of(self, patterns: NDArray[Any]) -> float:
        """Poisson deviance per detector pixel of other counts of the same exposure under the model as it is.

        Args:
            patterns: (n, ky, kx) counts.
        """
        given = self.experiment
        wanted = forward.Wanted(adjoint=False, probe=False, ratio=False, deviance=True)
        found = replace(self.state.unknowns, count_offset=given.count_offset)
        problem = replace(given.constants, counts=given.counts.of(patterns))
        sums = given.backend.accumulate(problem, found, np.arange(len(patterns)), wanted)
        return float(sums.deviance) / (len(patterns) * float(given.mask.sum()))

    def expected_counts(self, index: NDArray[np.int64]) -> NDArray[np.float32]:
        """What the model expects of some patterns.

        Args:
            index: (b,) of the patterns.

        Returns:
            (b, ky, kx) counts, corner-centred on the detector as it is computed.
        """
        xp = self.experiment.backend.xp
        counts, _ = forward.intensities(self.experiment.constants, self.state.unknowns, xp.asarray(index), xp)
        return self.experiment.backend.to_host(counts).astype(np.float32)

    def compared(
        self, index: NDArray[np.int64]
    ) -> tuple[NDArray[np.unsignedinteger], NDArray[np.float32], NDArray[np.bool_]]:
        """What was counted and what the model expects of some patterns.

        Args:
            index: (b,) of the patterns.

        Returns:
            Counts (b, ky, kx), expected counts (b, ky, kx) and where the detector counts (ky, kx), all corner-centred on the
            detector as it is computed.
        """
        given = self.experiment
        counted = framed(given.data.patterns[index], given.geometry.roll, given.shape)
        return counted, self.expected_counts(index), given.mask

    def learned(self) -> Learned:
        """What other patterns of the same field and optics can be predicted from."""
        given, last = self.experiment, last_reached(self.state)
        host = given.backend.to_host
        return Learned(
            np.array(host(last.object)),
            np.array(host(last.apertures)),
            np.array(host(self.state.unknowns.background)),
            given.geometry,
        )

    def take_over(self, learned: Learned, *, empty: bool = False) -> None:
        """Take object, probe and background from a reconstruction of other patterns of the same field and optics.

        Args:
            learned: its object has the same lattice of pixels; what lies beyond it stays.
            empty: take no object, but vacuum.
        """
        xp, found, mine = self.experiment.backend.xp, self.state.unknowns, self.experiment.geometry
        if empty:
            found.object[...] = 1.0
        else:
            paste(xp.asarray(learned.object), learned.geometry.origin, found.object, mine.origin, mine.pixel_size)
        found.apertures[...] = xp.asarray(learned.apertures)
        found.background[...] = xp.asarray(learned.background)
