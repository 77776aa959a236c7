"""What Nion Swift writes: .h5, .nhdf and .ndata hold an array and its properties as JSON, in metres, radians and volts.

Properties (Nion Swift's data item model): `dimensional_calibrations` (in exported .ndata1 `spatial_calibrations`), one
{offset, scale, units} per axis; `collection_dimension_count` and `datum_dimension_count`, both 2 for a raster of patterns;
`metadata`, in which the microscope speaks of itself under `instrument` or, earlier, `hardware_source`. Its C1,0 is
positive for overfocus, so the defocus here is −C1,0.
"""

from __future__ import annotations

import json
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from instrument.errors import NUMPY_REFUSES, BadInputError
from instrument.memory import allocate
from instrument.recordings.recording import Number, Recording, RecordingOptions
from instrument.recordings.units import Axis, axis_numbers, number_in

_STATED: dict[str, tuple[tuple[str, float], ...]] = {
    "voltage": (
        ("instrument.high_tension", 1),
        ("instrument.ImageScanned.EHT", 1),
        ("hardware_source.autostem.high_tension_v", 1),
        ("hardware_source.extra_high_tension", 1),
    ),
    "semiangle": (
        ("instrument.convergence_angle", 1e3),
        ("instrument.ImageScanned.probe_ha", 1e3),
        ("hardware_source.convergence_angle_rad", 1e3),
    ),
    "defocus": (
        ("instrument.ImageScanned.C10", -1e10),
        ("instrument.defocus", -1e10),
        ("hardware_source.defocus_m", -1e10),
    ),
}
"""Number -> paths in `metadata` that state it, the surest first, and their factor to eV, mrad, Å of underfocus."""


class NdataFormat:
    """See `RecordingFormat`: .ndata and .ndata1, a zip archive of data.npy and metadata.json."""

    name = "Nion Swift (.ndata, .h5)"

    def recognises(self, path: Path) -> bool:
        """By the name."""
        return path.suffix.lower().startswith(".ndata")

    def read(self, path: Path, options: RecordingOptions) -> Recording:
        """The array is memory-mapped where the archive stores it uncompressed, as Swift does. See `RecordingFormat.read`."""
        options.allow_only(path)
        patterns, properties = _unzipped(path)
        numbers = numbers_in(path, properties, options)
        return Recording(path, patterns, numbers)


def read_properties(path: Path, text: str | bytes) -> dict[str, Any]:
    """The JSON of a file's properties.

    Args:
        path: the file, for messages.
        text: the JSON.

    Raises:
        BadInputError: it is no JSON object.
    """
    try:
        properties = json.loads(text)
    except ValueError as error:
        msg = f"{path}: its properties are not JSON, so Nion Swift has not written it or it is damaged"
        raise BadInputError(msg) from error
    if not isinstance(properties, dict):
        msg = f"{path}: its properties are no JSON object, so Nion Swift has not written it or it is damaged"
        raise BadInputError(msg)
    return properties


def numbers_in(path: Path, properties: Mapping[str, Any], options: RecordingOptions) -> dict[str, Number]:
    """What the properties of a data item state.

    Args:
        path: the file, for messages.
        properties: of the data item; what is no number in them counts as not stated.
        options: its voltage, where given, converts spatial frequencies.

    Returns:
        Voltage (eV), semiangle and angular_pixel (mrad), step and defocus (Å), as far as they are stated.

    Raises:
        BadInputError: not a raster of patterns, or the two axes of scan or detector have different scales.
    """
    sources = properties.get("data_sources")
    if isinstance(sources, list) and sources and isinstance(sources[0], dict):  # as Swift stored it before 2017
        properties = {**properties, **sources[0]}
    sequence = bool(properties.get("is_sequence", False))
    stated = [properties.get(f"{kind}_dimension_count") for kind in ("collection", "datum")]
    counts = tuple(2 if count is None else count for count in stated)
    if sequence or counts != (2, 2):
        msg = (
            f"{path}: holds {'a sequence of ' if sequence else ''}{counts[1]}-dimensional data at each point of a "
            f"{counts[0]}-dimensional scan; a two-dimensional scan of patterns is expected"
        )
        raise BadInputError(msg)
    numbers: dict[str, Number] = {}
    for name, places in _STATED.items():
        for place, factor in places:
            value = _at(properties.get("metadata"), place)
            # A zero says that nobody has entered the value.
            if value:
                numbers[name] = Number(value * factor, f"metadata {place}")
                break
    for key in ("dimensional_calibrations", "spatial_calibrations"):
        axes = properties.get(key)
        if isinstance(axes, list) and len(axes) == 4 and all(isinstance(axis, dict) for axis in axes):
            found = [Axis(axis.get("scale", 1.0), axis.get("units", "")) for axis in axes]
            axis_numbers(path, found, numbers, options, key.replace("_", " "))
    return numbers


def _unzipped(path: Path) -> tuple[NDArray[Any], dict[str, Any]]:
    """Array and properties."""
    try:
        with zipfile.ZipFile(path) as archive:
            missing = {"data.npy", "metadata.json"} - set(archive.namelist())
            if missing:
                msg = f"{path}: is an archive without {sorted(missing)[0]}, so it is not an .ndata file"
                raise BadInputError(msg)
            properties = read_properties(path, archive.read("metadata.json"))
            entry = archive.getinfo("data.npy")
            if entry.compress_type == zipfile.ZIP_STORED:
                return _map_stored(path, entry), properties
            with archive.open(entry) as file:
                return _unpacked(file), properties
    except (zipfile.BadZipFile, struct.error, *NUMPY_REFUSES) as error:
        msg = f"{path}: is damaged or truncated, or not an .ndata file ({' '.join(str(error).split())})"
        raise BadInputError(msg) from error


def _map_stored(path: Path, entry: zipfile.ZipInfo) -> NDArray[Any]:
    with path.open("rb") as file:
        # The local header's name and extra field may be longer than the directory says (ZIP application note, 4.3.7).
        file.seek(entry.header_offset + 26)
        name, extra = struct.unpack("<HH", file.read(4))
        file.seek(entry.header_offset + 30 + name + extra)
        shape, fortran, dtype = _array_header(file)
        return np.memmap(path, dtype=dtype, mode="r", offset=file.tell(), shape=shape, order="F" if fortran else "C")


def _unpacked(file: IO[bytes]) -> NDArray[Any]:
    shape, fortran, dtype = _array_header(file)
    out = allocate(shape[::-1] if fortran else shape, dtype)
    numbers, filled = out.reshape(-1).view(np.uint8), 0
    while part := file.read(2**20):
        numbers[filled : filled + len(part)] = np.frombuffer(part, np.uint8)
        filled += len(part)
    if filled < len(numbers):
        msg = f"{filled} of {len(numbers)} bytes"
        raise ValueError(msg)
    return out.T if fortran else out


def _array_header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, whether in Fortran's order, and type of the .npy array that begins here."""
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read(file)
    if dtype.hasobject:
        msg = "an array of Python objects"
        raise ValueError(msg)
    return shape, fortran, dtype


def _at(metadata: Any, place: str) -> float | None:
    node = metadata
    for key in place.split("."):
        if not isinstance(node, Mapping):
            return None
        node = node.get(key)
    return number_in(node)
