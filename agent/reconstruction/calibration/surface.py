"""The optics with the least deviance, found from far away and with an uncertainty that holds (README, "From far away").

The deviance of short reconstructions is smooth over natural units and rough below: differences are taken over a natural unit, and
what the blocks of the scan say apart tells how far their mean is to be believed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from agent.reconstruction.calibration import parameters
from agent.reconstruction.calibration.expectation import Expectation
from agent.reconstruction.model.data import DiffractionData
from agent.reconstruction.model.settings import ReconstructionSettings
from agent.reconstruction.solver.experiment import Experiment, load, thinned

SHORT, SCAN, LONG = 2, 4, 12
"""Passes of the reconstructions that give derivatives, that the defocus is sought with from afar, and that decide."""
APART, MOST_STEPS = 3, 12
"""Natural units between two minima that are followed apart."""
LONGEST = 2.0
"""Largest step, in lengths of the differences."""
SETTLED, FAR = 0.15, 1.0
"""Steps shorter than this are the last; derivatives farther away than that are taken anew."""
LOOKS, DITHER = 6, 0.35
"""Long reconstructions that decide, and how far around each other they are made, in lengths of the differences."""
MOST_MODES = 6
"""Modes of source size and focal spread at most; they are scaled so that the aperture stays even."""
BLOCKS = 4
"""Blocks of the scan along each axis whose slopes are compared."""
SHARED = 1.4
"""By how much more than their scatter says the blocks are wrong together; from columns of the zoo with seeds below 120."""
MISFIT, MISLED, MISFIT_ELSEWHERE = 0.1, ("defocus", "C21a", "C21b"), 0.03
"""Part of a model's error that acts as a parameter does, in amplitude: as these, and as all others; from columns of the zoo with
seeds below 120."""
ALIKE = 3.0
"""Standard deviations from misfit within which two minima explain the counts alike."""
MOVED = 0.35
"""Å, rms, by which a difference of rotation, scale or drift moves the positions; finer ones only see the object's pixels."""


class Linear(NamedTuple):
    """The counts expected around a point, in lengths of the differences.

    Attributes:
        origin: (p,) values there, in the parameters' units.
        jacobian: (p, m) derivative of the expected counts.
        curvature: (p, p) of the loss, positive definite.
    """

    origin: NDArray[np.float64]
    jacobian: NDArray[np.float32]
    curvature: NDArray[np.float64]


@dataclass(frozen=True)
class Minimum:
    """Where a search has ended.

    Attributes:
        values: (p,) parameters, in their units.
        loss: deviance with what was known before.
        sd: (p,) in the parameters' units; None: not asked for.
        misfit: deviance that counting does not explain, over the one that it does.
    """

    values: NDArray[np.float64]
    loss: float
    sd: NDArray[np.float64] | None = None
    misfit: float = 0.0


