"""Diffraction patterns from a file: an acquisition of ours, a recording in HDF5 (EMD 1.0 included), a bare array."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.errors import BadInputError
from agent.reconstruction.bright_field import fit_disc
from agent.reconstruction.types import DiffractionData
from instrument import optics
from instrument.recording import RecordingError, open_recording

NUMBERS = ("voltage", "semiangle", "angular_pixel", "step", "defocus")
"""What may be given where a file does not say it: eV, mrad, mrad per pixel, Å, Å (positive for underfocus)."""


@dataclass(frozen=True)
class PatternFile:
    """Diffraction patterns as a file has them, not calibrated beyond what it says.

    Attributes:
        data: the patterns that were received, in scan order, with positions and optics.
        scan_shape: (scan_y, scan_x) where `data` is a complete raster; None otherwise.
        step: scan step size, Å.
        geometry_known: whether `data.detector_to_scan` and `data.defocus` are more than a guess.
    """

    data: DiffractionData
    scan_shape: tuple[int, int] | None
    step: float
    geometry_known: bool


def read_patterns(path: Path, *, dataset: str | None = None, **given: float) -> PatternFile:
    """Read a 4D data set.

    Args:
        path: acquisition file of a campaign, HDF5 file with a 4D data set, or .npy.
        dataset: path of the data set in an HDF5 file with several.
        given: any of NUMBERS; overrules the file. `angular_pixel` may be missing (the disc is `semiangle` wide), and so may
            `defocus` (0; parallax finds it).

    Raises:
        BadInputError: no such file, damaged, not four-dimensional, a number missing or not positive; one sentence.
    """
    for name, value in given.items():
        if name not in NUMBERS:
            msg = f"{name} is not a number of a recording; legal: {', '.join(NUMBERS)}"
            raise BadInputError(msg)
        if not math.isfinite(value) or (name != "defocus" and value <= 0):
            msg = f"--{name.replace('_', '-')} {value:g} is not possible; legal: a positive number"
            raise BadInputError(msg)
    if not path.is_file():
        msg = f"{path}: there is no such file"
        raise BadInputError(msg)
    if path.suffix == ".npy":
        return _assemble(path, _read_array(path), given)
    if is_acquisition(path):
        return _from_acquisition(path, given)
    try:
        with open_recording(path, dataset) as recording:
            return _assemble(path, recording.read(), {**recording.numbers, **given})
    except RecordingError as error:
        raise BadInputError(str(error)) from error


def _read_array(path: Path) -> NDArray[Any]:
    try:
        patterns = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        msg = f"{path}: not a NumPy array file that can be read"
        raise BadInputError(msg) from error
    if patterns.ndim != 4 or patterns.dtype.kind not in "uif":
        msg = f"{path}: holds {patterns.ndim}-dimensional {patterns.dtype}, not four-dimensional counts"
        raise BadInputError(msg)
    return np.asarray(patterns)


def is_acquisition(path: Path) -> bool:
    """Whether a campaign of this program has written the file; False for what cannot be opened."""
    import h5py

    try:
        with h5py.File(path, "r") as file:
            return "entry/measurement/patterns" in file
    except OSError:
        return False


def _from_acquisition(path: Path, given: dict[str, float]) -> PatternFile:
    from agent.store import read_acquisition

    acquisition = read_acquisition(path)
    plan, description, received = acquisition.plan, acquisition.description, acquisition.received
    if not received.any():
        msg = f"{path}: no pattern of this acquisition arrived"
        raise BadInputError(msg)
    mask = np.ones(description.detector.shape, dtype=bool)
    for row, column in description.detector.dead_pixels:
        mask[row, column] = False
    known = description.scan_rotation is not None and description.mirrored is not None
    step = given.get("step", plan.step)
    data = DiffractionData(
        patterns=acquisition.patterns[received],
        positions=plan.scan_positions()[received] * (step / plan.step),
        voltage=given.get("voltage", description.voltage),
        semiangle=given.get("semiangle", description.semiangle),
        angular_pixel=given.get("angular_pixel", description.detector.angular_pixel),
        defocus=given.get("defocus", plan.defocus),
        detector_to_scan=optics.detector_to_scan(description.scan_rotation or 0.0, bool(description.mirrored)),
        mask=None if mask.all() else mask,
    )
    complete = plan.positions is None and bool(received.all())
    return PatternFile(data, plan.shape if complete else None, step, geometry_known=known)


def _assemble(path: Path, patterns: NDArray[Any], numbers: dict[str, float]) -> PatternFile:
    missing = [name for name in ("voltage", "semiangle", "step") if numbers.get(name, 0) <= 0]
    if missing:
        options = ", ".join(f"--{name}" for name in missing)
        msg = f"{path}: does not say {', '.join(missing)}; give {options}"
        raise BadInputError(msg)
    if not patterns.any() or patterns.min() < 0:
        msg = f"{path}: holds no counts" if not patterns.any() else f"{path}: holds negative counts"
        raise BadInputError(msg)
    n_y, n_x = patterns.shape[:2]
    if numbers.get("angular_pixel", 0) <= 0:
        try:
            disc = fit_disc(patterns.mean(axis=(0, 1)))
        except ValueError as error:
            msg = f"{path}: does not say angular_pixel, and {error}; give --angular-pixel"
            raise BadInputError(msg) from error
        numbers = {**numbers, "angular_pixel": numbers["semiangle"] / disc.radius}
    step = numbers["step"]
    scan = np.stack(np.meshgrid(np.arange(n_y) + 0.5, np.arange(n_x) + 0.5, indexing="ij"), axis=-1)
    data = DiffractionData(
        patterns=patterns.reshape(-1, *patterns.shape[2:]),
        positions=scan.reshape(-1, 2) * step,
        voltage=numbers["voltage"],
        semiangle=numbers["semiangle"],
        angular_pixel=numbers["angular_pixel"],
        defocus=numbers.get("defocus", 0.0),
    )
    return PatternFile(data, (n_y, n_x), step, geometry_known=False)
