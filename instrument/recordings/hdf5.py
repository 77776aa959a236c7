"""Recorded 4D data sets in HDF5: where the patterns are and what the file says of how they came about.

Understands a plain file with one four-dimensional data set and descriptive attributes, and EMD 1.0 as py4DSTEM writes
it (axes in `dim0` … `dim3` with units). Needs h5py, which the base install does not bring.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from instrument import optics
from instrument.errors import InstrumentError


class RecordingError(InstrumentError):
    """A file is not a recording, is damaged, or lacks a number. The message is one sentence."""

    code = "RECORDING"


NUMBERS: dict[str, dict[str, float]] = {
    "voltage": {
        "accelerating_voltage_V": 1,
        "voltage_V": 1,
        "voltage": 1,
        "beam_energy": 1,
        "accelerating_voltage_kV": 1e3,
    },
    "semiangle": {"semiangle_mrad": 1, "semiangle": 1, "convergence_semiangle_mrad": 1, "semiconvergence_angle": 1},
    "angular_pixel": {"angular_pixel_mrad": 1, "angular_pixel": 1, "angular_sampling_mrad": 1},
    "step": {"scan_step_A": 1, "scan_step": 1, "step": 1, "scan_step_nm": 10},
    "defocus": {
        "defocus": 1,
        "defocus_A": 1,
        "nominal_defocus_A": 1,
        "nominal_defocus_magnitude_A": 1,
        "defocus_nm": 10,
    },
    "counts_per_electron": {"counts_per_electron": 1},
}
"""What a recording may say -> names of attributes that say it and their factor to eV, mrad, Å."""


@dataclass(frozen=True)
class Recording:
    """A four-dimensional data set in an open file.

    Attributes:
        path: of the file.
        data: h5py data set (scan_y, scan_x, detector_y, detector_x).
        numbers: those of NUMBERS that the file states; eV, mrad, Å.
    """

    path: Path
    data: Any
    numbers: dict[str, float] = field(default_factory=dict)

    def read(self) -> NDArray[Any]:
        """All patterns. Raises RecordingError where the file is damaged."""
        try:
            return np.asarray(self.data[...])
        except OSError as error:
            msg = f"{self.path}: {self.data.name} cannot be read to its end, so the file is damaged"
            raise RecordingError(msg) from error


@contextmanager
def open_recording(path: Path, dataset: str | None = None) -> Iterator[Recording]:
    """Open `path` for reading; `dataset` names the data set where there are several.

    Raises RecordingError where there is no such file, it is not HDF5, is truncated, or has no four-dimensional data set.
    """
    import h5py

    if not path.is_file():
        msg = f"{path}: there is no such file"
        raise RecordingError(msg)
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        reason = "is truncated" if "truncated" in str(error) else "is not an HDF5 file that can be read"
        msg = f"{path}: {reason}, so it is not a recording"
        raise RecordingError(msg) from error
    with file:
        data = _find_dataset(file, path, dataset)
        yield Recording(path, data, _numbers(file, data))


def _find_dataset(file: Any, path: Path, name: str | None) -> Any:
    import h5py

    found: dict[str, Any] = {}

    def visit(key: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset) and item.ndim == 4 and item.dtype.kind in "uif":
            found["/" + key] = item

    file.visititems(visit)
    if name is not None:
        wanted = found.get("/" + name.strip("/"))
        if wanted is None:
            msg = f"{path}: {name} is not a four-dimensional data set; there is {', '.join(found) or 'none'}"
            raise RecordingError(msg)
        return wanted
    if not found:
        msg = f"{path}: holds no four-dimensional data set (scan_y, scan_x, detector_y, detector_x), so it is not a recording"
        raise RecordingError(msg)
    largest = max(item.size for item in found.values())
    candidates = [key for key, item in found.items() if item.size == largest]
    if len(candidates) > 1:
        msg = f"{path}: several data sets could be meant ({', '.join(candidates)}); name one"
        raise RecordingError(msg)
    return found[candidates[0]]


def _numbers(file: Any, data: Any) -> dict[str, float]:
    """Attributes from the file down to the data set, the nearer overruling, then EMD axes."""
    stated: dict[str, Any] = {}
    node, nodes = data, [data]
    while node.name != "/":
        node = node.parent
        nodes.append(node)
    for item in reversed(nodes):
        stated.update(item.attrs)
    numbers: dict[str, float] = {}
    for number, names in NUMBERS.items():
        for name, factor in names.items():
            value = _as_float(stated.get(name))
            if value is not None:
                numbers[number] = value * factor
                break
    for number, value in _emd_axes(data, numbers.get("voltage")).items():
        numbers.setdefault(number, value)
    return numbers


def _as_float(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def _emd_axes(data: Any, voltage: float | None) -> dict[str, float]:
    """Scan step and angular pixel from the axis vectors beside an EMD 1.0 array, where their units are known."""
    numbers: dict[str, float] = {}
    for number, axis in (("step", "dim0"), ("angular_pixel", "dim2")):
        vector = data.parent.get(axis)
        if vector is None or vector.shape[0] < 2:
            continue
        spacing = abs(float(vector[1]) - float(vector[0]))
        units = vector.attrs.get("units", "")
        units = units.decode() if isinstance(units, bytes) else str(units)
        factor = {"A": 1.0, "Å": 1.0, "nm": 10.0} if number == "step" else {"mrad": 1.0, "rad": 1e3}
        if units in factor:
            numbers[number] = spacing * factor[units]
        elif number == "angular_pixel" and units in ("A^-1", "1/A", "Å⁻¹") and voltage is not None:
            numbers[number] = spacing * optics.wavelength(voltage) * 1e3
    return numbers