class Surface:
    """Deviance of short reconstructions of some data as a function of parameters.

    Args:
        data: cut to what is looked at.
        settings: as `short_settings` make them.
        widths: parameter -> standard deviation of what was known before `data`, whose values are its means.
        above: Å that the first slice lies above the plane whose defocus is meant.
        deeper: Å, standard deviation, by which that plane may lie below the one that a defocus was set for.
    """

    def __init__(
        self,
        data: DiffractionData,
        settings: ReconstructionSettings,
        widths: Mapping[str, float],
        above: float = 0.0,
        deeper: float = 0.0,
    ) -> None:
        self.names = tuple(widths)
        self.lift = np.array([above if name == "defocus" else 0.0 for name in self.names])
        experiment = load(data, settings)
        if experiment.n_modes > MOST_MODES:
            experiment = load(data, settings, tied=MOST_MODES)
        self.function, self.counts, self.held_out = _halves(experiment, self.names)
        self.before = np.array([parameters.value(data, name) for name in self.names])
        self.lengths = np.array([length(data, name) for name in self.names])
        known = np.array([widths[name] for name in self.names])
        below = np.array([deeper if name == "defocus" else 0.0 for name in self.names])
        self.precision = (self.lengths / known) ** 2
        self.precision_below = (self.lengths / np.hypot(known, below)) ** 2
        self.lowest = np.array([0.0 if name in parameters.VARIANCES else -np.inf for name in self.names])
        self.blocks = _blocks(data.positions)

    def expected(self, values: NDArray[np.float64], passes: int = SHORT) -> NDArray[np.float32]:
        """Counts (m,) after a reconstruction.

        Args:
            values: (p,) parameters, in their units, here and below.
            passes: of the reconstruction.
        """
        return self.function(values + self.lift, passes)[0]

    def loss(self, expected: NDArray[np.float32], values: NDArray[np.float64]) -> float:
        """Deviance of the counts from what is expected, and what was known before.

        Args:
            expected: (m,) counts under `values`.
            values: (p,) parameters.
        """
        x = (values - self.before) / self.lengths
        return self._deviance(self.counts, expected) + float(x @ self.prior(values) @ x)

    def prior(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """(p, p) precision of what was known before, in lengths of the differences, on the side of it where `values` are."""
        return np.diag(np.where(values < self.before, self.precision_below, self.precision))

    def _deviance(self, counts: NDArray[np.float32], expected: NDArray[np.float32]) -> float:
        offset = self.function.count_offset
        counted, model = counts + offset, expected + offset
        return float(2 * (counted * np.log(counted / model) - counted + model).sum(dtype=np.float64))

    def misfit(self, expected: NDArray[np.float32]) -> tuple[float, float]:
        """By how much a deviance like that of `loss` is not what counting explains, and what counting explains.

        Args:
            expected: (m,) counts.
        """
        drawn = np.random.default_rng(self.function.experiment.settings.seed).poisson(np.maximum(expected, 0))
        own, other = self._deviance(self.function.counts, expected), self._deviance(self.held_out, expected)
        counting = self._deviance(drawn.astype(np.float32), expected)
        return abs((own + other) / 2 - counting), counting

    def rival(self, ends: Sequence[Minimum]) -> Minimum | None:
        """Of minima, the deepest first, the next one that explains the counts as well, but with another defocus."""
        if len(ends) < 2 or "defocus" not in self.names:
            return None
        best, where = ends[0], self.names.index("defocus")
        alike = ALIKE**2 * (MISFIT**2 * self.misfit(self.expected(best.values))[0] + 1)
        for end in ends[1:]:
            apart = abs(end.values[where] - best.values[where]) / self.lengths[where]
            if apart > APART and end.loss - best.loss < alike:
                return end
        return None

    def along(self, name: str, offset: float) -> float:
        """Deviance of the counts held out where one parameter is `offset` from what was known before."""
        values = self.before.copy()
        values[self.names.index(name)] += offset
        return self.unseen(values)

    def unseen(self, values: NDArray[np.float64]) -> float:
        """Deviance of the counts held out.

        Args:
            values: (p,) parameters.
        """
        return self._deviance(self.held_out, self.expected(values, SCAN))

    def derive(self, values: NDArray[np.float64], far: bool = True) -> Linear:
        """Central differences; one-sided ones where a variance is 0.

        Args:
            values: (p,) where.
            far: whether the minimum is far away.
        """
        middle = self.expected(values)
        here = self.loss(middle, values)
        own = np.zeros(len(values))
        jacobian = np.zeros((len(values), len(middle)), np.float32)
        for i, lowest in enumerate(self.lowest):
            room = (values[i] - lowest) / self.lengths[i]
            back, ahead = (-min(1.0, room), 1.0) if room > 0.25 else (2.0, 1.0)
            points = []
            for step in (back, ahead):
                there = values.copy()
                there[i] += step * self.lengths[i]
                points.append((self.expected(there), there))
            one, two = (self.loss(expected, there) - here for expected, there in points)
            own[i] = 2 * (two / ahead - one / back) / (ahead - back)
            jacobian[i] = (points[1][0] - points[0][0]) / np.float32(ahead - back)
        weighted = jacobian / np.sqrt(middle + self.function.count_offset)
        fisher = 2 * (weighted @ weighted.T).astype(np.float64)
        return Linear(values, jacobian, _curvature(fisher, own, far) + 2 * self.prior(values))

    def gradients(self, linear: Linear, expected: NDArray[np.float32]) -> NDArray[np.float64]:
        """(blocks, p) slope of the deviance, in lengths of the differences.

        Args:
            linear: derivatives of the counts.
            expected: (m,) counts where the slope is wanted.
        """
        residual = (self.counts - expected) / (expected + self.function.count_offset)
        n = len(self.blocks)
        each = np.stack([-2 * (j * residual).reshape(n, -1).sum(axis=1, dtype=np.float64) for j in linear.jacobian])
        return np.stack([np.bincount(self.blocks, weights=row) for row in each], axis=1)

    def step(
        self, linear: Linear, gradient: NDArray[np.float64], values: NDArray[np.float64], longest: float = LONGEST
    ) -> NDArray[np.float64]:
        """(p,) values that the linear model expects the minimum at.

        Args:
            linear: derivatives and curvature.
            gradient: (p,) slope of the deviance at `values`.
            values: (p,) parameters.
            longest: how far any parameter may move, in lengths of the differences.
        """
        slope = gradient + 2 * self.prior(values) @ ((values - self.before) / self.lengths)
        curvature = linear.curvature
        for _ in range(12):
            step = -np.linalg.solve(curvature, slope)
            if np.abs(step).max() <= longest:
                break
            curvature = curvature + np.diag(np.diag(curvature))
        return np.asarray(np.maximum(values + step * self.lengths, self.lowest))

    def descend(self, values: NDArray[np.float64]) -> Minimum:
        """Steps downhill, shorter ones after one that went up; the derivatives are taken anew where they are far from.

        Args:
            values: (p,) start.
        """
        linear, longest = self.derive(values), LONGEST
        expected = self.expected(values)
        loss = self.loss(expected, values)
        for _ in range(MOST_STEPS):
            if np.abs((values - linear.origin) / self.lengths).max() > FAR:
                linear = self.derive(values)
            there = self.step(linear, self.gradients(linear, expected).sum(axis=0), values, longest)
            far = float((np.abs(there - values) / self.lengths).max())
            new = self.expected(there)
            if (new_loss := self.loss(new, there)) < loss:
                values, expected, loss = there, new, new_loss
            else:
                if not np.array_equal(values, linear.origin) and longest == LONGEST:
                    linear = self.derive(values)
                longest = far / 3
            if far < SETTLED:
                break
        return Minimum(values, loss)

    def refine(self, values: NDArray[np.float64]) -> Minimum:
        """The mean of the minima that long reconstructions around a point expect, and how far it is to be believed.

        Args:
            values: (p,) the point.
        """
        linear = self.derive(values, far=False)
        random = np.random.default_rng(self.function.experiment.settings.seed)
        minima, slopes, misfits, middle, loss = [], [], [], values, np.inf
        for i in range(LOOKS):
            point = np.maximum(middle + DITHER * self.lengths * random.uniform(-1, 1, len(values)), self.lowest)
            expected = self.expected(point, LONG)
            loss = min(loss, self.loss(expected, point))
            slopes.append(self.gradients(linear, expected))
            misfits.append(self.misfit(expected))
            minima.append(self.step(linear, slopes[-1].sum(axis=0), point))
            if i == 0:
                middle = minima[0]
        mean = np.mean(minima[1:], axis=0)
        inverse = np.linalg.inv(linear.curvature)
        blocks = np.mean(slopes[1:], axis=0)
        apart = blocks - blocks.mean(axis=0)
        scatter = apart.T @ apart * (len(apart) / max(len(apart) - 1, 1))
        covariance = inverse @ (scatter + 4 * self.prior(mean)) @ inverse
        rough = np.var(np.array(minima[1:]) / self.lengths, axis=0, ddof=1) / (LOOKS - 1)
        part = np.array([MISFIT if name in MISLED else MISFIT_ELSEWHERE for name in self.names])
        excess, counting = np.median(misfits[1:], axis=0)
        model = part**2 * 2 * excess * np.diag(inverse)
        sd = np.sqrt(SHARED**2 * (np.diag(covariance) + rough) + model) * self.lengths
        return Minimum(mean, loss, np.asarray(sd), float(excess / max(counting, 1.0)))


def length(data: DiffractionData, name: str) -> float:
    """Over which a difference is taken, in the parameter's unit."""
    if name in ("rotation", "scale", "stretch", "shear"):
        spread = np.sqrt(((data.positions - data.positions.mean(axis=0)) ** 2).sum(axis=1).mean())
        return float(MOVED / spread) * (1.0 if name in ("rotation", "scale") else 1.4)
    if name in ("row", "column"):
        return 0.12
    return (0.7 if name not in parameters.VARIANCES else 1.0) * parameters.unit(data, name)


def _halves(
    experiment: Experiment, names: tuple[str, ...]
) -> tuple[Expectation, NDArray[np.float32], NDArray[np.float32]]:
    """Expectations from half of the counts; the mean (m,) of the two halves; the half that was held out.

    A wider probe fits more noise, which lowers the deviance of the counts that were fitted and raises that of the others by as
    much: their mean tells nothing of it, and small steps follow it. From afar the counts held out mislead less.
    """
    counts = experiment.counts.pixels()
    if counts.dtype.kind != "u":
        function = Expectation(experiment, names)
        return function, function.counts, function.counts
    function = Expectation(thinned(experiment, 0.5, experiment.settings.seed), names)
    every = experiment.backend.to_host(counts).reshape(len(counts), -1)[:, function.pixels].astype(np.float32).ravel()
    return function, every / np.float32(2), every - function.counts


def _curvature(fisher: NDArray[np.float64], own: NDArray[np.float64], far: bool) -> NDArray[np.float64]:
    """Correlations of the linear model (p, p) with the curvatures (p,) that were seen; positive definite.

    Noise in the object looks like information to the linear model, and not to the deviance. Far from the minimum the deviance
    may be bent the other way.
    """
    diagonal = np.maximum(np.diag(fisher), 1e-12)
    least = 0.1 * diagonal
    root = np.sqrt(np.where(own > least, own, diagonal if far else least))
    correlation = fisher / np.sqrt(np.outer(diagonal, diagonal))
    shrunk = 0.98 * correlation + 0.02 * np.eye(len(own))
    return np.asarray(shrunk * np.outer(root, root))


def _blocks(positions: NDArray[np.float64]) -> NDArray[np.int64]:
    """(n,) block that each position (n, 2) lies in; no block is empty."""
    low, extent = positions.min(axis=0), np.maximum(np.ptp(positions, axis=0), 1e-9)
    index = np.minimum(((positions - low) / extent * BLOCKS).astype(int), BLOCKS - 1)
    return np.unique(index[:, 0] * BLOCKS + index[:, 1], return_inverse=True)[1]
