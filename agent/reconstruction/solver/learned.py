"""What a reconstruction has learned, apart from its patterns: to predict others with."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from agent.reconstruction.model.geometry import Geometry
from agent.reconstruction.model.transmission import WRAPPED


@dataclass(frozen=True)
class Learned:
    """Object, probe and background of a reconstruction, on the host.

    Attributes:
        object: (S, y, x) complex64.
        apertures: (V, ky, kx) complex64.
        background: (ky, kx) or a scalar, counts.
        geometry: of the object.
    """

    object: NDArray[np.complex64]
    apertures: NDArray[np.complex64]
    background: NDArray[np.float32]
    geometry: Geometry

    def weighted(self, edges: NDArray[np.float64], weight: NDArray[np.float64]) -> Learned:
        """With the Fourier components of the slices' phase and log amplitude weighted ring by ring.

        Where a phase may have wrapped round, those of the transmission are.

        Args:
            edges: (rings + 1,) limits of the rings, 1/Å, rising.
            weight: (rings,); what lies below the first ring stays, what lies beyond the last goes.
        """
        shape, pixel_size = self.object.shape[1:], self.geometry.pixel_size
        ky, kx = (np.fft.fftfreq(n, p) for n, p in zip(shape, pixel_size, strict=True))
        ring = np.digitize(np.hypot(ky[:, None], kx[None, :]), edges)
        kept = np.concatenate([[1.0], weight, [0.0]])[ring]
        logarithm = np.log(np.maximum(np.abs(self.object), 1e-6)) + 1j * np.angle(self.object)
        wrapped = bool(np.abs(logarithm.imag).max() > WRAPPED)
        changes = np.fft.ifft2(np.fft.fft2(self.object - 1 if wrapped else logarithm) * kept)
        return replace(self, object=(1 + changes if wrapped else np.exp(changes)).astype(np.complex64))
