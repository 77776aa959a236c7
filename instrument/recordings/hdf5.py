"""HDF5: one array of patterns and what its attributes and axes say of it.

Understands plain files (attributes in words of `_ATTRIBUTES`), EMD 1.0 as py4DSTEM writes it and the older EMD 0.2 (axes
`dim0` … or `dim1` …), HyperSpy (.hspy), NeXus (NXdata with axes), Nion Swift (properties as JSON) and MATLAB 7.3. Patterns in a
row, as fold_slice and PtyRAD keep them, need a scan shape. Needs h5py, which the base install does not bring.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from instrument.errors import BadInputError
from instrument.memory import load_dataset
from instrument.recordings import nion
from instrument.recordings.raster import as_raster
from instrument.recordings.recording import Number, Recording, RecordingOptions
from instrument.recordings.units import Axis, axis_numbers, detector_first, equal, number_in

_SIGNATURE = b"\x89HDF\r\n\x1a\n"
_SUFFIXES = (".h5", ".hdf5", ".hdf", ".he5", ".emd", ".nhdf", ".nxs", ".hspy")
_ATTRIBUTES: dict[str, dict[str, float]] = {
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
"""Number -> names of attributes that state it, and their factor to eV, mrad, Å."""
_HYPERSPY = {"voltage": ("beam_energy", 1e3), "semiangle": ("convergence_angle", 1.0)}
"""Number -> attribute of Acquisition_instrument/TEM in HyperSpy's metadata, and its factor to eV, mrad."""


_DAMAGE = (RuntimeError, OSError, KeyError, ValueError, TypeError, OverflowError, MemoryError)
"""What h5py raises for a file that can be opened and whose insides are not what HDF5 allows."""


class Hdf5Format:
    """See `RecordingFormat`."""

    name = "HDF5 (.h5, .emd of EMD and py4DSTEM, .nhdf, .hspy, .nxs, .mat of MATLAB 7.3)"

    def recognises(self, path: Path) -> bool:
        """By the first bytes, which may stand behind a block of the user's, or by the name."""
        return has_signature(path) or path.suffix.lower() in _SUFFIXES

    def read(self, path: Path, options: RecordingOptions) -> Recording:
        """Mapped where the file has the patterns in one piece, otherwise read. See `RecordingFormat.read`."""
        with open_hdf5(path) as file:
            data = _find_dataset(file, path, options.dataset)
            in_a_row = data.ndim == 3 or 1 in data.shape[:2]
            options.allow_only(path, "dataset", *(["scan_shape"] if in_a_row else []))
            axes = _axes(data)
            backwards = detector_first(axes)
            numbers, notes = _numbers(file, path, data, axes[::-1] if backwards else axes, options)
            patterns = read_dataset(path, data)
            if backwards:
                patterns = patterns.transpose()
                notes += ("the file has the detector's axes before the scan's: all four are put in reverse order",)
            elif "MATLAB_class" in data.attrs:  # which counts the first axis fastest: rows and columns come exchanged
                patterns = np.swapaxes(patterns, -1, -2) if data.ndim == 3 else patterns.transpose(1, 0, 3, 2)
        if patterns.ndim == 3 or options.scan_shape is not None:
            flat = patterns.reshape(-1, *patterns.shape[-2:])
            patterns, left_out = as_raster(path, flat, options.scan_shape)
            notes += left_out
        return Recording(path, patterns, numbers, notes=notes)


def has_signature(path: Path) -> bool:
    """Whether a file begins as HDF5 does, at its start or behind a user block of 512, 1024, 2048, … bytes."""
    try:
        with path.open("rb") as file:
            for start in (0, *(512 << i for i in range(8))):
                file.seek(start)
                if file.read(len(_SIGNATURE)) == _SIGNATURE:
                    return True
    except OSError:
        return False
    return False


@contextmanager
def open_hdf5(path: Path) -> Iterator[Any]:
    """Open a file for reading, with the compressions that detectors write.

    Args:
        path: of the file.

    Yields:
        The h5py file.

    Raises:
        BadInputError: h5py is not installed, or the file is locked, truncated, unreadable or no HDF5.
    """
    try:
        import h5py
        import hdf5plugin  # noqa: F401 (teaches HDF5 the compressions)
    except ImportError as error:
        msg = f"{path}: reading HDF5 needs h5py and hdf5plugin; install ptychopilot[agent] or [sim]"
        raise BadInputError(msg) from error
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        msg = f"{path}: {_why_not(error)}"
        raise BadInputError(msg) from error
    try:
        with file:
            yield file
    except _DAMAGE as error:
        msg = f"{path}: is damaged ({error}); take a sound copy"
        raise BadInputError(msg) from error


def _why_not(error: OSError) -> str:
    text = str(error)
    if "unable to lock file" in text or isinstance(error, BlockingIOError):
        return "is open for writing in another program; close it there, or copy the file"
    if "already open for write" in text:
        return "is marked as open for writing: another program still writes it, or was killed; close it there, or run h5clear -s"
    if isinstance(error, PermissionError):
        return "may not be read by you; change its permissions, or copy it"
    if "truncated" in text:
        return "is truncated, so it is not a recording"
    return "is not an HDF5 file that can be read, so it is not a recording"


