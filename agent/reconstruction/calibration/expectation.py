"""Counts expected under given optics, with the object eliminated by a reconstruction from an empty one."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.reconstruction.calibration import parameters
from agent.reconstruction.model.data import DiffractionData
from agent.reconstruction.model.settings import ReconstructionSettings
from agent.reconstruction.solver.experiment import Experiment, load, thinned, under
from agent.reconstruction.solver.passes import make_pass
from agent.reconstruction.solver.reconstructor import Reconstructor
from agent.reconstruction.solver.schedule import schedule
from agent.reconstruction.solver.state import SolverState, deviances, settle, start

SHORT, LONG, FURTHER = 2, 20, 8
"""Passes: of the reconstructions that give derivatives; of the last residuals, from an empty object and from that of the step
before."""
COUNTS_USED = 0.995
"""Derivatives are kept for the brightest pixels that hold this part of all counts; the rest costs memory and tells little."""
COHERENCE = 0.95
"""Part of the intensity that the modes of a partially coherent probe carry at least; more of them cost time and tell little."""
OFFSET = 0.1
"""Part of the engine's first count offset that keeps the weights of dark pixels finite."""

Made = tuple[Experiment, SolverState]
"""A reconstruction under some optics."""


def central_part(data: DiffractionData, n_positions: int) -> NDArray[np.int64]:
    """Indices of the `n_positions` positions nearest the middle of the scan (Chebyshev distance): a dense square."""
    centre = (data.positions.min(axis=0) + data.positions.max(axis=0)) / 2
    distance = np.abs(data.positions - centre).max(axis=1)
    return np.sort(np.argsort(distance, kind="stable")[:n_positions])


def deviance_of_part(data: DiffractionData, n_positions: int = 324) -> float:
    """Deviance per detector pixel of a short reconstruction of the middle of the scan, with a background."""
    small = data.at(central_part(data, n_positions))
    short = Reconstructor(small, short_settings(ReconstructionSettings()))
    short.run()
    return deviances(short.experiment, short.state)[-1]


def short_settings(settings: ReconstructionSettings) -> ReconstructionSettings:
    """The same physics in few passes with one probe mode that stays."""
    return replace(
        settings,
        padding=1.0,
        max_passes=SHORT,
        stop_early=False,
        quantitative=False,
        regularise=False,
        refine_probe=False,
        refine_positions=None,
        refine_intensity=False,
        probe_modes=1,
        variable_modes=0,
        coherence=min(settings.coherence, COHERENCE),
    )


class Expectation:
    """The function of the optics whose zero residual is sought.

    Args:
        experiment: with `short_settings`.
        names: of the parameters that vary (`parameters`).
        pixels: flat detector pixels in the backend's layout that are looked at; None: the brightest.

    Attributes:
        counts: (m,) float32 of the pixels used, all patterns.
        evaluations: reconstructions made.
    """

    def __init__(self, experiment: Experiment, names: tuple[str, ...], pixels: NDArray[np.int64] | None = None) -> None:
        self.experiment, self.names = experiment, names
        counts = self._flat(experiment.counts.pixels())
        self.pixels = _brightest(counts) if pixels is None else pixels
        self.counts = counts[:, self.pixels].astype(np.float32).ravel()
        self.count_offset = np.float32(OFFSET * experiment.count_offset)
        self.evaluations = 0

    @classmethod
    def of(cls, data: DiffractionData, settings: ReconstructionSettings, names: tuple[str, ...]) -> Expectation:
        """Of all positions of `data`."""
        widest = parameters.most_incoherent(data, names)
        experiment = load(widest, settings)
        return cls(experiment if widest is data else under(experiment, data), names)

    def __call__(
        self, theta: NDArray[np.float64], passes: int, before: Made | None = None
    ) -> tuple[NDArray[np.float32], Made]:
        """Expected counts (m,) for parameters theta (p,), and the reconstruction; its object starts from that of `before`."""
        self.evaluations += 1
        values = dict(zip(self.names, theta.tolist(), strict=True))
        experiment = under(self.experiment, parameters.with_values(self.experiment.data, values))
        state, settings = start(experiment), experiment.settings
        everything = np.arange(len(state.unknowns.corners))
        steps = schedule(replace(settings, max_passes=passes), len(everything)) if passes else []
        if before is not None and _same_grid(before[0], experiment):
            state.unknowns.object = before[1].unknowns.object.copy()
            state.unknowns.background = before[1].unknowns.background.copy()
            steps = schedule(replace(settings, max_passes=LONG + FURTHER), len(everything))[LONG:]
        for step in steps:
            # so few passes of half of the counts would only follow more of their noise
            make_pass(experiment, state, replace(step, by_frequency=False))
        settle(state)
        expected = self._flat(experiment.backend.expected_counts(experiment.problem(), state.unknowns, everything))
        return np.ascontiguousarray(expected[:, self.pixels]).ravel(), (experiment, state)

    def halved(self) -> Expectation:
        """The same of a random half of the counts."""
        half = thinned(self.experiment, 0.5, self.experiment.settings.seed + 1)
        return Expectation(half, self.names, self.pixels)

    def deviance(self, expected: NDArray[np.float32]) -> float:
        """Poisson deviance of the counts from what is expected, summed.

        Args:
            expected: (m,) counts.
        """
        counted, model = self.counts + self.count_offset, expected + self.count_offset
        return float(2 * (counted * np.log(counted / model) - counted + model).sum(dtype=np.float64))

    def _flat(self, counts: Any) -> NDArray[Any]:
        host = self.experiment.backend.to_host(counts)
        return host.reshape(len(host), -1)


def _brightest(counts: NDArray[Any]) -> NDArray[np.int64]:
    """Pixels of (n, pixels) counts that hold COUNTS_USED of them."""
    mean = counts.mean(axis=0, dtype=np.float64)
    order = np.argsort(mean)[::-1]
    n_used = int(np.searchsorted(np.cumsum(mean[order]), COUNTS_USED * mean.sum())) + 1
    return np.sort(order[:n_used])


def _same_grid(one: Experiment, other: Experiment) -> bool:
    here, there = one.geometry, other.geometry
    return here.object_shape == there.object_shape and here.origin == there.origin
