"""What counts allow: the Cramér–Rao bound of the phase error spectrum, over the diffraction-plane limit.

The limit 1/(2 dose) rad²Å² holds for every frequency at best. How much of it an experiment reaches depends on step, defocus and
specimen, and on what has to be found beside the summed phase. Here the inverse of the Fisher information of Poisson counts,
J^T diag(1/I) J with the derivatives J of the expected counts I by the phases of the slices, is drawn from: x with F x = J^T
(ξ/√I) and ξ normal has the covariance F⁻¹. Incoherent probe modes and the detector's point spread are part of I.
`physical_limit.py` prints the bands, `incoherence.py` the information that the bound leaves.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
from numpy.typing import NDArray

from agent.reconstruction.model import forward

CHUNK = 21
"""Patterns at a time."""
FLOOR = 0.005
"""Part of the largest illumination added to the preconditioner."""
ITERATIONS = 40
"""Of conjugate gradients; from 20 to 60 the bands move by less than the draw's own scatter."""

Image = NDArray[np.float32]


class Information:
    """Fisher information of the phases (S, y, x) of a known experiment.

    Args:
        problem: mask, propagators, number of modes and the detector's transfer function.
        unknowns: object, apertures, and places of the patterns.
    """

    def __init__(self, problem: forward.Problem, unknowns: forward.Unknowns) -> None:
        n, shape = len(unknowns.corners), unknowns.apertures.shape[1:]
        self.shape, self.propagators, self.transfer = unknowns.object.shape, problem.propagators, problem.transfer
        self.parts = []
        for first in range(0, n, CHUNK):
            index = np.arange(first, min(first + CHUNK, n))
            model, waves = forward.intensities(problem, unknowns, index, np)
            place = forward.windows(unknowns.corners[index], shape, self.shape[1:], np)
            weight = problem.mask / np.maximum(model, 1e-14)
            self.parts.append((waves, place, weight.astype(np.float32)))
        light = self._sum(lambda waves, place, _: [(np.abs(w) ** 2).sum(1) for w in waves.incident], self.parts)
        self.preconditioner = 1 / (4 * (light + FLOOR * light.max()))

    def times(self, phases: Image) -> Image:
        """F times (S, y, x)."""
        return self._sum(partial(self._product, phases), self.parts)

    def score(self, seed: int) -> Image:
        """A draw of the likelihood's gradient, whose covariance is F."""
        rng = np.random.default_rng(seed)
        noise = [rng.standard_normal(weight.shape, np.float32) * np.sqrt(weight) for _, _, weight in self.parts]
        return self._sum(
            lambda waves, _, xi: self._back(waves, xi), [(*p[:2], x) for p, x in zip(self.parts, noise, strict=True)]
        )

    def drawn(self, seed: int, alike: bool) -> Image:
        """(y, x) rad: an error of the summed phase as large as the bound; `alike`: the slices' differences are known."""
        slices = self.shape[0]

        def tied(gradient: Image) -> Image:
            return np.repeat(gradient.mean(axis=0, keepdims=True), slices, axis=0) if alike else gradient

        residual = tied(self.score(seed))
        found = np.zeros_like(residual)
        step = direction = tied(self.preconditioner * residual)
        size = float((residual * step).sum())
        for _ in range(ITERATIONS):
            product = tied(self.times(direction))
            length = size / float((direction * product).sum())
            found, residual = found + length * direction, residual - length * product
            step = tied(self.preconditioner * residual)
            size, before = float((residual * step).sum()), size
            direction = step + size / before * direction
        return found.sum(axis=0)

    def _product(self, phases: Image, waves: forward.Waves, place: NDArray[np.int64], weight: Image) -> list[Image]:
        wave = None
        for s, incident in enumerate(waves.incident):
            change = incident * (1j * waves.patches[s] * phases[s].ravel()[place])[:, None]
            if wave is not None:
                change += np.fft.ifft2(np.fft.fft2(wave) * self.propagators[s - 1]) * waves.patches[s][:, None]
            wave = change.astype(np.complex64)
        exit_wave = np.fft.fft2(wave, norm="ortho")
        seen = waves.detector
        counts = 2 * (seen.real * exit_wave.real + seen.imag * exit_wave.imag).sum(axis=1)
        return self._back(waves, weight * forward.blurred(counts, self.transfer, np))

    def _back(self, waves: forward.Waves, pulls: Image) -> list[Image]:
        """The transposed J: from one number per pixel (b, ky, kx) to one image per slice and pattern."""
        pulls = forward.blurred(pulls, self.transfer, np)
        chi = np.fft.ifft2(2 * pulls[:, None] * waves.detector, norm="ortho").astype(np.complex64)
        slices = []
        for s in range(len(waves.incident) - 1, -1, -1):
            slices.append(-((chi.conj() * waves.incident[s]).sum(axis=1) * waves.patches[s]).imag)
            if s > 0:
                chi = chi * waves.patches[s].conj()[:, None]
                chi = np.fft.ifft2(np.fft.fft2(chi) * self.propagators[s - 1].conj())
        return slices[::-1]

    def _sum(
        self, images: Callable[..., list[Image]], parts: list[tuple[forward.Waves, NDArray[np.int64], Image]]
    ) -> Image:
        """Images (b, ky, kx) of every part, one per slice, added up where they belong."""

        def scattered(part: tuple[forward.Waves, NDArray[np.int64], Image]) -> Image:
            size = self.shape[1] * self.shape[2]
            added = [np.bincount(part[1].ravel(), image.ravel(), size) for image in images(*part)]
            return np.asarray(added, np.float32).reshape(self.shape)

        with ThreadPoolExecutor(2) as pool:
            return np.asarray(sum(pool.map(scattered, parts)))
