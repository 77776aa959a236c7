"""What slices do to a wave: they shift its phase, and what goes with it follows from that, by two numbers for a whole specimen.

A pure phase object comes out too weak where electrons are missing; an amplitude of its own for every pixel of every slice is
mostly noise. So is what a slice has beyond the frequencies that the detector resolves, although the counts depend on it: what
is scattered further interferes with what is not, and waves that the next slice scatters back come from there. In between lie a
phase φ of resolved frequencies and what follows from it, with numbers κ and σ found from the counts like every other unknown.

- Where the detector is extended, beyond its edge the phase is that of σφ². Atoms are sharper than what is seen of them, and the
  square of an image of atoms is such an image, but sharper. (Which phase is called 0 does not matter: it changes the square by
  what is resolved.) For layers of MoS₂ cut off at 1.68 1/Å what is missing up to 2.5 1/Å follows it by 0.97
  (correlation), for their planes of atoms by 0.94.
- What atoms scatter further than the extended detector is missing behind them, however thin they are. For a layer of MoS₂ cut
  off at 2.5 1/Å the logarithm of the amplitude that is left follows k²φ(k), ring by ring from 0.35 1/Å on, by 0.93 to 0.98
  (correlation; the Laplacian of a potential is the charge that makes it, which sits on the nuclei). So amplitudes are
  exp(−κ k²φ).
- Where the detector is not extended, they are exp(−κφ): an absorptive potential V' = κV (Hashimoto, Howie & Whelan, Proc. R.
  Soc. Lond. A 269 (1962) 80).

Runs on NumPy and CuPy arrays alike and never waits for the device.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from instrument import optics

WRAPPED = 0.9 * np.pi
"""Phase of a slice beyond which it may have wrapped round, so that its spectrum means nothing."""

MOST_LOST = 2.0
"""Log amplitude beyond which a slice is not believed: positions in another unit make phases whose absorption overflows."""


def phases(obj: Any, light: Any, xp: Any) -> Any:
    """(S, y, x) rad of the slices (S, y, x), less each slice's mean where `light` (S, y, x) falls."""
    return without_mean(xp.angle(obj), light)


def without_mean(images: Any, light: Any) -> Any:
    """Images (S, y, x), less each one's mean where `light` (S, y, x) falls."""
    return images - (images * light).sum(axis=(1, 2), keepdims=True) / light.sum(axis=(1, 2), keepdims=True)


