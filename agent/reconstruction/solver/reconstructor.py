"""The iterative engine: a few stirring passes in growing mini-batches, then all patterns at once with momentum.

At low dose the first pass already carries most of the information; what follows has to average, not to stir. Mini-batches
bring the information in; full passes with Nesterov's momentum converge to the maximum of the likelihood without the noise
that small batches leave.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.reconstruction.backends import choice
from agent.reconstruction.counts.layout import framed, two_by_two
from agent.reconstruction.counts.patterns import chunks, in_bins, joined, kept_on_disk
from agent.reconstruction.model import background, binning, forward, geometry, probe, start
from agent.reconstruction.model.checks import check_data, check_memory
from agent.reconstruction.model.data import DiffractionData
from agent.reconstruction.model.depth import Depths
from agent.reconstruction.model.settings import ReconstructionSettings
from agent.reconstruction.model.transmission import TransmissionLaw
from agent.reconstruction.solver import bias, stopping
from agent.reconstruction.solver import result as outcome
from agent.reconstruction.solver.object_update import Ascent, Reached
from agent.reconstruction.solver.per_pattern import PatternUnknowns
from agent.reconstruction.solver.positions import padding
from agent.reconstruction.solver.result import Reconstruction
from agent.reconstruction.solver.schedule import Step, schedule
from instrument import optics
from instrument.errors import BadInputError

Progress = Callable[[int, int], None]
"""Called with (passes done, passes in all)."""

GUARD = 0.02
"""Counts added to data and model in the residual: at the start this times the root of the mean count of a detector pixel.

