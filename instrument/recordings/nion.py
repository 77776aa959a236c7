"""What Nion Swift writes: .h5, .nhdf and .ndata hold an array and its properties as JSON, in metres, radians and volts.

Properties (Nion Swift's data item model): `dimensional_calibrations` (in exported .ndata1 `spatial_calibrations`), one
{offset, scale, units} per axis; `collection_dimension_count` and `datum_dimension_count`, both 2 for a raster of patterns;
`metadata`, in which the microscope speaks of itself under `instrument` or, earlier, `hardware_source`. Its C1,0 is
positive for overfocus, so the defocus here is −C1,0.
"""

from __future__ import annotations

import json
import math
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from tokenize import TokenError
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from instrument import optics
from instrument.errors import BadInputError
from instrument.memory import allocate

_LENGTHS = {"m": 1e10, "mm": 1e7, "um": 1e4, "µm": 1e4, "μm": 1e4, "nm": 10.0, "pm": 0.01, "A": 1.0, "Å": 1.0}
_ANGLES = {"rad": 1e3, "mrad": 1.0, "urad": 1e-3, "µrad": 1e-3, "μrad": 1e-3}
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


def read_properties(path: Path, text: str | bytes) -> dict[str, Any]:
    """The JSON of a file's properties. Raises BadInputError."""
    try:
        properties = json.loads(text)
    except ValueError as error:
        msg = f"{path}: its properties are not JSON, so Nion Swift has not written it or it is damaged"
        raise BadInputError(msg) from error
    if not isinstance(properties, dict):
        msg = f"{path}: its properties are no JSON object, so Nion Swift has not written it or it is damaged"
        raise BadInputError(msg)
    return properties


def numbers_in(path: Path, properties: Mapping[str, Any]) -> dict[str, float]:
    """Voltage (eV), semiangle and angular_pixel (mrad), step and defocus (Å), as far as `properties` state them.

    Raises:
        BadInputError: not a raster of patterns, or the two axes of scan or detector have different scales.
    """
    sources = properties.get("data_sources")
    if isinstance(sources, list) and sources and isinstance(sources[0], dict):  # as Swift stored it before 2017
        properties = {**properties, **sources[0]}
    sequence = bool(properties.get("is_sequence", False))
    counts = (properties.get("collection_dimension_count", 2), properties.get("datum_dimension_count", 2))
    if sequence or counts != (2, 2):
        msg = (
            f"{path}: holds {'a sequence of ' if sequence else ''}{counts[1]}-dimensional data at each point of a "
            f"{counts[0]}-dimensional scan; a two-dimensional scan of patterns is expected"
        )
        raise BadInputError(msg)
    numbers: dict[str, float] = {}
    metadata = properties.get("metadata") or {}
    for name, places in _STATED.items():
        for place, factor in places:
            value = _at(metadata, place)
            # A zero says that nobody has entered the value.
            if value:
                numbers[name] = value * factor
                break
    axes = properties.get("dimensional_calibrations") or properties.get("spatial_calibrations") or []
    if len(axes) == 4:
        _axes(path, axes, numbers)
    return numbers


def map_ndata(path: Path) -> tuple[NDArray[Any], dict[str, Any]]:
    """Array and properties of an .ndata or .ndata1 file: a zip archive of data.npy and metadata.json.

    The array is memory-mapped where the archive stores it uncompressed, as Swift does. Raises BadInputError.
    """
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
    except (zipfile.BadZipFile, OSError, ValueError, EOFError, struct.error, TokenError) as error:
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


def _axes(path: Path, axes: list[Any], numbers: dict[str, float]) -> None:
    """Add step and angular_pixel from the four axes where their units are known."""
    for name, pair, legal in (("step", axes[:2], _LENGTHS), ("angular_pixel", axes[2:], _ANGLES)):
        factors = [_factor(axis, legal, numbers.get("voltage")) for axis in pair]
        if None in factors:
            continue
        scales = [
            abs(float(axis.get("scale", 1.0))) * (factor or 1.0) for axis, factor in zip(pair, factors, strict=True)
        ]
        if not math.isclose(*scales, rel_tol=0.01):
            msg = (
                f"{path}: its rows and columns have different {name} ({scales[0]:.6g} and {scales[1]:.6g}); "
                f"only square sampling is supported"
            )
            raise BadInputError(msg)
        numbers[name] = scales[1]


def _factor(axis: Any, legal: Mapping[str, float], voltage: float | None) -> float | None:
    units = str(axis.get("units", "")).strip() if isinstance(axis, dict) else ""
    if units in legal:
        return legal[units]
    if legal is _ANGLES and units in ("1/nm", "1/A", "1/Å") and voltage:
        return optics.wavelength(voltage) * 1e3 * (0.1 if units == "1/nm" else 1.0)
    return None


def _at(metadata: Any, place: str) -> float | None:
    node = metadata
    for key in place.split("."):
        if not isinstance(node, Mapping):
            return None
        node = node.get(key)
    if isinstance(node, bool) or not isinstance(node, int | float) or not math.isfinite(node):
        return None
    return float(node)
