"""The illuminating wave: an aperture with aberrations.

Everything here is in the aperture plane, corner-centred: probe_k (modes, ky, kx), Σ|probe_k|² = counts per pattern.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from instrument import optics


def frequencies(shape: tuple[int, int], angular_pixel: float, voltage: float) -> tuple[Any, Any]:
    """Spatial frequencies of the detector's pixels.

    Args:
        shape: (n_y, n_x) pixels.
        angular_pixel: mrad per pixel.
        voltage: eV.

    Returns:
        ky (n_y, 1) and kx (1, n_x) in 1/Å, corner-centred.
    """
    dk = optics.spatial_frequency(angular_pixel, voltage)
    ky, kx = (np.fft.fftfreq(n, 1.0 / n) * dk for n in shape)
    return ky[:, None], kx[None, :]


def aperture_wave(
    shape: tuple[int, int],
    angular_pixel: float,
    voltage: float,
    semiangle: float,
    aberrations: Mapping[str, float],
    centre_offset: tuple[float, float] = (0.0, 0.0),
    amplitude: NDArray[np.floating] | None = None,
) -> NDArray[np.complex64]:
    """A(k) exp(−iχ(k)), Σ|·|² = 1: round aperture whose edge is one pixel soft (area of the pixel inside the disc).

    Args:
        shape: (ky, kx) pixels.
        angular_pixel: mrad per pixel.
        voltage: eV.
        semiangle: of convergence, mrad.
        aberrations: Krivanek polar coefficients, Å and rad, C10 = −defocus.
        centre_offset: (row, column) displacement of the disc in pixels.
        amplitude: (ky, kx), corner-centred, measured; taken instead of the even disc, to a pixel beyond its edge.

    Returns:
        (ky, kx), corner-centred.
    """
    ky, kx = frequencies(shape, angular_pixel, voltage)
    dk = optics.spatial_frequency(angular_pixel, voltage)
    ky, kx = ky - centre_offset[0] * dk, kx - centre_offset[1] * dk
    edge = (optics.spatial_frequency(semiangle, voltage) - np.hypot(ky, kx)) / dk + 0.5
    disc = np.sqrt(np.clip(edge, 0, 1)) if amplitude is None else amplitude * (edge > -1)
    lit = np.nonzero(disc)
    wave = disc.astype(np.complex128)
    wave[lit] *= np.exp(-1j * optics.aberration_phase(ky[lit[0], 0], kx[0, lit[1]], voltage, aberrations))
    return np.asarray(wave / np.sqrt((np.abs(wave) ** 2).sum())).astype(np.complex64)


def cartesian(aberrations: Mapping[str, float]) -> dict[str, float]:
    """Aberrations from polar to Cartesian notation: C12a = C12 cos 2φ, C12b = C12 sin 2φ, and so on.

    Args:
        aberrations: Å and rad; rotationally symmetric ones stay as they are.
    """
    result = {}
    for name, value in aberrations.items():
        if not name.startswith("C"):
            continue
        n, m = name[1], int(name[2])
        angle = m * aberrations.get(f"phi{n}{m}", 0.0)
        if m == 0:
            result[name] = value
        else:
            result[f"{name}a"], result[f"{name}b"] = value * np.cos(angle), value * np.sin(angle)
    return result


def polar(coefficients: Mapping[str, float]) -> dict[str, float]:
    """Aberrations from Cartesian to polar notation, Å and rad: the inverse of `cartesian`."""
    result = {name: float(value) for name, value in coefficients.items() if len(name) == 3}
    for name in coefficients:
        if name.endswith("a"):
            n, m = name[1], int(name[2])
            a, b = coefficients[name], coefficients[f"C{n}{m}b"]
            result[f"C{n}{m}"] = float(np.hypot(a, b))
            result[f"phi{n}{m}"] = float(np.arctan2(b, a) / m)
    return result


def difference(these: Mapping[str, float], those: Mapping[str, float]) -> dict[str, float]:
    """The aberrations whose phase is that of `these` less that of `those`; all in polar notation, Å and rad."""
    a, b = cartesian(these), cartesian(those)
    return polar({name: a.get(name, 0.0) - b.get(name, 0.0) for name in {**a, **b}})


def orthogonalised(modes: NDArray[np.complex64]) -> NDArray[np.complex64]:
    """The same incoherent sum in orthogonal modes of falling energy (eigenvectors of the Gram matrix).

    Args:
        modes: (m, ky, kx).

    Returns:
        (m, ky, kx).
    """
    flat = modes.reshape(len(modes), -1)
    _, vectors = np.linalg.eigh((flat @ flat.conj().T).astype(np.complex128))
    rotated: NDArray[np.complex64] = (vectors[:, ::-1].conj().T.astype(np.complex64) @ flat).reshape(modes.shape)
    return rotated


def to_real_space(probe_k: NDArray[np.complex64]) -> NDArray[np.complex64]:
    """Apertures as waves in real space; unitary.

    Args:
        probe_k: (modes, ky, kx) in the aperture plane, corner-centred.

    Returns:
        (modes, y, x), centred at N//2.
    """
    return np.fft.fftshift(np.fft.ifft2(probe_k, norm="ortho"), axes=(-2, -1)).astype(np.complex64)


def resized(probe_k: NDArray[Any], shape: tuple[int, int]) -> NDArray[Any]:
    """The same apertures on a detector of more or fewer pixels of the same size.

    Args:
        probe_k: (modes, ky, kx), corner-centred.
        shape: (ky, kx) pixels wanted.

    Returns:
        (modes, ky, kx), corner-centred.
    """
    out = np.zeros((len(probe_k), *shape), probe_k.dtype)
    rows, columns = (
        np.arange(-(min(n, m) // 2), (min(n, m) + 1) // 2) for n, m in zip(probe_k.shape[1:], shape, strict=True)
    )
    out[:, rows[:, None], columns] = probe_k[:, rows[:, None], columns]
    return out
