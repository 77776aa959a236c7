"""What every recording has, whatever its format: patterns, the numbers that are known of them, and where each came from."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Protocol

from numpy.typing import NDArray

from instrument.errors import BadInputError

NUMBERS = ("voltage", "wavelength", "semiangle", "angular_pixel", "step", "defocus", "counts_per_electron")
"""What a file or an option may state: eV, Å (X-rays, light), mrad, mrad per pixel, Å, Å (positive for underfocus), counts."""
_LEGAL = {
    "voltage": (1e3, 1e7, "eV (--voltage takes kV)"),
    "semiangle": (0.1, 200.0, "mrad"),
    "step": (1e-3, 1e4, "Å"),
    "defocus": (-1e6, 1e6, "Å"),
    "wavelength": (1e-2, 1e6, "Å"),
}
_OF_ELECTRONS = ("voltage", "step", "defocus")
"""Numbers whose legal range is that of electron microscopes: where a wavelength is given they may be anything."""


@dataclass(frozen=True)
class Number:
    """One number of a recording.

    Attributes:
        value: in the unit of NUMBERS.
        source: where it came from, such as "attribute voltage" or "--voltage".
    """

    value: float
    source: str


@dataclass(frozen=True)
class RecordingOptions:
    """What a person says of a file that does not say it, or says it wrongly; None: not given.

    Attributes:
        dataset: path of the data set in an HDF5 file with several.
        scan_shape: (scan_y, scan_x) positions.
        detector_shape: (detector_y, detector_x) pixels of a raw file.
        dtype: of one count in a raw file, in NumPy's words: uint8, uint16, >u2 (big-endian), float32, …
        offset: bytes before a raw file's first pattern.
        frame_header: bytes before each pattern of a raw file.
        frame_gap: bytes after each pattern of a raw file.
        numbers: any of NUMBERS, in their units; they overrule the file.
    """

    dataset: str | None = None
    scan_shape: tuple[int, int] | None = None
    detector_shape: tuple[int, int] | None = None
    dtype: str | None = None
    offset: int | None = None
    frame_header: int | None = None
    frame_gap: int | None = None
    numbers: Mapping[str, float] = field(default_factory=dict)

    def allow_only(self, path: Path, *legal: str) -> None:
        """Refuse options that a file has no use for.

        Args:
            path: the file, for the message.
            legal: names of the attributes that may be given, `numbers` aside.

        Raises:
            BadInputError: another one is given.
        """
        for option in fields(self):
            name = option.name
            if name == "numbers" or name in legal or getattr(self, name) is None:
                continue
            if name == "dataset":
                msg = f"{path}: is not a file with several data sets; leave --dataset out"
            else:
                msg = f"{path}: states its {name.replace('_', ' ')} itself; leave {option_of(name)} out"
            raise BadInputError(msg)


@dataclass(frozen=True)
class Recording:
    """A file's patterns, and what is known of them.

    Attributes:
        path: of the file.
        patterns: (scan_y, scan_x, ky, kx) as the file has them: an array, or a memory map that takes no memory of its own. Of
            either byte order, and not checked for values that are no counts.
        numbers: those of NUMBERS that file or options state.
        mask: (ky, kx), True where the detector counts; None where the file names no dead pixel.
        notes: sentences for the user about what was left out or assumed.
    """

    path: Path
    patterns: NDArray[Any]
    numbers: Mapping[str, Number] = field(default_factory=dict)
    mask: NDArray[Any] | None = None
    notes: tuple[str, ...] = ()

    def require(self, *names: str) -> dict[str, float]:
        """The values of all numbers that are known.

        Args:
            names: those of NUMBERS that must be among them.

        Raises:
            BadInputError: one of `names` is missing or, defocus aside, not positive.
        """
        values = {name: number.value for name, number in self.numbers.items()}
        missing = [name for name in names if name not in values or (name != "defocus" and values[name] <= 0)]
        if missing:
            options = ", ".join(option_of(name) for name in missing)
            msg = f"{self.path}: does not say {', '.join(missing)}; give {options}"
            raise BadInputError(msg)
        return values

    def sources(self) -> str:
        """One line with every number and where it came from."""
        units = {
            "voltage": "eV",
            "wavelength": "Å",
            "semiangle": "mrad",
            "angular_pixel": "mrad",
            "step": "Å",
            "defocus": "Å",
        }
        left_out = "voltage" if "wavelength" in self.numbers else ""  # its equivalent
        known = [(name, self.numbers[name]) for name in NUMBERS if name in self.numbers and name != left_out]
        return ", ".join(
            f"{name.replace('_', ' ')} {number.value:.6g}{' ' + units[name] if name in units else ''} ({number.source})"
            for name, number in known
        )


class RecordingFormat(Protocol):
    """A format of files: one module each, registered in `instrument.recordings.formats`.

    Attributes:
        name: as it appears in the list of what is read, with the usual endings of such files.
    """

    name: str

    def recognises(self, path: Path) -> bool:
        """Whether the file is of this format, by its name or first bytes. Never raises for a file that can be opened."""
        ...

    def read(self, path: Path, options: RecordingOptions) -> Recording:
        """Read a file.

        Args:
            path: a file that `recognises` has accepted.
            options: what was given. Numbers in it overrule the file later; a format needs them only to convert units.

        Returns:
            What the file says. Patterns are memory-mapped where they can be.

        Raises:
            BadInputError: damaged, not four-dimensional, or not to be understood without another option.
        """
        ...


def option_of(name: str) -> str:
    """The command-line option that gives an attribute: angular_pixel is --angular-pixel."""
    return f"--{name.replace('_', '-')}"


def parse_shape(text: str | None, option: str) -> tuple[int, int] | None:
    """A shape on the command line.

    Args:
        text: two positive whole numbers such as 256,128 (or 256x128), rows first; None stays None.
        option: for the message.

    Raises:
        BadInputError: anything else.
    """
    if text is None:
        return None
    parts = text.replace("x", ",").split(",")
    if len(parts) != 2 or not all(part.strip().isdecimal() and int(part) > 0 for part in parts):
        msg = f"{option} {text} is not possible; legal: two positive whole numbers, ROWS,COLUMNS, such as 256,256"
        raise BadInputError(msg)
    return int(parts[0]), int(parts[1])


def check_given(numbers: Mapping[str, float]) -> None:
    """Check numbers that a person gave.

    Args:
        numbers: name -> value, in the units of NUMBERS.

    Raises:
        BadInputError: an unknown name, or a value that is not finite or, defocus aside, not positive.
    """
    for name, value in numbers.items():
        if name not in NUMBERS:
            msg = f"{name} is not a number of a recording; legal: {', '.join(NUMBERS)}"
            raise BadInputError(msg)
        if not math.isfinite(value) or (name != "defocus" and value <= 0):
            legal = "a number of Å, positive for underfocus" if name == "defocus" else "a positive number"
            msg = f"{option_of(name)} {value:g} is not possible; legal: {legal}"
            raise BadInputError(msg)


def check_range(path: Path, numbers: Mapping[str, float]) -> None:
    """Refuse numbers that are in other units.

    Args:
        path: the file, for the message.
        numbers: name -> value, in the units of NUMBERS.

    Raises:
        BadInputError: a value is out of the range that an electron microscope can have.
    """
    for name, (low, high, unit) in _LEGAL.items():
        if "wavelength" in numbers and name in _OF_ELECTRONS:
            continue
        if not low < numbers.get(name, high) <= high:
            msg = (
                f"{path}: {name} of {numbers[name]:g} is not possible; legal: {low:g} … {high:g} {unit}; give --{name}"
            )
            raise BadInputError(msg)
