"""What is expected of a specimen before a count is looked at: as much power at each spatial frequency as stands out of the noise.

The diffraction-plane limit says how much of a phase image's spectrum is noise, B = 1/(2 dose); what is above is specimen. So
phases have a Gaussian prior whose power P at each frequency is found from the picture itself, by expectation maximisation over
patches of neighbouring frequencies (empirical Bayes; Dempster, Laird & Rubin, J. R. Stat. Soc. B 39 (1977) 1): a frequency
then has the mean x and the variance PB/(P + B), and P is the mean over a patch of |x|² + PB/(P + B). The maximum of the
posterior is found with the proximal step of the accelerated gradient method (Beck & Teboulle, SIAM J. Imaging Sci. 2 (2009)
183), which here is a Wiener filter. At a reflection of a crystal, and wherever else there is signal, the prior tells nothing.

Nor does it beyond the frequencies that the detector resolves, where it has been extended. How sharp atoms are shows there only in
what they leave of the lower ones. It is found slowly, would be taken for nothing, and what is left would be too weak: 0.5 % on
bilayer MoS₂, which at 1e5 e/Å² is 0.2 of the limit.

It is used in two ways.

- Always, for what slices differ by, each of which has its share of the summed phase's power. Which slice a phase
  belongs to is seen by far fewer electrons than the phase itself: at 1 1/Å and 6 Å from slice to slice the difference of two has
  ten times the noise of their sum, below 0.5 1/Å a hundred times, and that of free slices enters their sum (Cramér–Rao bounds
  with and without the difference known: `tests/benchmarks/information.py`, printed by `make limit`).
- On request (`regularise`), for the phases themselves. Noise in a reconstruction scatters electrons of its own, among which
  those that the specimen scatters to high angles are lost. A filter comes too late for them.

Runs on NumPy and CuPy arrays alike and never waits for the device.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from agent.reconstruction import transmission
from agent.reconstruction.depth import DAMPING, Depths

LIT = 0.5
"""Part of the largest illumination above which the object counts in full."""
PATCH = 5
"""Edge in pixels of a patch of frequencies."""
REAL = 1.3
"""Error power of a reconstruction that has no prior, relative to the diffraction-plane limit; 1.1–1.4, see `make limit`."""
FAINT = 1e-3
"""Smallest amplitude whose logarithm is looked at."""


class Prior:
    """The power of the specimen's phases, and of its absorption, and what follows from it.

    Args:
        xp: array module.
        depths: what is seen of which slice a phase belongs to.
        resolved: (y, x) largest frequency that the detector resolves, as a part of the object grid's Nyquist frequency.
    """

    def __init__(self, xp: Any, depths: Depths, resolved: tuple[float, float] = (1.0, 1.0)) -> None:
        self.xp, self.depths, self.resolved = xp, depths, resolved
        self.power: Any = np.inf
        """(1 or 2, y, x) P of the phase, and of log amplitude, summed over slices, in pixels; infinite: not known yet."""

    def imposed(self, obj: Any, light: Any, size: float, phase_only: bool, regularise: bool) -> Any:
        """The slices (S, y, x) after the proximal step that follows a preconditioned gradient step.

        Args:
            obj: complex transmission.
            light: (S, y, x) Σ|ψ incident|², counts per pixel: what the gradient step was divided by.
            size: fraction of the preconditioned gradient that was taken, shared out between the slices.
            phase_only: whether amplitudes are left as they are.
            regularise: whether sums over slices have a prior, or only what slices differ by.
        """
        xp = self.xp
        phase = transmission.phases(obj, light, xp)
        parts = phase[None] if phase_only else xp.stack([phase, xp.log(xp.maximum(xp.abs(obj), FAINT))])
        parts = parts.astype(np.float32)
        slices, total, noise = len(obj), parts.sum(axis=1), REAL / (2 * light[0].max())
        power = self._seen(total, light[0])
        # of the preconditioner's curvature half is there, half the information is lost
        half = 0.5 * size * noise * (slices / (slices + DAMPING) if phase_only and slices > 1 else 1)
        if regularise:  # where P = |x|² + PB/(P + B) stays; the last step left so much of the sum
            power = power / (1 + half / self.power) ** 2
            power = (power + xp.sqrt(power * (power + 4 * noise))) / 2
        else:
            power = power - noise
        self.power = self._where_resolved(xp.maximum(power, 1e-3 * noise))
        change = xp.zeros_like(parts)
        if slices > 1:
            change += self._towards_each_other(parts - total[:, None] / slices, size * noise, phase_only)
        if regularise:
            gain = 1 / (1 + half / self.power[..., : obj.shape[-1] // 2 + 1])
            change += (self._filtered(total, gain) - total)[:, None] / slices
        # which phase of a slice is called 0 is not seen: it would drift with the momentum until phases wrap round
        change[0] = transmission.without_mean(change[0], light) * (xp.abs(phase).max() < transmission.WRAPPED)
        return obj * xp.exp(1j * change[0] if phase_only else change[1] + 1j * change[0]).astype(np.complex64)

    def _towards_each_other(self, differences: Any, noise: Any, phase_only: bool) -> Any:
        """By how much (…, S, y, x) what slices differ by changes; they add up to nothing."""
        slices, columns = differences.shape[1], differences.shape[-1] // 2 + 1
        pull = 0.5 * noise * slices / self.power[..., :columns]
        if phase_only:
            left = self.depths.filtered(differences[0], lambda seen: (seen + DAMPING) / (seen + DAMPING + pull[0]))[
                None
            ]
        else:
            left = self._filtered(differences, slices / (slices + pull[:, None]))
        change = left - differences
        return change - change.sum(axis=1, keepdims=True) / slices

    def _filtered(self, images: Any, gain: Any) -> Any:
        return self.xp.fft.irfft2(self.xp.fft.rfft2(images) * gain.astype(np.float32), s=images.shape[-2:])

    def _where_resolved(self, power: Any) -> Any:
        """`power` (…, y, x), made infinite beyond the frequencies that the detector resolves."""
        for axis, part in zip((-2, -1), self.resolved, strict=True):
            n = power.shape[axis]
            last = int(part * n / 2)
            self.xp.moveaxis(power, axis, -1)[..., last + 1 : n - last] = np.inf
        return power

    def _seen(self, images: Any, light: Any) -> Any:
        """Power spectra of images (…, y, x), means over patches of frequencies."""
        xp = self.xp
        weight = self._window(light)
        mean = (images * weight).sum(axis=(-2, -1), keepdims=True) / weight.sum()
        power = xp.abs(xp.fft.fft2((images - mean) * weight)) ** 2 / (weight**2).sum()
        for axis in (-2, -1):
            power = sum(xp.roll(power, shift, axis=axis) for shift in range(-(PATCH // 2), PATCH // 2 + 1)) / PATCH
        return power

    def _window(self, light: Any) -> Any:
        """(y, x) 0 … 1, a half-wave of a sine along either axis of what is lit.

        A picture that ends abruptly has power along both axes of every reflection, in which noise would be taken for signal.
        """
        xp = self.xp
        weight = xp.minimum(light / (LIT * light.max()), 1)
        for axis in (0, 1):
            share = xp.cumsum(light.sum(axis=1 - axis))
            weight = weight * xp.expand_dims(xp.sin(np.pi * share / share[-1]), 1 - axis)
        return weight.astype(np.float32)
