"""Diffraction patterns from a file: an acquisition of ours, HDF5 (EMD 1.0, Nion Swift), .ndata, Merlin MIB, .npy, raw bytes.

Formats that a person meets besides are one import away from .npy. What a file has in one piece (arrays, raw bytes, stored
.ndata, MIB, HDF5 without chunks) comes as a memory map, which needs no memory of its own; the rest is read, into a file
without a name where memory cannot hold it (`instrument.memory.allocate`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.errors import BadInputError
from agent.reconstruction import SEMIANGLES, DiffractionData, fit_disc, selected
from instrument import optics
from instrument.memory import allocate, load_dataset
from instrument.recordings import nion
from instrument.recordings.hdf5 import RecordingError, open_recording
from instrument.recordings.mib import map_mib
from instrument.recordings.raw_arrays import ArrayLayout, map_npy, map_raw

NUMBERS = ("voltage", "semiangle", "angular_pixel", "step", "defocus", "counts_per_electron")
"""What may be given where a file does not say it: eV, mrad, mrad per pixel, Å, Å (positive for underfocus), counts."""
_UNSTATED = ArrayLayout()
_FORMATS: dict[str, Callable[[Path, ArrayLayout], NDArray[Any]]] = {
    ".npy": map_npy,
    ".mib": map_mib,
    ".raw": map_raw,
    ".bin": map_raw,
    ".dat": map_raw,
}
_LEGAL = {
    "voltage": (1e3, 1e7, "eV (--voltage takes kV)"),
    "semiangle": (*SEMIANGLES, "mrad"),
    "step": (1e-3, 1e4, "Å"),
    "defocus": (-1e6, 1e6, "Å"),
}
_CHUNK = 64 * 2**20
"""Bytes of patterns looked at in one go."""


@dataclass(frozen=True)
class PatternFile:
    """Diffraction patterns as a file has them, not calibrated beyond what it says.

    Attributes:
        data: the patterns that were received, in scan order, with positions and optics; `data.patterns` may be a memory map, and
            of either byte order.
        scan_shape: (scan_y, scan_x) where `data` is a complete raster; None otherwise.
        step: scan step size, Å.
        geometry_known: whether `data.detector_to_scan` and `data.defocus` are more than a guess.
    """

    data: DiffractionData
    scan_shape: tuple[int, int] | None
    step: float
    geometry_known: bool


def read_patterns(
    path: Path, *, dataset: str | None = None, layout: ArrayLayout = _UNSTATED, **given: float
) -> PatternFile:
    """Read a 4D data set.

    Args:
        path: acquisition file of a campaign, HDF5 file with a 4D data set, .ndata, .mib, .npy, .raw, .bin or .dat file.
        dataset: path of the data set in an HDF5 file with several.
        layout: shapes and type where the file does not say them (raw bytes, MIB, patterns in a row).
        given: any of NUMBERS; overrules the file. `angular_pixel` may be missing (the disc is `semiangle` wide), and so may
            `defocus` (0; parallax finds it). `counts_per_electron` makes whole electrons of an analogue detector's signal.

    Raises:
        BadInputError: no such file, damaged, not four-dimensional, a number missing or not positive; one sentence.
    """
    _check_given(given)
    if path.is_dir():
        msg = f"{path}: is a folder; name a file in it"
        raise BadInputError(msg)
    if not path.is_file():
        msg = f"{path}: there is no such file"
        raise BadInputError(msg)
    suffix = path.suffix.lower()
    if suffix == ".part":
        msg = f"{path}: is still being written, or what wrote it was stopped; wait for {path.stem}"
        raise BadInputError(msg)
    if suffix in _FORMATS:
        return _assemble(path, _FORMATS[suffix](path, layout), given)
    if suffix.startswith(".ndata"):
        layout.allow_only(path)
        patterns, properties = nion.map_ndata(path)
        return _assemble(path, patterns, {**nion.numbers_in(path, properties), **given})
    layout.allow_only(path)
    if is_acquisition(path):
        return _from_acquisition(path, given)
    return _from_hdf5(path, dataset, given)


def _check_given(given: dict[str, float]) -> None:
    for name, value in given.items():
        if name not in NUMBERS:
            msg = f"{name} is not a number of a recording; legal: {', '.join(NUMBERS)}"
            raise BadInputError(msg)
        if not math.isfinite(value) or (name != "defocus" and value <= 0):
            legal = "a number of Å, positive for underfocus" if name == "defocus" else "a positive number"
            msg = f"--{name.replace('_', '-')} {value:g} is not possible; legal: {legal}"
            raise BadInputError(msg)


def _check_range(path: Path, numbers: dict[str, float]) -> None:
    for name, (low, high, unit) in _LEGAL.items():
        if not low < numbers.get(name, high) <= high:
            msg = (
                f"{path}: {name} of {numbers[name]:g} is not possible; legal: {low:g} … {high:g} {unit}; give --{name}"
            )
            raise BadInputError(msg)


def _from_hdf5(path: Path, dataset: str | None, given: dict[str, float]) -> PatternFile:
    import hdf5plugin  # noqa: F401 (teaches HDF5 the compressions that detectors write)

    try:
        with open_recording(path, dataset) as recording:
            numbers = dict(recording.numbers)
            properties = recording.data.attrs.get("properties")
            if isinstance(properties, str | bytes):
                numbers |= nion.numbers_in(path, nion.read_properties(path, properties))
            try:
                patterns = load_dataset(recording.data)
            except (OSError, ValueError) as error:
                msg = f"{path}: {recording.data.name} cannot be read to its end, so the file is damaged"
                raise BadInputError(msg) from error
            return _assemble(path, patterns, {**numbers, **given})
    except RecordingError as error:
        raise BadInputError(str(error)) from error


def is_acquisition(path: Path) -> bool:
    """Whether a campaign of this program has written the file; False for what cannot be opened."""
    import h5py

    try:
        with h5py.File(path, "r") as file:
            return "entry/measurement/patterns" in file
    except OSError:
        return False


def _from_acquisition(path: Path, given: dict[str, float]) -> PatternFile:
    from agent.storage.acquisition_file import read_acquisition

    _check_range(path, given)
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
        patterns=selected(acquisition.patterns, received),
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
    if patterns.ndim != 4 or patterns.dtype.kind not in "uif":
        msg = f"{path}: holds {patterns.ndim}-dimensional {patterns.dtype}, not four-dimensional counts"
        raise BadInputError(msg)
    missing = [name for name in ("voltage", "semiangle", "step") if numbers.get(name, 0) <= 0]
    if missing:
        options = ", ".join(f"--{name}" for name in missing)
        msg = f"{path}: does not say {', '.join(missing)}; give {options}"
        raise BadInputError(msg)
    _check_range(path, numbers)
    n_y, n_x = patterns.shape[:2]
    if patterns.size == 0:
        msg = f"{path}: holds no counts, its shape is {' × '.join(map(str, patterns.shape))}"
        raise BadInputError(msg)
    flat = patterns.reshape(-1, *patterns.shape[2:])
    if patterns.dtype.kind == "f" and "counts_per_electron" in numbers:
        flat = _whole_electrons(path, flat, numbers["counts_per_electron"])
    mean = _survey(path, flat)
    if numbers.get("angular_pixel", 0) <= 0:
        try:
            disc = fit_disc(mean)
        except ValueError as error:
            msg = f"{path}: does not say angular_pixel, and {error}; give --angular-pixel"
            raise BadInputError(msg) from error
        numbers = {**numbers, "angular_pixel": numbers["semiangle"] / disc.radius}
    step = numbers["step"]
    scan = np.stack(np.meshgrid(np.arange(n_y) + 0.5, np.arange(n_x) + 0.5, indexing="ij"), axis=-1)
    data = DiffractionData(
        patterns=flat,
        positions=scan.reshape(-1, 2) * step,
        voltage=numbers["voltage"],
        semiangle=numbers["semiangle"],
        angular_pixel=numbers["angular_pixel"],
        defocus=numbers.get("defocus", 0.0),
    )
    return PatternFile(data, (n_y, n_x), step, geometry_known=False)


def _chunks(patterns: NDArray[Any]) -> list[slice]:
    """Slices of the first axis, each of about _CHUNK bytes."""
    per_pattern = max(1, math.prod(patterns.shape[1:]) * patterns.dtype.itemsize)
    n = max(1, _CHUNK // per_pattern)
    return [slice(first, first + n) for first in range(0, len(patterns), n)]


def _survey(path: Path, patterns: NDArray[Any]) -> NDArray[np.float64]:
    """Mean pattern (ky, kx) of (n, ky, kx), in one sweep over the file. Raises BadInputError where they are no counts."""
    total = np.zeros(patterns.shape[1:])
    smallest = math.inf
    for part in _chunks(patterns):
        total += patterns[part].sum(axis=0, dtype=np.float64)
        smallest = min(smallest, float(patterns[part].min()))
    if not np.isfinite(total).all():
        msg = f"{path}: holds values that are not numbers; set them to 0 or repair the file"
        raise BadInputError(msg)
    if smallest < 0:
        hint = (
            "give --counts-per-electron, and they become whole electrons"
            if patterns.dtype.kind == "f"
            else "use unsigned"
        )
        msg = f"{path}: holds negative counts (smallest {smallest:g}); {hint}"
        raise BadInputError(msg)
    if not total.any():
        msg = f"{path}: holds no counts"
        raise BadInputError(msg)
    return total / len(patterns)


def _whole_electrons(path: Path, patterns: NDArray[Any], counts_per_electron: float) -> NDArray[np.uint16]:
    """The signal of an analogue detector, rounded to electrons: its noise around nothing, negative too, becomes none."""
    electrons = allocate(patterns.shape, np.uint16)
    most = np.iinfo(np.uint16).max
    for part in _chunks(patterns):
        rounded = np.rint(patterns[part] / counts_per_electron)
        if not rounded.max() <= most:  # also where it is not a number
            worst = f"{rounded.max():g} electrons in a pixel"
            msg = f"{path}: {worst} are not possible; legal: up to {most}; check --counts-per-electron"
            raise BadInputError(msg)
        electrons[part] = np.maximum(rounded, 0)
    return electrons
