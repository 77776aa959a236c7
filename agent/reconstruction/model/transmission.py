"""What slices do to a wave: they shift its phase, and the rest of the transmission follows from that phase by two numbers.

A law with the numbers κ and σ, found from the counts like every other unknown, gives each slice its amplitude, and its phase
beyond the detector's edge. What the law is, and why, is in the README of this room. Absorptive potential V' = κV: Hashimoto,
Howie & Whelan, Proc. R. Soc. Lond. A 269 (1962) 80.

Runs on NumPy and CuPy arrays alike and never waits for the device.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from instrument import optics

WRAPPED = 0.9 * np.pi
"""Phase of a slice beyond which it may have wrapped round, so that its spectrum means nothing."""

MOST_LOST = 2.0
"""Log amplitude at which a slice is cut off: with positions in another unit the absorption of the phases would overflow."""


def phases(obj: Any, illumination: Any, xp: Any) -> Any:
    """Phases of slices, less each slice's mean over what is illuminated.

    Args:
        obj: (S, y, x) complex transmission.
        illumination: (S, y, x) Σ|ψ incident|².
        xp: array module.

    Returns:
        (S, y, x) rad.
    """
    return without_mean(xp.angle(obj), illumination)


def without_mean(images: Any, illumination: Any) -> Any:
    """Images (S, y, x), less each one's mean weighted with `illumination` (S, y, x)."""
    return images - (images * illumination).sum(axis=(1, 2), keepdims=True) / illumination.sum(
        axis=(1, 2), keepdims=True
    )


class TransmissionLaw:
    """How slices follow from the resolved frequencies of their phases.

    Args:
        xp: array module.
        pixel_size: (y, x), Å.
        resolved: (y, x) largest frequency that the detector resolves, as a part of the object grid's Nyquist frequency; 1 where
            the detector is not extended.

    Attributes:
        numbers: (2,) κ and σ, not below 0, on the device.
        extended: whether the detector is extended.
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
        """The slices that follow from phases.

        Args:
            phase: (S, y, x) rad; only its resolved frequencies matter.

        Returns:
            (S, y, x) complex64.
        """
        kappa, sigma = (self.numbers[i].astype(np.float32) for i in (0, 1))
        if self.extended:
            phase = self.seen(phase)
            phase = phase + sigma * self._unseen(phase**2)
        lost = self.xp.clip(kappa * self._absorbed(phase), -MOST_LOST, MOST_LOST)
        return self.xp.exp(1j * phase - lost).astype(np.complex64)

    def imposed(self, obj: Any, illumination: Any) -> Any:
        """The slices that follow from the phases of others.

        The mean phase of a slice is unobservable and must not change what it absorbs, so the law sees the phase less its mean.

        Args:
            obj: (S, y, x) complex transmission.
            illumination: (S, y, x) Σ|ψ incident|².

        Returns:
            (S, y, x) complex64; `obj` itself where a phase may have wrapped round.
        """
        angle, phase = self.xp.angle(obj), phases(obj, illumination, self.xp)
        return self.xp.where(_unwrapped(angle, self.xp), self.of(phase) * self.xp.exp(1j * (angle - phase)), obj)

    def take_step(self, obj: Any, slope: Any, illumination: Any, size: float) -> Any:
        """Take a step of both numbers.

        Args:
            obj: (S, y, x), as `of` made them.
            slope: (S, y, x) conj(O) N.
            illumination: (S, y, x) Σ|ψ incident|².
            size: part of a Gauss–Newton step in every slice at once.

        Returns:
            (S, y, x) by what the likelihood grows with the phases, where the rest of each slice follows them.
        """
        kappa, sigma = (self.numbers[i].astype(np.float32) for i in (0, 1))
        phase = phases(obj, illumination, self.xp) * _unwrapped(self.xp.angle(obj), self.xp)
        steps = [_step(-self._absorbed(phase), slope.real, illumination), self.xp.zeros(())]
        uphill = slope.imag - kappa * self._absorbed(slope.real)
        if self.extended:
            phase = self.seen(phase)
            steps[1] = _step(self._unseen(phase**2), uphill, illumination)
            uphill = uphill + 2 * sigma * phase * self._unseen(uphill)
        # no slice emits electrons, and no atom is blunter than it is seen
        self.numbers = self.xp.maximum(self.numbers + size * self.xp.stack(steps), 0)
        return uphill

    def _absorbed(self, phase: Any) -> Any:
        """Log amplitudes (S, y, x) that phases lose where κ is 1; its own adjoint."""
        return self._filtered(phase, 1) if self.extended else phase

    def _unseen(self, images: Any) -> Any:
        return images - self.seen(images)

    def _filtered(self, images: Any, which: int) -> Any:
        """Images (…, y, x) without the unresolved frequencies (`which` 0), or with each frequency times k² in 1/Å² (1)."""
        shape = images.shape[-2:]
        if shape not in self._known:
            xp = self.xp
            k = xp.fft.fftfreq(shape[0])[:, None], xp.fft.rfftfreq(shape[1])
            inside = [2 * abs(along) <= part for along, part in zip(k, self.resolved, strict=True)]
            k2 = (k[0] / self.pixel_size[0]) ** 2 + (k[1] / self.pixel_size[1]) ** 2
            self._known = {shape: ((inside[0] & inside[1]).astype(np.float32), k2.astype(np.float32))}
        return self.xp.fft.irfft2(self.xp.fft.rfft2(images) * self._known[shape][which], s=shape).astype(np.float32)


def _unwrapped(phase: Any, xp: Any) -> Any:
    """Whether no phase can have wrapped round."""
    return xp.abs(phase).max() < WRAPPED


def _step(change: Any, slope: Any, illumination: Any) -> Any:
    """A Gauss–Newton step of one number.

    Args:
        change: (S, y, x) by which the phase, or the log amplitude, grows with the number.
        slope: (S, y, x) by which the likelihood grows with it.
        illumination: (S, y, x) Σ|ψ incident|².
    """
    return (change * slope).sum(dtype=np.float64) / ((change**2 * illumination).sum(dtype=np.float64) + 1e-30)


def of_slab(k2: Any, thickness: Any, voltage: float) -> Any:
    """What is left of a phase when one thin slice stands for a slab: sin(x)/x.

    Atoms z Å above or below the middle of the slab scatter by cos(πλzk²) into the phase seen there. The mean over a slab that
    is filled evenly is sin(x)/x with x = πλk²t/2. Frequencies beyond x = π/2, which the slab hardly shows, are left at 2/π.

    Args:
        k2: squares of the spatial frequencies, 1/Å².
        thickness: t, Å.
        voltage: eV.

    Returns:
        Factors of the shape of `k2`.
    """
    return np.sinc(np.minimum(optics.wavelength(voltage) * thickness * k2 / 2, 0.5))