class TransmissionLaw:
    """How slices follow from the resolved frequencies of their phases.

    Args:
        xp: array module.
        pixel_size: (y, x), Å.
        resolved: (y, x) largest frequency that the detector resolves, as a part of the object grid's Nyquist frequency; 1 where
            it is not extended.

    Attributes:
        numbers: (2,) κ and σ, not below 0, on the device.
    """

    def __init__(self, xp: Any, pixel_size: tuple[float, float], resolved: tuple[float, float]) -> None:
        self.xp, self.pixel_size, self.resolved = xp, pixel_size, resolved
        self.extended = min(resolved) < 1
        self.numbers = xp.zeros(2)
        self._known: dict[tuple[int, ...], tuple[Any, Any]] = {}

    def seen(self, images: Any) -> Any:
        """The resolved frequencies of real images (…, y, x); its own adjoint."""
        return self._filtered(images, 0) if self.extended else images

    def of(self, phase: Any) -> Any:
        """Slices (S, y, x), complex64, that have the resolved frequencies of the phases (S, y, x)."""
        kappa, sigma = (self.numbers[i].astype(np.float32) for i in (0, 1))
        if self.extended:
            phase = self.seen(phase)
            phase = phase + sigma * self._unseen(phase**2)
        lost = self.xp.clip(kappa * self._absorbed(phase), -MOST_LOST, MOST_LOST)
        return self.xp.exp(1j * phase - lost).astype(np.complex64)

    def imposed(self, obj: Any, light: Any) -> Any:
        """The slices (S, y, x) that follow from the phases of `obj`; `obj` itself where a phase may have wrapped round.

        What a slice loses does not depend on which of its phases is called 0, here the mean where `light` (S, y, x) falls.
        """
        angle, phase = self.xp.angle(obj), phases(obj, light, self.xp)
        return self.xp.where(_told(angle, self.xp), self.of(phase) * self.xp.exp(1j * (angle - phase)), obj)

    def climb(self, obj: Any, slope: Any, light: Any, size: float) -> Any:
        """A step of both numbers; returns by what the likelihood grows with phases (S, y, x) that the rest follows.

        Args:
            obj: (S, y, x), as `of` made them.
            slope: (S, y, x) conj(O) N.
            light: (S, y, x) Σ|ψ incident|².
            size: part of a Gauss–Newton step in every slice at once.
        """
        kappa, sigma = (self.numbers[i].astype(np.float32) for i in (0, 1))
        phase = phases(obj, light, self.xp) * _told(self.xp.angle(obj), self.xp)
        steps = [_step(-self._absorbed(phase), slope.real, light), self.xp.zeros(())]
        uphill = slope.imag - kappa * self._absorbed(slope.real)
        if self.extended:
            phase = self.seen(phase)
            steps[1] = _step(self._unseen(phase**2), uphill, light)
            uphill = uphill + 2 * sigma * phase * self._unseen(uphill)
        # nothing emits, no atom is blunter than it is seen
        self.numbers = self.xp.maximum(self.numbers + size * self.xp.stack(steps), 0)
        return uphill

    def _absorbed(self, phase: Any) -> Any:
        """Log amplitudes (S, y, x) that phases lose where κ is 1; its own adjoint."""
        return self._filtered(phase, 1) if self.extended else phase

    def _unseen(self, images: Any) -> Any:
        return images - self.seen(images)

    def _filtered(self, images: Any, which: int) -> Any:
        """Images (…, y, x) without what is not resolved (0), or with each frequency times k² (1), 1/Å²."""
        shape = images.shape[-2:]
        if shape not in self._known:
            xp = self.xp
            k = xp.fft.fftfreq(shape[0])[:, None], xp.fft.rfftfreq(shape[1])
            inside = [2 * abs(along) <= part for along, part in zip(k, self.resolved, strict=True)]
            k2 = (k[0] / self.pixel_size[0]) ** 2 + (k[1] / self.pixel_size[1]) ** 2
            self._known = {shape: ((inside[0] & inside[1]).astype(np.float32), k2.astype(np.float32))}
        return self.xp.fft.irfft2(self.xp.fft.rfft2(images) * self._known[shape][which], s=shape).astype(np.float32)


def _told(phase: Any, xp: Any) -> Any:
    """Whether no phase can have wrapped round."""
    return xp.abs(phase).max() < WRAPPED


def _step(change: Any, slope: Any, light: Any) -> Any:
    """What the likelihood adds to a number: a Gauss–Newton step.

    Args:
        change: (S, y, x) by which the phase, or the log amplitude, grows with the number.
        slope: (S, y, x) by which the likelihood grows with it.
        light: (S, y, x) Σ|ψ incident|².
    """
    return (change * slope).sum(dtype=np.float64) / ((change**2 * light).sum(dtype=np.float64) + 1e-30)


def of_slab(k2: Any, thickness: Any, voltage: float) -> Any:
    """What is left of a phase at spatial frequencies k (k² in 1/Å²), when one thin slice stands for a slab: sin(x)/x.

    Atoms z Å above or below the middle of the slab scatter by cos(πλzk²) into the phase seen there. The mean over a slab that
    is filled evenly is sin(x)/x with x = πλk²t/2. Frequencies beyond x = π/2, which the slab hardly shows, are left at 2/π.
    """
    return np.sinc(np.minimum(optics.wavelength(voltage) * thickness * k2 / 2, 0.5))