Below it a single count where the model is still dark dominates a step; above it dark-field counts lose their weight. (Scanned
on simulated MoS2 from 1e3 to 1e6 e/Å²: the best constant moved as the root of the mean count.) In full passes single counts
no longer matter, and the guard falls to a hundredth: the likelihood is then all but the unguarded one (`schedule`).
"""


class Reconstructor:
    """The state of a reconstruction: object, probe, background, and the patterns in the engine's layout.

    Args:
        data: patterns and geometry; checked here (BadInputError).
        settings: how.
        probe_k: start of the probe, (modes, ky, kx) in the aperture plane, corner-centred; scaled to the data. None:
            from the nominal optics.
    """

    def __init__(
        self, data: DiffractionData, settings: ReconstructionSettings, probe_k: NDArray[np.complex64] | None = None
    ) -> None:
        check_data(data, settings.slices)
        self.data, self.settings = data, settings
        padding = start.padding(data, settings)
        self.shape = geometry.extended(data.patterns.shape, padding)
        self.geometry = geo = self._located(data)
        # pixels are finer than `check_data` knew where the detector has been extended
        check_memory(geo.object_shape, settings.slices)
        self.backend = choice.choose(settings.device)
        xp, n = self.backend.xp, len(data.patterns)
        seen = np.ones(data.patterns.shape[1:], bool) if data.mask is None else np.asarray(data.mask, bool)
        seen = framed(seen[None], geo.roll, self.shape)[0]
        modes = start.model_probe(data, settings, geo, self.shape) if probe_k is None else probe_k
        self._seen, self._overlap = seen, start.overlap(modes, geo)
        self._can_bin = binning.possible(modes, seen, data.patterns.shape)
        self._binned: tuple[forward.Problem, forward.Unknowns] | None = None
        # bins are at hand sooner than pixels, which wait until they are asked for
        self._bins = self._load(data.patterns, binned=True) if self._can_bin else None
        counts = None if self._can_bin else self._load(data.patterns)
        self.totals, mean = self._summed(counts)
        if self.electrons <= 0:
            msg = "every pattern is empty: there is nothing to reconstruct"
            raise BadInputError(msg)
        modes = (modes * np.sqrt(self.electrons / (np.abs(modes) ** 2).sum())).astype(np.complex64)
        support = start.support(modes)
        self.support = xp.asarray(support)
        if settings.variable_modes:
            modes = np.concatenate([modes, start.variations(modes, settings.variable_modes, settings.seed)])
        light = (np.abs(modes) ** 2).sum(axis=0)
        bright = light > 0.1 * light.max()
        if self._can_bin:  # the mean is that of bins: light has spread to all pixels of those on the disc's edge
            bright = binning.enlarged(two_by_two(light)) > 0.01 * light.max()
        haze = background.start(mean, seen, bright, background.Rings(self.shape, geo.centre_offset))
        self.rings = background.Rings(self.shape, geo.centre_offset, xp)
        weights = np.ones((n, len(modes)), np.float32)
        weights[:, settings.probe_modes :] = 0
        self._problem = forward.Problem(
            counts=counts,
            mask=xp.asarray(seen.astype(np.float32)),
            n_modes=len(modes) - settings.variable_modes,
            propagators=xp.asarray(start.propagators(data, settings, geo, self.shape)),
            support=support > 0,
            transfer=_optional(start.transfer(data, self.shape), xp),
            loss=settings.loss,
            # of the brightest pixels, whose counts scatter most and whose curvature limits the step
            variance=max(2 * float(mean.max()), 1e-30),
        )
        self.unknowns = forward.Unknowns(
            object=xp.ones((settings.slices, *geo.object_shape), xp.complex64),
            apertures=xp.asarray(modes),
            corners=xp.array(geo.corners),
            fractions=xp.array(geo.fractions),
            weights=xp.asarray(weights),
            background=xp.asarray(haze if settings.background else 0 * haze),
            guard=0.0,
        )
        self._telling = start.counts_per_pixel(data, float(self.totals.sum())) >= start.TELLING
        self._padded, self._thin = padding > 1, start.thin(data, settings)
        self._counting = float(seen.sum())
        self.guard = float(GUARD * np.sqrt(self.electrons / self._counting))
        self.start_probe = self.unknowns.apertures[: self.n_modes].copy()
        self.per_pattern = PatternUnknowns(settings, geo, data.positions, self.totals)
        self._deviance: list[Any] = []
        self.passes = 0
        self.seconds = 0.0
        self.noise_scale = 1.0
        """By what noise has weakened the phases, once `run` has found it."""
        self.ascent = self._from_rest()
        self._random = np.random.default_rng(settings.seed)

    def _located(self, data: DiffractionData) -> geometry.Geometry:
        """The object grid, with room for positions that are refined."""
        spare = padding(self.settings.refine_positions, data.positions, data.pixel_size)
        return geometry.locate(data, spare, self.shape)

    def _from_rest(self) -> Ascent:
        """No step made yet."""
        xp, detector = self.backend.xp, self.data.patterns.shape[1:]
        wavelength = optics.wavelength(self.data.voltage)
        pixel_size, resolved = self.geometry.pixel_size, (detector[0] / self.shape[0], detector[1] / self.shape[1])
        law = TransmissionLaw(xp, pixel_size, resolved if self._padded else (1, 1)) if self.follows_law else None
        return Ascent(xp, resolved, Depths(xp, self.settings.depths, wavelength, pixel_size), law)

    def _load(self, patterns: Any, binned: bool = False) -> Any:
        """Patterns (n, ky, kx), or their bins, in the backend's layout."""
        parts, roll, shape = chunks(patterns, self.data.mask), self.geometry.roll, self.shape
        if binned:
            parts, roll, shape = map(in_bins, parts), (roll[0] // 2, roll[1] // 2), binning.half(shape)
        return self.backend.load(parts, len(patterns), roll, shape)

    def _summed(self, counts: Any) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """(counts of each pattern, mean pattern (ky, kx) corner-centred); None: of the bins."""
        if counts is None:
            totals, sums = map(self.backend.to_host, self.backend.summed(self._bins, binning.half(self.shape)))
            sums = binning.enlarged(sums) / 4
        else:
            totals, sums = map(self.backend.to_host, self.backend.summed(counts, self.shape))
        return totals, sums / len(totals)

    @property
    def problem(self) -> forward.Problem:
        """What is given; the patterns are read again and laid out when this is first asked for.

        Raises BadInputError where they are not those any more that the reconstruction began with (seen on the CPU only: a device
        would have to be waited for).
        """
        if self._problem.counts is None:
            counts = self._load(self.data.patterns)
            if self.backend.xp is np and not np.allclose(self._summed(counts)[0], self.totals, rtol=1e-5):
                msg = "the patterns were changed while their reconstruction was under way; give it a copy of them"
                raise BadInputError(msg)
            self._problem.counts = counts
        return self._problem

    @problem.setter
    def problem(self, problem: forward.Problem) -> None:
        self._problem, self._bins, self._binned = problem, None, None

    @property
    def n_modes(self) -> int:
        """Probe modes; apertures beyond are variations of the first."""
        return self._problem.n_modes

    @property
    def notes(self) -> tuple[str, ...]:
        """What the user should know of how it was made."""
        return kept_on_disk(self._problem.counts)

    @property
    def electrons(self) -> float:
        """Mean counts per pattern in the counting pixels."""
        return float(self.totals.mean())

    @property
    def phase_only(self) -> bool:
        """Whether slices only shift the phase."""
        if self.settings.object_type is not None:
            return self.settings.object_type == "phase"
        return self.settings.slices > 1 or not self._telling

    @property
    def follows_law(self) -> bool:
        """Whether several slices are what follows from their phases (`transmission`)."""
        several = self.settings.object_type is None and self.settings.slices > 1
        return several and self._telling and (self._thin or not self._padded)

    @property
    def deviance(self) -> tuple[float, ...]:
        """Per detector pixel, of the passes that it was wanted of; waits for the device."""
        return tuple(float(self.backend.to_host(value)) for value in self._deviance)

    def run(self, on_progress: Progress | None = None) -> None:
        """Make the passes of the schedule, or as many of them as held-out counts ask for."""
        started = time.perf_counter()
        steps = self.steps()
        if self.settings.stop_early and stopping.possible(self):
            stopping.run(self, steps, on_progress)
        else:
            for number, step in enumerate(steps):
                self.one_pass(step, want_deviance=number == len(steps) - 1)
                if on_progress is not None:
                    on_progress(number + 1, len(steps))
        self.settle()
        if self.settings.quantitative:
            self.noise_scale = bias.scale(self)
        self.seconds += time.perf_counter() - started

    def steps(self) -> list[Step]:
        """The passes to make."""
        return schedule(self.settings, len(self.unknowns.corners), self._overlap)

    def one_pass(self, step: Step, want_deviance: bool = False) -> None:
        """Every pattern, or every second one, once: in random batches, or all in one update with momentum.

        Nothing here waits for the device, except for positions that are refined; arrays that it reads stay in their place.
        """
        xp, found = self.backend.xp, self.unknowns
        order = np.arange(len(found.corners)) if step.half is None else np.arange(step.half, len(found.corners), 2)
        n = len(order)
        binned = step.binned and self._can_bin and not want_deviance
        problem, model = self._in_bins() if binned else (self.problem, found)
        # a bin has four times the counts of a pixel
        model.guard = self.guard * step.guard * (2 if binned else 1)
        probe_moves = step.probe > 0 and not binned
        slopes = probe_moves or (step.batch is None and self.per_pattern.needs_slopes)
        wanted = forward.Wanted(probe=slopes, ratio=self.settings.background, deviance=want_deviance)
        ratio, deviance = xp.zeros(problem.mask.shape, xp.float32), 0.0
        parts = 1 if step.batch is None else max(1, round(n / step.batch))
        order = order if step.batch is None else self._random.permutation(order)
        for batch in np.array_split(order, parts):
            sums = self.backend.accumulate(problem, model, batch, wanted)
            if step.batch is None:
                self.ascent.in_full(self, sums, step)
            else:
                self.ascent.in_batch(self, sums, step, len(batch))
            ratio = ratio if sums.ratio is None else ratio + sums.ratio
            deviance += sums.deviance
        if self.settings.background:
            ratio = binning.enlarged(ratio) if binned else ratio
            found.background *= background.gain(ratio / n, self._problem.mask, self.rings)
        if not binned:
            self._bins = self._binned = None  # they are for the first passes only, and take memory
        self.passes += step.half != 0
        if want_deviance:
            self._deviance.append(deviance / (n * self._counting))

    def _in_bins(self) -> tuple[forward.Problem, forward.Unknowns]:
        """The problem with the detector in bins."""
        if self._binned is None:
            bins = self.backend.binned(self.problem.counts, self.shape) if self._bins is None else self._bins
            problem = replace(self._problem, counts=bins)
            self._binned = binning.binned(
                problem, self.unknowns, self.data, self.settings, self.geometry, self.backend.xp
            )
        problem, found = self._binned
        found.background[...] = two_by_two(self.unknowns.background)
        return problem, found

    def reached(self) -> Reached:
        """Object and apertures as they are, without the extrapolation of the momentum."""
        return self.ascent.reached or Reached(self.unknowns.object, self.unknowns.apertures)

    def settle(self) -> None:
        """Leave the extrapolated point for the last one that was reached."""
        last = self.ascent.reached
        if last is not None:
            self.unknowns.object[...], self.unknowns.apertures[...] = last.object, last.apertures
            if self.ascent.law is not None:
                self.ascent.law.numbers = last.numbers
            self.ascent.reached = None

    def scale_counts(self, factor: float) -> None:
        """Expect `factor` times as many electrons in every pattern; the object stays."""
        root = np.float32(np.sqrt(factor))
        self.unknowns.apertures *= root
        self.unknowns.background *= np.float32(factor)
        if self.ascent.reached is not None:
            self.ascent.reached.apertures *= root
        self._bins = self._binned = None

    def append(self, patterns: NDArray[Any], positions: NDArray[np.float64]) -> None:
        """Take in patterns that arrive later; object and probe go on from where they are.

        Args:
            patterns: (m, ky, kx) counts.
            positions: (m, 2), Å, in the frame of those before.

        Raises:
            BadInputError: as for the first patterns.
        """
        more = replace(self.data, patterns=patterns, positions=positions)
        check_data(more, self.settings.slices, self.data)
        everything = replace(self.data, positions=np.concatenate([self.data.positions, positions]))
        old, new = self.geometry, self._located(everything)
        check_memory(new.object_shape, self.settings.slices)
        self.settle()
        xp, found = self.backend.xp, self.unknowns
        grown = xp.ones((len(found.object), *new.object_shape), found.object.dtype)
        row, column = (round((o - n) / p) for o, n, p in zip(old.origin, new.origin, new.pixel_size, strict=True))
        grown[:, row : row + old.object_shape[0], column : column + old.object_shape[1]] = found.object
        first = len(found.corners)
        found.object = grown
        found.corners = xp.concatenate(
            [found.corners + xp.asarray([row, column], dtype=found.corners.dtype), xp.asarray(new.corners[first:])]
        )
        found.fractions = xp.concatenate([found.fractions, xp.asarray(new.fractions[first:])])
        fresh = xp.ones((len(patterns), found.weights.shape[1]), xp.float32)
        fresh[:, self.n_modes :] = 0
        found.weights = xp.concatenate([found.weights, fresh])
        counts = self._load(patterns)
        self.problem = replace(self.problem, counts=joined(self.problem.counts, counts, xp))
        self.totals = np.concatenate([self.totals, self._summed(counts)[0]])
        self.geometry, self.data = new, everything
        self.per_pattern = PatternUnknowns(self.settings, new, everything.positions, self.totals)

    def deviance_of(self, patterns: NDArray[Any]) -> float:
        """Poisson deviance per detector pixel of other counts of the same exposure, (n, ky, kx), under the model as it is."""
        counts = self._load(patterns)
        wanted = forward.Wanted(adjoint=False, probe=False, ratio=False, deviance=True)
        found = replace(self.unknowns, guard=self.guard)
        sums = self.backend.accumulate(replace(self.problem, counts=counts), found, np.arange(len(patterns)), wanted)
        return float(sums.deviance) / (len(patterns) * float(self.problem.mask.sum()))

    def model(self, index: NDArray[np.int64]) -> NDArray[np.float32]:
        """Modelled counts of the patterns `index`, (b, ky, kx), corner-centred."""
        xp = self.backend.xp
        counts, _ = forward.intensities(self.problem, self.unknowns, xp.asarray(index), xp)
        return self.backend.to_host(counts).astype(np.float32)

    def result(self) -> Reconstruction:
        """The state as a finished reconstruction. Raises ArithmeticError where it holds values that are not numbers."""
        return outcome.of(self)

    def illumination(self) -> NDArray[np.float32]:
        """Σ|probe|² of all positions relative to its maximum, (y, x) on the object grid (whole-pixel shifts)."""
        apertures = self.backend.to_host(self.reached().apertures)[: self.n_modes]
        intensity = (np.abs(probe.to_real_space(apertures)) ** 2).sum(axis=0)
        n_y, n_x = self.geometry.object_shape
        hits = np.zeros((n_y, n_x), np.float32)
        np.add.at(hits, tuple(self.backend.to_host(self.unknowns.corners).T), 1)
        # every window lies inside the grid, so that nothing wraps round
        spectrum = np.fft.rfft2(hits) * np.fft.rfft2(intensity, (n_y, n_x))
        total = np.clip(np.fft.irfft2(spectrum, (n_y, n_x)), 0, None).astype(np.float32)
        return total / max(float(total.max()), 1e-30)

    def under(self, data: DiffractionData) -> Reconstructor:
        """The same counts under other optics or positions, before the first pass.

        `data` differs from what this one was made of in defocus, aberrations, centre, detector_to_scan or positions only.
        Call it on a `Reconstructor` that has made no passes.
        """
        twin = copy.copy(self)
        xp, roll = self.backend.xp, self.geometry.roll
        row, column = (n // 2 for n in data.patterns.shape[1:]) if data.centre is None else data.centre
        geo = self._located(data)
        twin.data = data
        # the counts stay rolled as they are, however far the disc's centre moves
        twin.geometry = geo = replace(geo, roll=roll, centre_offset=(row + roll[0], column + roll[1]))
        modes = start.model_probe(data, self.settings, geo, self.shape)
        modes = (modes * np.sqrt(self.electrons / (np.abs(modes) ** 2).sum())).astype(np.complex64)
        support = start.support(modes)
        twin.support = xp.asarray(support)
        propagators = xp.asarray(start.propagators(data, self.settings, geo, self.shape))
        twin._problem = replace(self._problem, support=support > 0, propagators=propagators)
        twin.unknowns = replace(
            self.unknowns,
            object=xp.ones((self.settings.slices, *geo.object_shape), xp.complex64),
            apertures=xp.asarray(modes),
            corners=xp.array(geo.corners),
            fractions=xp.array(geo.fractions),
            background=self.unknowns.background.copy(),
            weights=self.unknowns.weights.copy(),
        )
        twin.start_probe = twin.unknowns.apertures.copy()
        twin.per_pattern = PatternUnknowns(self.settings, geo, data.positions, self.totals)
        twin._binned, twin._can_bin = None, binning.possible(modes, self._seen, data.patterns.shape)
        twin.ascent = self._from_rest()
        twin._deviance, twin._random = [], np.random.default_rng(self.settings.seed)
        return twin

    def replica(self, counts: Any, unknowns: forward.Unknowns) -> NDArray[np.complex64]:
        """The object (S, y, x) that other counts of the same experiment give in as many passes.

        Args:
            counts: (b, …) in the backend's layout.
            unknowns: what is known of these patterns; the object is not looked at.
        """
        twin = copy.copy(self)
        twin.settings = replace(self.settings, max_passes=max(self.passes, 1), refine_positions=None)
        twin.problem = replace(self.problem, counts=counts)
        known = replace(twin.settings, refine_intensity=False, variable_modes=0)
        twin.per_pattern = PatternUnknowns(known, self.geometry, self.data.positions, self.totals)
        xp = self.backend.xp
        twin.unknowns = replace(
            unknowns,
            object=xp.ones_like(unknowns.object),
            apertures=unknowns.apertures.copy(),
            background=unknowns.background.copy(),
        )
        twin.ascent = self._from_rest()
        twin._deviance, twin.passes = [], 0
        twin._random = np.random.default_rng(self.settings.seed)
        for step in twin.steps():
            twin.one_pass(step)
        return self.backend.to_host(twin.reached().object)


def _optional(array: NDArray[Any] | None, xp: Any) -> Any:
    return None if array is None else xp.asarray(array)
