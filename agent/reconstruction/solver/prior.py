"""What is expected of a specimen before a count is looked at: as much power as stands out of the noise (README, "The prior").

At each spatial frequency and, with `regularise`, in each place; the powers are found from the picture itself (empirical Bayes).
Runs on NumPy and CuPy arrays alike and never waits for the device.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from agent.reconstruction.model import transmission
from agent.reconstruction.model.depth import DAMPING, Depths

LIT = 0.5
"""Part of the largest illumination above which the object counts in full."""
PATCH = 5
"""Edge in pixels of a patch of frequencies."""
NEAR = 2.0
"""Standard deviation of the weights of neighbouring places, in pixels that the detector resolves.

Of fewer, noise alone looks like something in places (thin object of `make limit` at 1e2 e/Å²); of more, bilayer MoS₂ has 0.05
more from 1e3 to 1e5.
"""
NOTED = 0.8
"""Part of a place's |x|² that counts.

So few independent numbers are near a place that noise alone is 1.3 B here, 0.7 B there. Where all of it counts one of six
seeds at 1e2 e/Å² has 1.4 times the error that it has without a prior.
"""
PLACES, UNSEEN = 10.0, 0.1
"""Power of each place, and least power of a frequency, at first, relative to B."""
CONJUGATE = 3
"""Steps of conjugate gradients in each pass towards what is of few places; it goes on from where it was in the last pass."""
REAL = 1.3
"""Error power of a reconstruction that has no prior, relative to the diffraction-plane limit; 1.1–1.4, see `make limit`."""
FAINT = 1e-3
"""Smallest amplitude whose logarithm is looked at."""
LEAST = 1e-3
"""Smallest power of anything, relative to B."""


class Prior:
    """The power of the specimen's phases, and of its absorption, and what follows from it.

    Args:
        xp: array module.
        depths: what is seen of which slice a phase belongs to.
        resolved: (y, x) largest frequency that the detector resolves, as a part of the object grid's Nyquist frequency.
        per_electron: counts of an electron, which make the noise of counts so much larger.
    """

    def __init__(
        self, xp: Any, depths: Depths, resolved: tuple[float, float] = (1.0, 1.0), per_electron: float = 1.0
    ) -> None:
        self.xp, self.depths, self.resolved, self.per_electron = xp, depths, resolved, per_electron
        self.power: Any = np.inf
        """(1 or 2, y, x) P of the phase, and of log amplitude, summed over slices, in pixels; infinite: not known yet."""
        self.places: Any = None
        """(1 or 2, y, x) V of the same; None: nothing is expected of single places, or not yet."""
        self.local: Any = None
        """(1 or 2, y, x) what of the sums over slices is of single places."""
        self._weights: dict[tuple[int, ...], Any] = {}

    def imposed(self, obj: Any, illumination: Any, size: float, phase_only: bool, regularise: bool) -> Any:
        """The slices (S, y, x) after the proximal step that follows a preconditioned gradient step.

        Args:
            obj: complex transmission.
            illumination: (S, y, x) Σ|ψ incident|², counts per pixel: what the gradient step was divided by.
            size: fraction of the preconditioned gradient that was taken, shared out between the slices.
            phase_only: whether amplitudes are left as they are.
            regularise: whether sums over slices have a prior, or only what slices differ by.
        """
        xp = self.xp
        phase = transmission.phases(obj, illumination, xp)
        parts = phase[None] if phase_only else xp.stack([phase, xp.log(xp.maximum(xp.abs(obj), FAINT))])
        parts = parts.astype(np.float32)
        slices, total, noise = len(obj), parts.sum(axis=1), REAL * self.per_electron / (2 * illumination[0].max())
        change = xp.zeros_like(parts)
        if regularise:
            # of the preconditioner's curvature half is there, half the information is lost
            half = 0.5 * size * noise * (slices / (slices + DAMPING) if phase_only and slices > 1 else 1)
            change -= self._unexpected(total, illumination[0], half, noise)[:, None] / slices
        else:
            self.power = self._kept(self._seen(total, illumination[0]) - noise, LEAST * noise)
        if slices > 1:
            change += self._towards_each_other(
                parts - total[:, None] / slices, size * noise, illumination[0], phase_only
            )
        # which phase of a slice is called 0 is not seen: it would drift with the momentum until phases wrap round
        change[0] = transmission.without_mean(change[0], illumination) * (xp.abs(phase).max() < transmission.WRAPPED)
        return obj * xp.exp(1j * change[0] if phase_only else change[1] + 1j * change[0]).astype(np.complex64)

    def _unexpected(self, total: Any, illumination: Any, half: Any, noise: Any) -> Any:
        """By how much (…, y, x) sums over slices become less in the proximal step, h (P + V + h)⁻¹ x; both powers follow.

        With v of single places and the rest c: c + v + hz = x, c = Pz, v = Vz. So (1/V + 1/(P + h)) v = x/(P + h), the first in
        places, the second in frequencies.

        Args:
            total: (…, y, x) x.
            illumination: (y, x).
            half: h, power of the noise relative to what a step is to a whole one.
            noise: B.
        """
        xp = self.xp
        # at first, and where patterns that came later need more room
        if self.places is None or self.places.shape != total.shape:
            self._begin(total, illumination, half, noise)
        inverse = 1 / (self.power[..., : total.shape[-1] // 2 + 1] + half)
        self.local = self._of_places(total, inverse)
        less = half * self._filtered(total - self.local, inverse)
        beside_places = illumination.sum() / _sum(illumination / (self.places + noise))
        beside_power = 1 / (1 / (self.power + noise)).mean(axis=(-2, -1), keepdims=True)
        seen = self._seen(total - less - self.local, illumination)
        self.power = self._kept(_that_stays(seen, beside_places, xp), LEAST * noise)
        near = _that_stays(NOTED * self._near(self.local**2), beside_power, xp)
        self.places = xp.maximum(near, LEAST * noise).astype(np.float32)
        return less

    def _begin(self, total: Any, illumination: Any, half: Any, noise: Any) -> None:
        """All places have the same power, and every frequency what stands out of the noise."""
        power = self.power = self._kept(self._seen(total, illumination) - noise, UNSEEN * noise)
        same = PLACES * noise
        self.places = self.xp.zeros_like(total) + same
        self.local = self._filtered(total, same / (same + half + power[..., : total.shape[-1] // 2 + 1]))

    def _of_places(self, total: Any, inverse: Any) -> Any:
        """v (…, y, x), by conjugate gradients from where it was.

        Args:
            total: (…, y, x) x.
            inverse: (…, y, x//2 + 1) 1/(P + h).
        """
        stiff, v = 1 / self.places, self.local
        scale = 1 / (stiff + inverse.mean(axis=(-2, -1), keepdims=True))
        rest = self._filtered(total - v, inverse) - stiff * v
        step = direction = scale * rest
        length = _sum(rest * step)
        for _ in range(CONJUGATE):
            product = self._filtered(direction, inverse) + stiff * direction
            along = length / (_sum(direction * product) + 1e-30)
            v, rest = v + along * direction, rest - along * product
            step = scale * rest
            length, before = _sum(rest * step), length
            direction = step + length / (before + 1e-30) * direction
        return v.astype(np.float32)

    def _towards_each_other(self, differences: Any, noise: Any, illumination: Any, phase_only: bool) -> Any:
        """By how much (…, S, y, x) what slices differ by changes; they add up to nothing."""
        slices, columns = differences.shape[1], differences.shape[-1] // 2 + 1
        power = self.power[..., :columns]
        if self.places is not None:  # for all places the same
            power = power + _sum(self.places * illumination) / illumination.sum()
        pull = 0.5 * noise * slices / power
        if phase_only:
            left = self.depths.filtered(differences[0], lambda seen: (seen + DAMPING) / (seen + DAMPING + pull[0]))[
                None
            ]
        else:
            left = self._filtered(differences, slices / (slices + pull[:, None]))
        change = left - differences
        return change - change.sum(axis=1, keepdims=True) / slices

    def _near(self, images: Any) -> Any:
        """Means of images (…, y, x) over neighbouring places."""
        xp, shape = self.xp, images.shape[-2:]
        if shape not in self._weights:
            k = xp.fft.fftfreq(shape[0])[:, None], xp.fft.rfftfreq(shape[1])
            width = sum((along / part) ** 2 for along, part in zip(k, self.resolved, strict=True))
            self._weights = {shape: xp.exp(-2 * (np.pi * NEAR) ** 2 * width).astype(np.float32)}
        return xp.maximum(self._filtered(images, self._weights[shape]), 0)

    def _kept(self, power: Any, least: Any) -> Any:
        """`power` (…, y, x), at least so much, and infinite beyond the frequencies that the detector resolves."""
        return self._where_resolved(self.xp.maximum(power, least))

    def _filtered(self, images: Any, gain: Any) -> Any:
        return self.xp.fft.irfft2(self.xp.fft.rfft2(images) * gain.astype(np.float32), s=images.shape[-2:])

    def _where_resolved(self, power: Any) -> Any:
        """`power` (…, y, x), made infinite beyond the frequencies that the detector resolves."""
        for axis, part in zip((-2, -1), self.resolved, strict=True):
            n = power.shape[axis]
            last = int(part * n / 2)
            self.xp.moveaxis(power, axis, -1)[..., last + 1 : n - last] = np.inf
        return power

    def _seen(self, images: Any, illumination: Any) -> Any:
        """Power spectra of images (…, y, x), means over patches of frequencies."""
        xp = self.xp
        weight = self._window(illumination)
        mean = (images * weight).sum(axis=(-2, -1), keepdims=True) / weight.sum()
        power = xp.abs(xp.fft.fft2((images - mean) * weight)) ** 2 / (weight**2).sum()
        for axis in (-2, -1):
            power = sum(xp.roll(power, shift, axis=axis) for shift in range(-(PATCH // 2), PATCH // 2 + 1)) / PATCH
        return power

    def _window(self, illumination: Any) -> Any:
        """(y, x) 0 … 1, a half-wave of a sine along either axis of what is lit.

        A picture that ends abruptly has power along both axes of every reflection, in which noise would be taken for signal.
        """
        xp = self.xp
        weight = xp.minimum(illumination / (LIT * illumination.max()), 1)
        for axis in (0, 1):
            share = xp.cumsum(illumination.sum(axis=1 - axis))
            weight = weight * xp.expand_dims(xp.sin(np.pi * share / share[-1]), 1 - axis)
        return weight.astype(np.float32)


def _sum(images: Any) -> Any:
    return images.sum(axis=(-2, -1), keepdims=True)


def _that_stays(power: Any, noise: Any, xp: Any) -> Any:
    """P that is |x|² + PB/(P + B), from |x|² and the variance B of noise."""
    return (power + xp.sqrt(power * (power + 4 * noise))) / 2
