"""Optics measured by likelihood: defocus, aberrations to third order, rotation, disc centre, all at once.

Gauss–Newton steps on counts from which the object has been eliminated (variable projection: Golub & Pereyra, Inverse Problems 19
(2003) R1); README, "Optics by likelihood".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from agent.reconstruction.calibration import parameters
from agent.reconstruction.calibration.expectation import LONG, SHORT, Expectation, central_part, short_settings
from agent.reconstruction.model.data import DiffractionData
from agent.reconstruction.model.geometry import legal_length
from agent.reconstruction.model.settings import ReconstructionSettings

COARSE_POSITIONS = 121
"""Positions used while the start is far."""
DIFFERENCE = 0.17
"""Step of the finite differences in natural units: well above the noise of the reconstructions, well below a radian."""
SURROUNDINGS = 1.2
"""Radius, in radii of the disc, that nothing is folded into where patterns are cut to their middle."""
LONGEST = 1.5
"""Largest step, natural units: beyond it the phase at the rim has turned too far for a linear model."""
NEAR, FAR = 0.3, 0.6
"""Natural units that a parameter may move before its derivative, and that any may move before all are taken afresh."""
REACH = {"row": 0.15, "column": 0.15, "rotation": 2.5, "scale": 2.5}
"""Factor of these lengths. The disc's rim is one pixel wide and has two kinks; positions that move against the object's pixels
change counts in ways that mean nothing, which only longer differences drown."""
FAINT, CLEAR = 1.25, 35.0
"""Deviance that the object explains per pixel: below the first it is noise, which tells nothing of the optics; below the second
noise makes the data look more informative than they are."""
LEAST_SHARED = 0.02
"""Smallest part of the information that is believed to be more than noise."""
DEFOCUS_REPEATS = 20.0
"""Standard deviation, Å, of what a lens makes of the same set-point from one acquisition to the next."""
SLACK = 30.0
"""Deviance by which a short reconstruction may be worse at the end than at the start: long ones, which decide, differ from it."""
MOST_STEPS, MOST_LONG_STEPS = 6, 4
SETTLED = 0.3
"""Steps shorter than this many standard deviations are the last."""


@dataclass(frozen=True)
class Tuned:
    """The data with the optics found, and what is known of them.

    Attributes:
        data: as given, with the parameters replaced.
        uncertainty: parameter -> standard deviation in its unit, what was known before included.
        deviance: per detector pixel used, of a short reconstruction; NaN where nothing but noise was seen.
        evaluations: reconstructions made.
        improved: whether anything better than the start was found; False: `data` is the start.
        doubt: why what was found is not believed; empty where nothing was found, or nothing speaks against it.
    """

    data: DiffractionData
    uncertainty: Mapping[str, float]
    deviance: float
    evaluations: int
    improved: bool = True
    doubt: str = ""


class _Search:
    """Gauss–Newton steps with what was known before; everything in natural units, counted from the start."""

    def __init__(
        self,
        function: Expectation,
        start: NDArray[np.float64],
        units: NDArray[np.float64],
        prior: NDArray[np.float64],
    ) -> None:
        self.function, self.start, self.units = function, start, units
        self.precision = np.diag(1 / prior**2)
        self.reach = np.array([REACH.get(name, 1.0) for name in function.names])
        self.jacobian = np.zeros((len(start), function.counts.size), np.float32)
        self.origin = np.full(len(start), np.inf)
        self.half: NDArray[np.float32] | None = None

    def at(self, x: NDArray[np.float64]) -> NDArray[np.float32]:
        """Expected counts after a short reconstruction."""
        return np.asarray(self.function(self.start + x * self.units, SHORT)[0])

    def loss(self, x: NDArray[np.float64], expected: NDArray[np.float32]) -> float:
        """Deviance and what was known before."""
        return self.function.deviance(expected) + float(x @ self.precision @ x)

    def derive(self, x: NDArray[np.float64], expected: NDArray[np.float32], which: NDArray[np.bool_]) -> None:
        """Derivatives (p, m) at x by the parameters `which`: forward differences, or central ones across the disc's rim."""
        self.model = expected
        for i in np.flatnonzero(which):
            there, far = x.copy(), DIFFERENCE * self.reach[i]
            there[i] += far
            ahead, behind, length = self.at(there), expected, far
            if self.reach[i] < 1:
                there[i] -= 2 * far
                behind, length = self.at(there), 2 * far
            self.jacobian[i] = (ahead - behind) / np.float32(length)
            self.origin[i] = x[i]

    def _weigh(self, expected: NDArray[np.float32]) -> None:
        """Fisher weights: where the model was dark and is not, or is and was not, the brighter counts."""
        self.weights = 1 / (np.maximum(expected, self.model) + self.function.count_offset)
        weighted = np.asarray(self.jacobian * self.weights, np.float32)
        self.trust = np.eye(len(self.start))
        information = (weighted @ self.jacobian.T).astype(np.float64)
        if self.half is not None:
            information, self.trust = self._without_noise(information, weighted)
        self.curvature = information + self.precision

    def _without_noise(
        self, apparent: NDArray[np.float64], weighted: NDArray[np.float32]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """(information, matrix T that slopes are multiplied with), from the information that two halves have in common.

        What the noise of the object adds to Jᵀ W J = A averages out between halves, D. The slope has the variance A and the
        derivative D: T = D A⁻¹ makes the most of it, with the information D A⁻¹ D.
        """
        assert self.half is not None
        cross = 4 * (self.half @ (weighted - self.half * self.weights).T).astype(np.float64)
        root = np.linalg.cholesky(apparent + 1e-6 * self.precision)
        inverse = np.linalg.inv(root)
        shared, vectors = np.linalg.eigh(inverse @ (cross + cross.T) @ inverse.T / 2)
        shared, turned = np.clip(shared, LEAST_SHARED, 1.0), root @ vectors
        return np.asarray((turned * shared**2) @ turned.T), np.asarray((turned * shared) @ vectors.T @ inverse)

    def halve(self, x: NDArray[np.float64]) -> None:
        """Take the derivatives from half of the counts as well."""
        function, jacobian, origin, model = self.function, self.jacobian, self.origin.copy(), self.model
        self.jacobian = np.zeros_like(jacobian)
        self.function = function.halved()
        self.derive(x, self.at(x), np.ones(len(x), bool))
        self.half, self.jacobian, self.origin, self.model = self.jacobian, jacobian, origin, model
        function.evaluations += self.function.evaluations
        self.function = function

    def step(self, x: NDArray[np.float64], expected: NDArray[np.float32], damping: float = 0.0) -> NDArray[np.float64]:
        """Where the linear model goes from x."""
        self._weigh(expected)
        residual = (self.function.counts - expected) * self.weights
        slope = self.trust @ (self.jacobian @ residual).astype(np.float64) - self.precision @ x
        found = np.linalg.solve(self.curvature + damping * np.diag(np.diag(self.curvature)), slope)
        return np.asarray(found * min(1.0, LONGEST / max(float(np.abs(found).max()), 1e-30)))

    def size(self, step: NDArray[np.float64]) -> float:
        """Length of a step in standard deviations."""
        return float(np.sqrt(step @ self.curvature @ step))

    def short_steps(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        """From x downhill until no parameter has moved far from where the derivatives were taken."""
        expected, damping = self.at(x), 0.0
        loss = self.loss(x, expected)
        for _ in range(MOST_STEPS):
            moved = np.abs(x - self.origin) / self.reach
            if moved.max() > NEAR:
                self.derive(x, expected, moved > (0 if moved.max() > FAR else NEAR))
            elif damping == 0.0:
                break
            step = self.step(x, expected, damping)
            if self.size(step) < SETTLED:
                break
            there = self.at(x + step)
            if self.loss(x + step, there) > loss:
                damping = max(10 * damping, 0.1)
                continue
            x, expected, damping = x + step, there, 0.0
            loss = self.loss(x, expected)
        return x

    def long_steps(self, x: NDArray[np.float64], passes: int) -> NDArray[np.float64]:
        """Steps with the derivatives at hand and residuals of long reconstructions."""
        made = None
        for _ in range(MOST_LONG_STEPS):
            expected, made = self.function(self.start + x * self.units, passes, made)
            step = self.step(x, expected)
            x = x + step
            if self.size(step) < SETTLED:
                break
        return x


def tune(
    data: DiffractionData,
    widths: Mapping[str, float],
    *,
    settings: ReconstructionSettings | None = None,
    n_positions: int = 324,
    long_passes: int = LONG,
    on_progress: Callable[[float], None] | None = None,
) -> Tuned:
    """Find the parameters named in `widths`, all together.

    Args:
        data: start of the search.
        widths: parameter (see `parameters`) -> standard deviation, in its unit, of what is known of it before.
        settings: the physics that reconstructions are made with; the number of passes is chosen here.
        n_positions: positions used, the dense square in the middle of the scan.
        long_passes: of the reconstructions that the last steps look at.
    """
    names = tuple(widths)
    given, offset = data, {"row": 0, "column": 0}
    data, (offset["row"], offset["column"]) = middle_of_patterns(data)
    chosen = short_settings(settings or ReconstructionSettings(background=False))
    start = np.array([parameters.value(data, name) for name in names])
    units = np.array([parameters.unit(data, name) for name in names])
    prior = np.array([widths[name] for name in names]) / units
    x = np.zeros(len(names))
    evaluations = 0
    if prior.max() > NEAR and n_positions > COARSE_POSITIONS:
        coarse = _Search(Expectation.of(part_of_scan(data, COARSE_POSITIONS), chosen, names), start, units, prior)
        x = coarse.short_steps(x)
        evaluations = coarse.function.evaluations
        tell(on_progress, 0.3)
    function = Expectation.of(part_of_scan(data, n_positions), chosen, names)
    search = _Search(function, start, units, prior)
    x = search.short_steps(x)
    tell(on_progress, 0.7)
    signal = function.signal(start + x * units, search.at(x))
    if signal < FAINT:
        return Tuned(given, dict(widths), np.nan, evaluations + function.evaluations, improved=False)
    if signal < CLEAR and function.experiment.counts.pixels().dtype.kind == "u":
        search.halve(x)
    x = search.long_steps(x, long_passes)
    expected, untouched = search.at(x), search.at(0 * x)
    loss, before = search.loss(x, expected), search.loss(0 * x, untouched)
    improved = bool(np.isfinite(loss) and loss <= before + SLACK)
    tell(on_progress, 1.0)
    spread = np.sqrt(np.diag(np.linalg.inv(search.curvature))) * units
    found = {name: v + offset.get(name, 0) for name, v in zip(names, (start + x * units).tolist(), strict=True)}
    return Tuned(
        parameters.with_values(given, found) if improved else given,
        dict(zip(names, spread.tolist(), strict=True)),
        function.deviance(expected if improved else untouched) / function.counts.size,
        evaluations + function.evaluations,
        improved,
    )


def part_of_scan(data: DiffractionData, n_positions: int) -> DiffractionData:
    """The dense square in the middle of the scan."""
    part = central_part(data, n_positions)
    return data.at(part)


def middle_of_patterns(data: DiffractionData) -> tuple[DiffractionData, tuple[int, int]]:
    """The middle of the patterns, and its first (row, column).

    A wave scattered by an object of N pixels reaches N/2 beyond the disc's rim and is folded back to N/2 less the disc's radius
    at most: within SURROUNDINGS the smaller patterns are those of a band-limited object. Counts beyond are kept all the same:
    without them the noise in the object goes unpunished, and the defocus is biased by 2 sd at 1e3 e/Å².
    """
    radius = data.semiangle / data.angular_pixel
    shape = data.patterns.shape[1:]
    size = [min(n, legal_length(int(np.ceil(2 * (1 + SURROUNDINGS) * radius)))) for n in shape]
    if tuple(size) == shape:
        return data, (0, 0)
    centre = np.array([n // 2 for n in shape] if data.centre is None else data.centre, float)
    first = [int(np.clip(round(c) - s // 2, 0, n - s)) for c, s, n in zip(centre, size, shape, strict=True)]
    part = tuple(slice(f, f + s) for f, s in zip(first, size, strict=True))
    return replace(
        data,
        patterns=data.patterns[:, part[0], part[1]],
        centre=(float(centre[0] - first[0]), float(centre[1] - first[1])),
        mask=None if data.mask is None else data.mask[part],
        aperture=None if data.aperture is None else data.aperture[part],
    ), (first[0], first[1])


def tell(on_progress: Callable[[float], None] | None, done: float) -> None:
    """Pass on which fraction is done."""
    if on_progress is not None:
        on_progress(done)
