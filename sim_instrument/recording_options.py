# SPDX-License-Identifier: GPL-3.0-or-later
"""The options of `replay` about its file, the same as those of `ptychopilot reconstruct`."""

from __future__ import annotations

import argparse
from pathlib import Path

from pydantic import ValidationError

from instrument.errors import BadInputError
from instrument.geometry import Geometry
from instrument.recordings import RecordingOptions, parse_shape

_NUMBERS = (
    ("voltage", "KV", "beam energy, kV", 1e3),
    ("wavelength", "Å", "of X-rays or light, in place of the voltage", 1.0),
    ("semiangle", "MRAD", "convergence semi-angle", 1.0),
    ("angular_pixel", "MRAD", "mrad per detector pixel", 1.0),
    ("step", "Å", "recorded scan step", 1.0),
    ("defocus", "Å", "nominal defocus, positive for underfocus", 1.0),
    ("counts_per_electron", "COUNTS", "signal of one electron, for detectors that write floats", 1.0),
)
"""Name, metavar, help, and how many units of a recording one unit on the command line is."""


def add_recording_options(parser: argparse.ArgumentParser) -> None:
    """Add the options to the parser of `replay`."""
    group = parser.add_argument_group("what the file does not say, or says wrongly")
    for name, metavar, text, _ in _NUMBERS:
        group.add_argument(f"--{name.replace('_', '-')}", type=float, metavar=metavar, help=text)
    shape = "ROWS,COLUMNS"
    group.add_argument("--scan-shape", metavar=shape, help="positions scanned")
    group.add_argument("--detector-shape", metavar=shape, help="pixels of a pattern in a raw file; without it: EMPAD")
    group.add_argument("--dtype", help="type of a raw file's counts: uint8, uint16, >u2, float32, …")
    for name, text in (
        ("offset", "before a raw file's first pattern"),
        ("frame-header", "before each pattern of a raw file"),
        ("frame-gap", "after each pattern of a raw file"),
    ):
        group.add_argument(f"--{name}", type=_bytes, metavar="BYTES", help=f"bytes {text}")
    group.add_argument("--dataset", metavar="PATH", help="in an HDF5 file with several data sets")
    group = parser.add_argument_group("what is known of the detector's geometry; agents measure what is not given")
    group.add_argument("--rotation", type=float, metavar="DEG", help="turns a detector direction into the scan's frame")
    for name, text in (
        ("mirrored", "detector and scan rows are of opposite hand"),
        ("transpose", "the patterns have rows and columns exchanged"),
        ("flip-rows", "the patterns' rows are in reverse order"),
        ("flip-columns", "the patterns' columns are in reverse order"),
    ):
        group.add_argument(f"--{name}", action="store_true", help=text)
    group.add_argument("--mask", type=Path, metavar="FILE", help="1 for each detector pixel that counts (.npy, HDF5)")
    group.add_argument(
        "--bad-pixels",
        action="append",
        default=[],
        metavar="ROW,COLUMN",
        help="do not count; a colon is a whole row (12,:); may be repeated",
    )


def recording_options_from(arguments: argparse.Namespace) -> RecordingOptions:
    """What was given. Raises BadInputError with the option and its legal values."""
    given = ((name, getattr(arguments, name), scale) for name, _, _, scale in _NUMBERS)
    return RecordingOptions(
        dataset=arguments.dataset,
        scan_shape=parse_shape(arguments.scan_shape, "--scan-shape"),
        detector_shape=parse_shape(arguments.detector_shape, "--detector-shape"),
        dtype=arguments.dtype,
        offset=arguments.offset,
        frame_header=arguments.frame_header,
        frame_gap=arguments.frame_gap,
        numbers={name: value * scale for name, value, scale in given if value is not None},
    )


def geometry_from(arguments: argparse.Namespace) -> Geometry:
    """What was given. Raises BadInputError with the option and its legal values."""
    try:
        return Geometry.model_validate({name: getattr(arguments, name) for name in Geometry.model_fields})
    except ValidationError as error:
        first = error.errors()[0]
        msg = f"--{str(first['loc'][0]).replace('_', '-')} {first['input']}: {first['msg']}"
        raise BadInputError(msg) from error


def _bytes(text: str) -> int:
    number = int(text)
    if number < 0:
        msg = f"{number} bytes are not possible"
        raise argparse.ArgumentTypeError(msg)
    return number
