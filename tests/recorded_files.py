"""What tests of recordings begin with: small files, and what a program gets of them."""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from instrument import optics
from instrument.recordings import RecordingOptions, counts_of, read_recording

UNSTATED = RecordingOptions()
NUMBERS = {"voltage": 80e3, "semiangle": 20.0, "step": 0.5, "angular_pixel": 2.5}
SCAN = RecordingOptions(scan_shape=(2, 3))


@dataclass(frozen=True)
class Read:
    """What a program gets of a file."""

    patterns: NDArray[Any]
    scan_shape: tuple[int, ...]
    numbers: dict[str, float]
    notes: tuple[str, ...]


def read(path: Path, options: RecordingOptions = UNSTATED, **numbers: float) -> Read:
    recording = read_recording(path, replace(options, numbers=numbers))
    known = recording.require("voltage", "semiangle", "step")
    counts = counts_of(recording)
    return Read(counts.patterns, recording.patterns.shape[:2], known, (*recording.notes, *counts.notes))


def pixels(dtype: str, shape: tuple[int, int] = (16, 64)) -> NDArray[Any]:
    """(6, *shape) counts, every one different from its neighbours."""
    highest = min(np.iinfo(dtype).max, 4095)
    return np.random.default_rng(1).integers(1, highest, (6, *shape), endpoint=True).astype(dtype)


def npy_of(counts: NDArray[Any]) -> bytes:
    """Version 1.0 of the format: magic, length of the header, a dict in text padded with spaces, the numbers."""
    header = f"{{'descr': '{counts.dtype.str}', 'fortran_order': False, 'shape': {counts.shape}, }}".encode()
    header = header.ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + counts.tobytes()


def write_array(path: Path, name: str, data: NDArray[Any], attributes: dict[str, Any] | None = None) -> Path:
    """An HDF5 file with one array, and attributes of the file."""
    with h5py.File(path, "w") as file:
        file[name] = data
        file.attrs.update(attributes or {})
    return path


def scan_of_atoms() -> NDArray[np.uint16]:
    """(14, 20, 32, 32) counts: 40 Gaussian atoms, 80 kV, 20 mrad, +200 Å, 1.5 Å steps, 2e4 electrons a pattern."""
    rng, n, step = np.random.default_rng(0), 32, 1.5
    pixel = optics.pixel_size(2.0, n, 80e3)
    wavelength = optics.wavelength(80e3)
    k = np.fft.fftfreq(n, pixel)
    k_squared = k[:, None] ** 2 + k**2
    aperture = np.sqrt(k_squared) * wavelength < 20e-3
    probe = np.fft.fftshift(np.fft.ifft2(aperture * np.exp(1j * np.pi * wavelength * 200.0 * k_squared)))
    atoms, heights = rng.uniform(-2, 32, (40, 2)), rng.uniform(0.15, 0.35, 40)
    grid = (np.arange(n) - n // 2) * pixel
    patterns = np.empty((14, 20, n, n), np.uint16)
    for row, column in np.ndindex(14, 20):
        y, x = grid + (row + 0.5) * step, grid + (column + 0.5) * step
        across = np.exp(-((y - atoms[:, :1]) ** 2) / (2 * 0.9**2)) * heights[:, None]
        along = np.exp(-((x - atoms[:, 1:]) ** 2) / (2 * 0.9**2))
        intensity = abs(np.fft.fftshift(np.fft.fft2(probe * np.exp(1j * across.T @ along)))) ** 2
        patterns[row, column] = rng.poisson(2e4 * intensity / intensity.sum())
    return patterns


def mib_header(number: int, width: int, height: int, kind: str, layout: str = "1x1", depth: int = 12) -> bytes:
    """384 bytes as Merlin 0.75 writes them."""
    text = (
        f"MQ1,{number:06d},00384,01,{width:04d},{height:04d},{kind},   {layout},01,2024-05-18 16:51:49.971626,0.000555,0,0,0,"
        f"1.200000E+2,5.110000E+2,3RX,175,511,MQ1A,2024-05-18T14:51:49.971626178Z,555000ns,{depth},"
    )
    return text.encode("ascii").ljust(384)
