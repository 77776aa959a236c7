"""The iterative engine: mini-batches that grow, steps that shrink, Poisson statistics.

At low dose the first pass already carries most of the information; what follows has to average, not to stir. So the
batch doubles and the step falls with every pass until all patterns make one update.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.errors import BadInputError
from agent.reconstruction import backend, forward, geometry, probe
from agent.reconstruction.types import DiffractionData, Reconstruction, ReconstructionSettings
from instrument import optics

Progress = Callable[[int, int], None]
"""Called with (passes done, passes in all)."""

ILLUMINATION_FLOOR = 0.05
"""Part of the largest illumination added to the preconditioner, so that the rim of the field is not driven by noise."""
GUARD = 0.02
"""Counts added to data and model in the residual are this times the root of the mean count of a detector pixel.

Below it a single count where the model is dark dominates a step; above it dark-field counts lose their weight. Scanned on
simulated MoS2 from 1e3 to 1e6 e/Å²: the best constant moved as the root of the mean count.
"""
PEDESTAL, EXCESS = 0.8, 0.05
"""Start of the background: these parts of the darkest ring outside the disc, and of what other rings hold above it.

A specimen scatters least into the darkest ring, so its counts are mostly background; what is above it may be either, and
a background grows faster than it shrinks.
"""


@dataclass(frozen=True)
class Step:
    """One pass: patterns per update, fraction of the preconditioned gradient, and whether the probe moves."""

    batch: int
    size: float
    probe: float


def schedule(settings: ReconstructionSettings, n_patterns: int) -> list[Step]:
    """The passes of a reconstruction."""
    steps = []
    first = settings.batch_size or max(16, n_patterns // 12)
    for p in range(settings.max_passes):
        batch = min(n_patterns, first * 2**p)
        size = max(settings.step_size * 0.8**p, 0.25)
        steps.append(Step(batch, size, size if settings.refine_probe and p >= 1 else 0.0))
    return steps


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
        geometry.check_data(data)
        if settings.slices != 1:
            msg = f"slices = {settings.slices}: this version reconstructs one slice"
            raise BadInputError(msg)
        self.data, self.settings = data, settings
        self.geometry = geo = geometry.locate(data)
        self.backend = backend.choose(settings.device)
        xp = self.backend.xp
        mean = data.patterns.mean(axis=0, dtype=np.float64)
        mask = np.ones(mean.shape, bool) if data.mask is None else np.asarray(data.mask, bool)
        total = float(mean[mask].sum())
        if total <= 0:
            msg = "every pattern is empty: there is nothing to reconstruct"
            raise BadInputError(msg)
        start = self._model_probe() if probe_k is None else np.asarray(probe_k, np.complex64)
        start = start * np.sqrt(total / (np.abs(start) ** 2).sum())
        rolled = np.roll(mean, geo.roll, axis=(0, 1))
        self.mask = xp.asarray(np.roll(mask, geo.roll, axis=(0, 1)).astype(np.float32))
        bright = (np.abs(start) ** 2).sum(axis=0) > 0.1 * (np.abs(start) ** 2).sum(axis=0).max()
        self.guard = float(GUARD * np.sqrt(total / mask.sum()))
        self.rings = _rings(mean.shape, geo.centre_offset)
        self.background = xp.asarray(self._initial_background(rolled, bright))
        self.object = xp.ones(geo.object_shape, dtype=xp.complex64)
        self.probe_k = xp.asarray(start.astype(np.complex64))
        self.support = xp.asarray(_support(start))
        self.counts = self.backend.load(data.patterns, geo.roll)
        self.corners, self.fractions = xp.asarray(geo.corners), xp.asarray(geo.fractions)
        self.deviance: list[float] = []
        self.passes = 0
        self.seconds = 0.0
        self._random = np.random.default_rng(settings.seed)

    def _model_probe(self) -> NDArray[np.complex64]:
        """(modes, ky, kx) from aperture, aberrations and source size, not yet scaled to the counts."""
        data, settings = self.data, self.settings
        wave = probe.aperture_wave(
            (data.patterns.shape[1], data.patterns.shape[2]),
            data.angular_pixel,
            data.voltage,
            data.semiangle,
            {**data.aberrations, "C10": -data.defocus},
            self.geometry.centre_offset,
            None if data.aperture is None else np.roll(data.aperture, self.geometry.roll, axis=(0, 1)),
        )
        return probe.source_modes(wave, settings.probe_modes, data.angular_pixel, data.voltage, settings.source_size)

    def _initial_background(self, mean: NDArray[np.float64], bright: NDArray[np.bool_]) -> NDArray[np.float32]:
        """A flat pedestal and a part of the ring means outside the disc; inside, what its brightest neighbour ring has."""
        if not self.settings.background:
            return np.zeros(mean.shape, np.float32)
        outside = ~bright & (_ring_mean(bright.astype(float), self.rings) == 0)
        if not outside.any():
            return np.full(mean.shape, 1e-6 * mean.max(), np.float32)
        profile = _ring_mean(mean, self.rings)
        lowest = profile[outside].min()
        excess = np.where(outside, profile - lowest, 0.0)
        excess = np.where(outside, excess, excess.max())
        return (PEDESTAL * lowest + EXCESS * excess + 1e-6 * mean.max()).astype(np.float32)

    def run(self, on_progress: Progress | None = None) -> None:
        """Make the passes of the schedule."""
        started = time.perf_counter()
        steps = schedule(self.settings, len(self.counts))
        for number, step in enumerate(steps):
            self.one_pass(step, want_deviance=number == len(steps) - 1)
            if on_progress is not None:
                on_progress(number + 1, len(steps))
        self.seconds += time.perf_counter() - started

    def one_pass(self, step: Step, want_deviance: bool = False) -> None:
        """Every pattern once, in random batches."""
        xp, n = self.backend.xp, len(self.counts)
        order = self._random.permutation(n)
        ratio = xp.zeros(self.background.shape, xp.float32)
        deviance = 0.0
        for batch in np.array_split(order, max(1, round(n / step.batch))):
            sums = self.backend.accumulate(
                self.object,
                self.probe_k,
                self.corners,
                self.fractions,
                self.counts,
                batch,
                self.background,
                self.mask,
                self.guard,
                step.probe > 0,
                want_deviance,
            )
            floor = ILLUMINATION_FLOOR * sums.illumination.max()
            self.object += step.size * sums.object_numerator / (sums.illumination + floor)
            if step.probe > 0:
                self.probe_k += (step.probe / len(batch)) * sums.probe_numerator * self.support
            ratio += sums.ratio
            deviance += sums.deviance
        if self.settings.background:
            self._update_background(ratio / n)
        self.passes += 1
        if want_deviance:
            self.deviance.append(deviance / (n * float(self.mask.sum())))

    def _update_background(self, ratio: Any) -> None:
        """Two expectation-maximisation steps in one of the background's ring profile (the coherent part held fixed)."""
        ratio_host = self.backend.to_host(ratio)
        mask = self.backend.to_host(self.mask)
        gain = _ring_mean(ratio_host * mask, self.rings) / np.maximum(_ring_mean(mask, self.rings), 1e-6)
        self.background *= self.backend.xp.asarray(np.clip(gain**2, 0.2, 5.0).astype(np.float32))

    def deviance_of(self, patterns: NDArray[Any]) -> float:
        """Poisson deviance per detector pixel of other counts of the same exposure, (n, ky, kx), under the model as it is."""
        counts = self.backend.load(patterns, self.geometry.roll)
        sums = self.backend.accumulate(
            self.object,
            self.probe_k,
            self.corners,
            self.fractions,
            counts,
            np.arange(len(counts)),
            self.background,
            self.mask,
            self.guard,
            False,
            True,
        )
        return float(sums.deviance) / (len(counts) * float(self.mask.sum()))

    def model(self, index: NDArray[np.int64]) -> NDArray[np.float32]:
        """Modelled counts of the patterns `index`, (b, ky, kx), corner-centred."""
        xp = self.backend.xp
        part = xp.asarray(index)
        counts, *_ = forward.intensities(
            self.object, self.probe_k, self.corners[part], self.fractions[part], self.background, xp
        )
        return self.backend.to_host(counts).astype(np.float32)

    def result(self) -> Reconstruction:
        """The state as a finished reconstruction."""
        data, geo, host = self.data, self.geometry, self.backend.to_host
        obj = host(self.object)
        probe_k = host(self.probe_k)
        illumination = self._illumination(probe_k)
        if not np.isfinite(obj).all():
            msg = "the reconstruction diverged (values that are not numbers); lower step_size or check the calibration"
            raise ArithmeticError(msg)
        margin = 0.1 * min(n * p for n, p in zip(geo.object_shape, geo.pixel_size, strict=True))
        turned, origin = geometry.to_scan_frame(obj, geo, data.positions, margin)
        lit, _ = geometry.to_scan_frame(illumination, geo, data.positions, margin)
        lit = np.clip(lit, 0, None)
        reference = (turned * lit).sum()
        phase = np.angle(turned * np.conj(reference) / max(abs(reference), 1e-30)).astype(np.float32)
        background = np.fft.fftshift(host(self.background)) if self.settings.background else None
        return Reconstruction(
            object=turned[None].astype(np.complex64),
            phase=phase,
            pixel_size=geo.pixel_size,
            origin=origin,
            probe=probe.to_real_space(probe.orthogonalised(probe_k)),
            positions=data.positions,
            defocus=data.defocus,
            aberrations=dict(data.aberrations),
            background=background,
            deviance=tuple(self.deviance),
            passes=self.passes,
            illuminated=lit.astype(np.float32),
            device=self.backend.name,
            seconds=self.seconds,
        )

    def _illumination(self, probe_k: NDArray[np.complex64]) -> NDArray[np.float32]:
        """Σ|probe|² of all positions relative to its maximum, (y, x) on the object grid (whole-pixel shifts)."""
        intensity = (np.abs(probe.to_real_space(probe_k)) ** 2).sum(axis=0)
        total = np.zeros(self.geometry.object_shape, np.float32)
        n_y, n_x = intensity.shape
        for row, column in self.geometry.corners:
            total[row : row + n_y, column : column + n_x] += intensity
        return total / max(float(total.max()), 1e-30)


