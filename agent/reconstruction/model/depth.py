"""How much the counts tell of the slice that a phase belongs to.

To first order the curvature of the likelihood couples slices i and j, at spatial frequency k, by H_ij = cos(πλk²(z_i − z_j))
times the illumination (README of this room). H has two eigenvalues above 0, (S ± |Σ exp(2iπλk²z)|)/2, whose vectors are a
cosine and a sine of πλk²z. Steps are divided by them.

Runs on NumPy and CuPy arrays alike and never waits for the device.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

DAMPING = 1.0
"""Added to the eigenvalues that steps are divided by: what is invisible to first order is visible to second. With 0.3 the noise
of bilayer MoS₂ grows sooner than its bias falls; with 3 all passes go to the bias."""


class Depths:
    """The eigenvectors of H for slices at given depths.

    Args:
        xp: array module.
        depths: (S,) Å below the first slice.
        wavelength: Å.
        pixel_size: (y, x) Å.
    """

    def __init__(
        self, xp: Any, depths: NDArray[np.float64], wavelength: float, pixel_size: tuple[float, float]
    ) -> None:
        self.xp, self.depths, self.wavelength, self.pixel_size = xp, depths, wavelength, pixel_size
        self._known: dict[tuple[int, int], list[tuple[Any, Any]]] = {}

    def filtered(self, images: Any, gain: Callable[[Any], Any]) -> Any:
        """gain(H) applied to images.

        Args:
            images: (…, S, y, x) real, float32.
            gain: from eigenvalues of H, 0 or (y, x//2 + 1) in the layout of `rfft2`, to factors.

        Returns:
            (…, S, y, x) float32.
        """
        shape = images.shape[-2:]
        spectra = self.xp.fft.rfft2(images)
        rest = gain(0.0)
        out = spectra * rest
        for vector, value in self._eigen(shape):
            out += vector * ((gain(value) - rest) * (spectra * vector).sum(axis=-3))[..., None, :, :]
        return self.xp.fft.irfft2(out, s=shape)

    def _eigen(self, shape: tuple[int, int]) -> list[tuple[Any, Any]]:
        """Twice a unit eigenvector (S, y, x//2 + 1) of H and its eigenvalue (y, x//2 + 1), on the device."""
        if shape not in self._known:
            k_y, k_x = np.fft.fftfreq(shape[0], self.pixel_size[0]), np.fft.rfftfreq(shape[1], self.pixel_size[1])
            angles = np.pi * self.wavelength * (k_y[:, None] ** 2 + k_x**2) * self.depths[:, None, None]
            both = np.exp(2j * angles).sum(axis=0)
            turned = angles - np.angle(both) / 2
            pairs = []
            for vector in (np.cos(turned), np.sin(turned)):
                value = (vector**2).sum(axis=0)
                unit = vector / np.sqrt(np.maximum(value, 1e-12))
                pairs.append((self.xp.asarray(unit.astype(np.float32)), self.xp.asarray(value.astype(np.float32))))
            self._known = {shape: pairs}
        return self._known[shape]
