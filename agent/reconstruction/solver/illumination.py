"""What each pattern lights of the object: sums over patterns on the object's grid, and over the object for each pattern."""

from __future__ import annotations

from typing import Any

from agent.reconstruction.model.forward import Unknowns


class PatternIllumination:
    """The illumination I_j by every pattern j on the object's grid, shifted by whole pixels only. Arrays of the backend.

    Args:
        unknowns: the windows are theirs.
        apertures: (P, ky, kx) of the probe modes, in the aperture plane, corner-centred.
        intensity: (n,) of each pattern, relative to what the apertures pass.
        xp: array module.
    """

    def __init__(self, unknowns: Unknowns, apertures: Any, intensity: Any, xp: Any) -> None:
        self.xp, self.intensity = xp, intensity
        self.shape = unknowns.object.shape[1:]
        nearest = xp.rint(unknowns.corners + unknowns.subpixel_shifts).astype(xp.int64)
        self.index = nearest[:, 0] * self.shape[1] + nearest[:, 1]
        waves = xp.fft.fftshift(xp.fft.ifft2(apertures, norm="ortho"), axes=(1, 2))
        kernel = xp.zeros(self.shape, xp.float32)
        kernel[: waves.shape[1], : waves.shape[2]] = (xp.abs(waves) ** 2).sum(axis=0)
        self.kernel = xp.fft.rfft2(kernel)

    def spread(self, values: Any) -> Any:
        """Σ_j value_j I_j (y, x) of values (n,)."""
        xp = self.xp
        hits = xp.bincount(self.index, weights=values * self.intensity, minlength=self.shape[0] * self.shape[1])
        return xp.fft.irfft2(xp.fft.rfft2(hits.reshape(self.shape)) * self.kernel, s=self.shape)

    def seen(self, image: Any) -> Any:
        """Σ_r I_j(r) image(r) of every pattern (n,), of an image (y, x)."""
        xp = self.xp
        total = xp.fft.irfft2(xp.fft.rfft2(image) * self.kernel.conj(), s=self.shape)
        return total.ravel()[self.index] * self.intensity