def _support(probe_k: NDArray[np.complex64]) -> NDArray[np.float32]:
    """Where the aperture may pass electrons: the disc of the start, one pixel wider, (ky, kx)."""
    disc = (np.abs(probe_k) ** 2).sum(axis=0)
    inside = disc > 1e-3 * disc.max()
    grown = inside.copy()
    for axis in (0, 1):
        for shift in (-1, 1):
            grown |= np.roll(inside, shift, axis=axis)
    return grown.astype(np.float32)


def _rings(shape: tuple[int, ...], centre_offset: tuple[float, float]) -> NDArray[np.int64]:
    """Index of the two-pixel wide ring round the disc centre, (ky, kx), corner-centred."""
    ky, kx = (np.fft.fftfreq(n, 1.0 / n) for n in shape)
    radius = np.hypot((ky - centre_offset[0])[:, None], (kx - centre_offset[1])[None, :])
    return (radius / 2).astype(np.int64)


def _ring_mean(image: NDArray[Any], rings: NDArray[np.int64]) -> NDArray[Any]:
    """Each pixel replaced by the mean of its ring."""
    total = np.bincount(rings.ravel(), weights=image.ravel())
    mean = total / np.maximum(np.bincount(rings.ravel()), 1)
    return mean[rings]


def reconstruct(
    data: DiffractionData,
    settings: ReconstructionSettings | None = None,
    *,
    warm_start: Reconstruction | None = None,
    on_progress: Progress | None = None,
) -> Reconstruction:
    """Patterns to object and probe.

    Args:
        data: patterns, positions and optics.
        settings: how; the defaults suit live use.
        warm_start: an earlier result of the same column: its probe is the start (propagated to `data.defocus` where
            the two differ).
        on_progress: called after each pass.

    Raises:
        BadInputError: where the data cannot be reconstructed; the message says why.
        ArithmeticError: where the result would not be finite.
    """
    chosen = settings or ReconstructionSettings()
    start = None
    if warm_start is not None:
        start = np.fft.fft2(np.fft.ifftshift(warm_start.probe, axes=(-2, -1)), norm="ortho")
        if start.shape[1:] != data.patterns.shape[1:]:
            msg = f"the warm start's probe has {start.shape[1:]} pixels, the patterns {data.patterns.shape[1:]}"
            raise BadInputError(msg)
        chosen = replace(chosen, probe_modes=len(start))
        data = replace(data, aberrations=warm_start.aberrations)
        if data.defocus != warm_start.defocus:
            ky, kx = probe.frequencies((start.shape[1], start.shape[2]), data.angular_pixel, data.voltage)
            change = {"C10": warm_start.defocus - data.defocus}
            start = start * np.exp(-1j * optics.aberration_phase(ky, kx, data.voltage, change))
    worker = Reconstructor(data, chosen, None if start is None else start.astype(np.complex64))
    worker.run(on_progress)
    return worker.result()