def read_dataset(path: Path, data: Any) -> NDArray[Any]:
    """All numbers of a data set.

    Args:
        path: the file, for messages.
        data: h5py data set of any shape.

    Returns:
        A memory map where the file has them in one piece, otherwise an array.

    Raises:
        BadInputError: the file is damaged, or compressed in a way that is not known here.
    """
    try:
        return load_dataset(data)
    except (OSError, ValueError) as error:
        reason = "cannot be read to its end, so the file is damaged"
        if "can't open directory" in str(error) or "filter" in str(error):
            reason = "is compressed in a way that is not known here; save it with another compression, or none"
        msg = f"{path}: {data.name} {reason}"
        raise BadInputError(msg) from error


def _find_dataset(file: Any, path: Path, name: str | None) -> Any:
    """The data set that is named, or the largest with four axes, or where there is none the largest with three."""
    import h5py

    found: dict[str, Any] = {}

    def visit(key: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset) and item.ndim in (3, 4) and item.dtype.kind in "uif":
            found["/" + key] = item

    file.visititems(visit)
    raster = {key: item for key, item in found.items() if item.ndim == 4}
    if name is not None:
        wanted = found.get("/" + name.strip("/"))
        if wanted is None:
            msg = f"{path}: {name} is not a four-dimensional data set; there is {', '.join(raster or found) or 'none'}"
            raise BadInputError(msg)
        return wanted
    candidates = raster or found
    if not candidates:
        msg = f"{path}: holds no four-dimensional data set (scan_y, scan_x, detector_y, detector_x), so it is not a recording"
        raise BadInputError(msg)
    largest = max(item.size for item in candidates.values())
    meant = [key for key, item in candidates.items() if item.size == largest]
    if len(meant) > 1:
        msg = f"{path}: several data sets could be meant ({', '.join(meant)}); name one"
        raise BadInputError(msg)
    return candidates[meant[0]]


def _numbers(
    file: Any, path: Path, data: Any, axes: list[Axis], options: RecordingOptions
) -> tuple[dict[str, Number], tuple[str, ...]]:
    """Nion's properties, then attributes, HyperSpy's metadata, axes; and a sentence about what is there and no number."""
    numbers: dict[str, Number] = {}
    properties = data.attrs.get("properties")
    if isinstance(properties, str | bytes):
        numbers |= nion.numbers_in(path, nion.read_properties(path, properties), options)
    stated, unusable = _attributes(data), []
    for number, names in _ATTRIBUTES.items():
        for name in names:
            if number in numbers or name not in stated:
                continue
            value = _stated(path, number, stated[name], options)
            if value is None:
                unusable.append(name)
            else:
                numbers[number] = Number(value * names[name], f"attribute {name}")
    _hyperspy_numbers(file, data, numbers)
    axis_numbers(path, axes, numbers, options, "axes of the file")
    ignored = [name for name in unusable if name != "counts_per_electron"]
    notes = (f"not a number in the file, so not used: {', '.join(ignored)}",) if ignored else ()
    return numbers, notes


def _attributes(data: Any) -> dict[str, Any]:
    """Those of _ATTRIBUTES that a data set or what it lies in has, the nearer overruling."""
    stated: dict[str, Any] = {}
    node, names = data, [name for names in _ATTRIBUTES.values() for name in names]
    while True:
        for name in names:
            if name in node.attrs and name not in stated:
                try:
                    stated[name] = node.attrs[name]
                except (OSError, TypeError, ValueError):  # a kind that Python has not, or text that is no Unicode
                    stated[name] = None
        if node.name == "/":
            return stated
        node = node.parent


def _stated(path: Path, number: str, value: Any, options: RecordingOptions) -> float | None:
    """An attribute's number; of step and angular pixel it may have one for rows and one for columns, which have to agree."""
    one = number_in(value)
    if one is not None or number not in ("step", "angular_pixel") or number in options.numbers:
        return one
    pair = [number_in(part) for part in np.ravel(value)] if np.size(value) == 2 else []
    known = [part for part in pair if part is not None]
    return equal(path, number, known) if len(known) == 2 else None


def _hyperspy_numbers(file: Any, data: Any, numbers: dict[str, Number]) -> None:
    """Voltage and semi-angle from the metadata group that HyperSpy puts beside its data."""
    microscope = data.parent.get("metadata/Acquisition_instrument/TEM")
    if microscope is None:
        return
    for number, (name, factor) in _HYPERSPY.items():
        value = number_in(microscope.attrs.get(name))
        if value:
            numbers[number] = Number(value * factor, f"metadata {name}")


def _axes(data: Any) -> list[Axis]:
    """The axes that a file of EMD, HyperSpy or NeXus has beside its array, in the array's order; none for patterns in a row."""
    if data.ndim != 4:
        return []
    group = data.parent
    if all(f"axis-{i}" in group for i in range(4)):
        attributes = [group[f"axis-{i}"].attrs for i in range(4)]
        return [Axis(each.get("scale"), each.get("units")) for each in attributes]
    first = 0 if "dim0" in group else 1
    names = [f"dim{first + i}" for i in range(4)]
    nexus = np.ravel(group.attrs.get("axes", ()))
    if len(nexus) == 4:
        names = [name.decode() if isinstance(name, bytes) else str(name) for name in nexus]
    vectors = [group.get(name) for name in names]
    return [Axis(_spacing(vector), getattr(vector, "attrs", {}).get("units")) for vector in vectors]


def _spacing(vector: Any) -> float | None:
    """Of an axis given as the places of its points, or of its first two."""
    if getattr(vector, "ndim", 0) != 1 or vector.shape[0] < 2 or vector.dtype.kind not in "uif":
        return None
    return float(vector[1]) - float(vector[0])
