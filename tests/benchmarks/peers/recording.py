"""A benchmark recording as every environment reads it: numpy and h5py only, so that it runs beside each peer."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Recording:
    """Simulated patterns and what is known of them; lengths in Å, angles in mrad, frequencies in 1/Å.

    Attributes:
        path: of the HDF5 file.
        patterns: (scan_y, scan_x, ky, kx) counts, uint16, zero beam at index N//2.
        truth: (y, x) rad, true phase of the periodic specimen on the reconstruction's grid.
        voltage: eV.
        semiangle: mrad.
        c10: Å, positive for overfocus; DiffractionData.defocus is −c10.
        step, pixel_size, wavelength, scan_start: Å; `scan_start` is the first position on both axes of `truth`.
        frequency_pixel: 1/Å per detector pixel.
        angular_pixel: mrad per detector pixel.
        dose: e/Å².
    """

    path: Path
    patterns: NDArray[np.uint16]
    truth: NDArray[np.float64]
    voltage: float
    semiangle: float
    c10: float
    step: float
    pixel_size: float
    wavelength: float
    scan_start: float
    frequency_pixel: float
    angular_pixel: float
    dose: float

    @property
    def n(self) -> int:
        """Positions along one edge of the square scan."""
        return self.patterns.shape[0]

    @property
    def positions(self) -> NDArray[np.float64]:
        """(n², 2), (y, x), Å, from the first position on."""
        edge = np.arange(self.n) * self.step
        return np.stack(np.meshgrid(edge, edge, indexing="ij"), axis=-1).reshape(-1, 2)

    @property
    def flat_patterns(self) -> NDArray[np.uint16]:
        """(n², ky, kx)."""
        return self.patterns.reshape(-1, *self.patterns.shape[2:])

    def probe(self, total: float) -> NDArray[np.complex64]:
        """(y, x), real space, centred at N//2, Σ|probe|² = `total`: the true aperture and defocus."""
        n = self.patterns.shape[-1]
        k = np.fft.fftfreq(n, self.pixel_size)
        k2 = k[:, None] ** 2 + k[None, :] ** 2
        edge = (self.semiangle - 1e3 * self.wavelength * np.sqrt(k2)) / self.angular_pixel + 0.5
        wave = np.clip(edge, 0, 1) * np.exp(-1j * np.pi * self.wavelength * self.c10 * k2)
        real = np.fft.fftshift(np.fft.ifft2(wave))
        return (real * np.sqrt(total / (np.abs(real) ** 2).sum())).astype(np.complex64)


def read(path: str | Path) -> Recording:
    """Read a file that data.py has written."""
    import h5py

    with h5py.File(path) as file:
        numbers: dict[str, Any] = {name: float(value) for name, value in file.attrs.items()}
        return Recording(Path(path), file["patterns"][:], file["true_phase"][:].astype(np.float64), **numbers)
