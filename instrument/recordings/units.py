"""From the axes of a file to step and angular pixel: units as programs write them, equal along both axes."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from instrument import optics
from instrument.errors import BadInputError
from instrument.recordings.recording import Number, RecordingOptions

_LENGTHS = {"m": 1e10, "mm": 1e7, "um": 1e4, "nm": 10.0, "pm": 0.01, "Å": 1.0}
"""Unit -> Å."""
_ANGLES = {"rad": 1e3, "mrad": 1.0, "urad": 1e-3}
"""Unit -> mrad."""
_SPELLINGS = {"A": "Å", "Ang": "Å", "angstrom": "Å", "angstroms": "Å", "meter": "m", "meters": "m"}
_TOLERANCE = 0.01
"""By which the two axes of scan or detector may differ."""


@dataclass(frozen=True)
class Axis:
    """One axis of a data set as its file describes it.

    Attributes:
        spacing: of two neighbours, as the file has it: possibly None, text or not a number.
        units: of `spacing`, likewise.
    """

    spacing: Any
    units: Any


def number_in(value: Any) -> float | None:
    """A finite number, or None for text, lists, not-a-number and the like. An array of one element counts as its element."""
    if isinstance(value, bool | np.bool_):
        return None
    try:
        array = np.asarray(value)
        number = float(array.item()) if array.size == 1 and array.dtype.kind in "uifSUO" else math.nan
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def axis_numbers(
    path: Path, axes: Sequence[Axis], numbers: dict[str, Number], options: RecordingOptions, source: str
) -> None:
    """Add step and angular_pixel to `numbers` where the axes give them.

    Args:
        path: the file, for messages.
        axes: of scan_y, scan_x, ky, kx; empty where the file has none.
        numbers: what is known already; it stays. Its voltage converts spatial frequencies to angles.
        options: a number given there need not be in the file, and its voltage comes first.
        source: of the axes, in words.

    Raises:
        BadInputError: the two axes have different spacings.
    """
    voltage = options.numbers.get("voltage", numbers["voltage"].value if "voltage" in numbers else None)
    for name, pair in (("step", axes[:2]), ("angular_pixel", axes[2:])):
        if name in options.numbers or name in numbers:
            continue
        known = [_spacing(axis, name, voltage) for axis in pair]
        spacings = [spacing for spacing in known if spacing is not None]
        if len(spacings) == 2:
            numbers[name] = Number(equal(path, name, spacings), source)


def detector_first(axes: Sequence[Axis]) -> bool:
    """Whether axes stand in reverse (kx, ky, scan_x, scan_y): their units are angles or spatial frequencies, then lengths."""
    units = [_plain(axis.units) for axis in axes]
    angles = [unit in _ANGLES or _inverted(unit) in _LENGTHS for unit in units]
    return len(axes) == 4 and all(angles[:2]) and all(unit in _LENGTHS for unit in units[2:])


def equal(path: Path, name: str, spacings: Sequence[float]) -> float:
    """The one spacing of two axes.

    Args:
        path: the file, for the message.
        name: step or angular_pixel.
        spacings: of both axes, in one unit.

    Raises:
        BadInputError: they differ.
    """
    if not math.isclose(spacings[0], spacings[1], rel_tol=_TOLERANCE):
        msg = (
            f"{path}: its rows and columns have different {name} ({spacings[0]:.6g} and {spacings[1]:.6g}); "
            f"only square sampling is supported"
        )
        raise BadInputError(msg)
    return spacings[1]


def _spacing(axis: Axis, name: str, voltage: float | None) -> float | None:
    """In Å or mrad; None where the file does not tell it."""
    spacing, units = number_in(axis.spacing), _plain(axis.units)
    if spacing is None or spacing == 0:
        return None
    if name == "step":
        factor = _LENGTHS.get(units)
    else:
        factor = _ANGLES.get(units)
        length = _LENGTHS.get(_inverted(units) or "")
        if length is not None and voltage is not None and voltage > 0:
            factor = optics.wavelength(voltage) * 1e3 / length
    return None if factor is None else abs(spacing) * factor


def _plain(units: Any) -> str:
    """One spelling of a unit: nm for [n_m], Å for angstrom, um for µm."""
    if isinstance(units, np.ndarray) and units.size == 1:
        units = units.item()
    text = units.decode("utf-8", "replace") if isinstance(units, bytes) else str(units)
    # One form for µ and μ, Å and the sign of the unit, ⁻¹ and −1.
    text = unicodedata.normalize("NFKC", text).replace("\u03bc", "u").replace("\u2212", "-")
    text = text.strip().strip("[]").replace("_", "").replace("$", "").strip()
    return _SPELLINGS.get(text, _SPELLINGS.get(text.lower(), text))


def _inverted(units: str) -> str | None:
    """nm for 1/nm, nm^-1, nm-1 and nm⁻¹; None for what is no inverse."""
    if units.startswith("1/"):
        return _plain(units[2:])
    for ending in ("^-1", "^{-1}", "-1"):
        if units.endswith(ending):
            return _plain(units.removesuffix(ending))
    return None
