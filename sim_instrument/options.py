# SPDX-License-Identifier: GPL-3.0-or-later
"""The command line's options of specimen and column: one table, one row per number of the two models."""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError

from instrument import MalformedRequestError
from sim_instrument.column import FAULTLESS, Column
from sim_instrument.specimen import Material, SpecimenOptions
from sim_instrument.zoo import COLUMNS, SPECIMENS, named_column, named_specimen

DEGREE = math.pi / 180
_Model = TypeVar("_Model", bound=BaseModel)


@dataclass(frozen=True)
class Option:
    """One option: its field in the model, and how many units of the model one unit on the command line is."""

    flag: str
    field: str
    metavar: str
    help: str
    scale: float = 1.0


SPECIMEN = (
    Option("--size", "size", "Å", "edge of the square flake, at least 300"),
    Option("--thickness", "thickness", "Å", "of srtio3, gold-carbon, protein-ice or a periodic structure"),
    Option("--slice-thickness", "slice_thickness", "Å", "largest slice of a --structure"),
    Option("--twist", "twist", "DEG", "twist between the layers of twisted-mos2"),
    Option("--orientation", "orientation", "DEG", "of the lattice against the scan's x axis"),
    Option("--vacancies", "vacancies", "PER_NM2", "vacancies of a two-dimensional crystal at random places, per nm²"),
    Option("--phonons", "phonon_configurations", "N", "frozen-phonon configurations averaged in every pattern"),
)
ILLUMINATION = (
    Option("--voltage", "voltage", "KV", "beam energy, kV", 1e3),
    Option("--semiangle", "semiangle", "MRAD", "convergence semi-angle"),
    Option("--current", "beam_current", "PA", "beam current"),
    Option("--max-defocus", "max_defocus", "Å", "largest nominal defocus, either sign"),
    Option("--defocus-offset", "defocus_offset", "Å", "true minus nominal defocus, underfocus positive"),
    Option("--defocus-scale", "defocus_scale", "FACTOR", "true per nominal change of defocus; 1: right"),
    Option("--source-size", "source_size", "Å", "image of the source in the specimen plane, FWHM"),
    Option("--energy-spread", "energy_spread", "EV", "energy spread, FWHM; acts through Cc"),
    Option("--cc", "chromatic_aberration", "MM", "chromatic aberration coefficient"),
)
SCAN = (
    Option("--jitter", "jitter", "Å", "random error of each probe position, rms"),
    Option("--drift", "drift", "Å/S", "drift of the specimen, reset at the start of each scan"),
    Option("--drift-direction", "drift_direction", "DEG", "from the scan's x axis towards y", DEGREE),
    Option("--rotation", "rotation", "DEG", "scan–detector rotation", DEGREE),
    Option("--rotation-error", "rotation_error", "DEG", "true minus advertised rotation", DEGREE),
    Option("--flyback", "flyback", "S", "per scan line, beam on unless --flyback-blanked"),
    Option("--line-trigger", "line_trigger", "HZ", "mains frequency that each line waits for; 0: none"),
    Option("--settle", "settle", "S", "before a scan, beam blanked"),
)
DETECTOR = (
    Option("--pixels", "detector_pixels", "N", "detector pixels along each edge"),
    Option("--angular-pixel", "angular_pixel", "MRAD", "mrad per detector pixel"),
    Option("--point-spread", "point_spread", "PIXELS", "Gaussian point spread, rms"),
    Option("--dead-pixels", "dead_pixels", "N", "pixels that do not count; the facility knows them"),
    Option("--hot-pixels", "hot_pixels", "N", "pixels with false counts; nobody has noticed them"),
    Option("--hot-rate", "hot_rate", "PER_S", "false counts of a hot pixel"),
    Option("--saturation", "saturation", "COUNTS", "largest count of a pixel"),
    Option("--max-frame-rate", "max_frame_rate", "PER_S", "forbids dwell times below its inverse"),
    Option("--readout", "readout", "S", "dead time of the detector per pattern, beam on"),
)
DAMAGE = (Option("--knock-on", "knock_on", "BARN", "cross-section for sputtering a sulphur atom"),)
DATA = (
    Option("--flicker", "flicker", "PART", "change of the current from frame to frame, rms"),
    Option("--current-drift", "current_drift", "PART", "change of the current from the first to the last frame"),
    Option("--weak-lines", "weak_lines", "N", "scan lines at a reduced current"),
    Option("--weak-line-current", "weak_line_current", "PART", "what of the current is left in them"),
    Option("--blank-frames", "blank_frames", "N", "frames during which the beam was off"),
    Option("--missing-frames", "missing_frames", "N", "frames that were never written and are zero"),
    Option("--aborted-at", "aborted_at", "PART", "part of the scan after which no frame was written; 1: complete"),
    Option("--frame-lag", "frame_lag", "N", "frames by which the detector is late"),
    Option("--descan-y", "descan_y", "PIXELS", "shift of the pattern down the detector over the scan's y"),
    Option("--descan-x", "descan_x", "PIXELS", "shift of the pattern to the right over the scan's x"),
    Option("--hot-blocks", "hot_blocks", "N", "blocks of hot pixels that touch"),
    Option("--hot-block-size", "hot_block_size", "PIXELS", "along the edge of a block"),
    Option("--hot-block-rate", "hot_block_rate", "PER_S", "false counts of each pixel of a block"),
    Option("--dead-rows", "dead_rows", "N", "rows of pixels that do not count"),
    Option("--gap", "gap", "PIXELS", "width of the cross between four chips that does not count"),
)
COLUMN = ILLUMINATION + SCAN + DETECTOR + DAMAGE + DATA


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add every option of specimen and column, with its default in the help."""
    _add_specimen_options(parser)
    column = Column()
    _add_group(parser.add_argument_group("illumination"), ILLUMINATION, column)
    group = parser.add_argument_group("apertures")
    group.add_argument(
        "--apertures",
        metavar="MRAD,MRAD,…",
        help="semi-angles that may be chosen, --semiangle among them; each with its current, like 15:1.2, or else currents go "
        "with areas (default: the semi-angle is fixed)",
    )
    group = parser.add_argument_group("residual aberrations")
    group.add_argument(
        "--aberration",
        action="append",
        metavar="NAME=VALUE",
        help=(
            "Krivanek polar coefficient in Å, or its orientation in rad (C12, phi12, C21, phi21, C23, phi23, C30, …); "
            "may be repeated, replaces the residual ones; `none`: none (default: "
            + " ".join(f"{name}={value:g}" for name, value in column.aberrations.items())
            + ")"
        ),
    )
    group = parser.add_argument_group("scan")
    _add_group(group, SCAN, column)
    group.add_argument("--mirrored", action="store_true", help="detector rows and scan rows of opposite hand")
    group.add_argument(
        "--flyback-blanked", action="store_true", help="beam off during flyback and while waiting for a line trigger"
    )
    group.add_argument(
        "--dwell-times", metavar="S,S,…", help="the only dwell times that the scan engine has; `any`: all (default)"
    )
    group = parser.add_argument_group("detector")
    _add_group(group, DETECTOR, column)
    group.add_argument("--no-shot-noise", action="store_true", help="expected counts, rounded")
    group.add_argument("--no-pixel-area", action="store_true", help="sample the centres of the detector's pixels")
    _add_group(parser.add_argument_group("damage"), DAMAGE, column)
    _add_group(
        parser.add_argument_group(
            "data", "faults that nobody has noticed; numbers of frames and lines are those of each scan"
        ),
        DATA,
        column,
    )
    parser.add_argument(
        "--ideal", action="store_true", help="switch every fault off but shot noise; other options bring some back"
    )


def _add_specimen_options(parser: argparse.ArgumentParser) -> None:
    """Names of the zoo, and the specimen's fields."""
    group = parser.add_argument_group("zoo", "what the options below change; see sim_instrument/zoo/README.md")
    group.add_argument(
        "--column",
        metavar="NAME",
        default="default",
        help=f"{', '.join(COLUMNS)}, or random-SEED (default: %(default)s)",
    )
    group.add_argument(
        "--specimen",
        metavar="NAME",
        default="2h-mos2",
        help=f"{', '.join(SPECIMENS)}, or random-SEED (default: %(default)s)",
    )
    group = parser.add_argument_group("specimen")
    group.add_argument(
        "--material",
        choices=get_args(Material),
        help="2H, twisted or hetero bilayers, graphene, a SrTiO3 lamella, gold in amorphous carbon, protein in ice, or nothing "
        "(default: that of the --specimen)",
    )
    group.add_argument(
        "--structure", metavar="FILE", help="atoms from a file that ASE reads; z is the direction of the beam"
    )
    _add_group(group, SPECIMEN, SpecimenOptions())


def specimen_from(arguments: argparse.Namespace) -> SpecimenOptions:
    """The specimen that was asked for. Raises MalformedRequestError with the option and its legal values."""
    values = {"seed": arguments.seed, **named_specimen(arguments.specimen).model_dump(exclude_unset=True)}
    if arguments.structure is not None:
        values |= {"material": "file", "structure": arguments.structure}
    if arguments.material is not None:
        values["material"] = arguments.material
    return _validate(SpecimenOptions, values | _given(arguments, SPECIMEN), SPECIMEN)


def column_from(arguments: argparse.Namespace) -> Column:
    """The column that was asked for. Raises MalformedRequestError with the option and its legal values."""
    values: dict[str, Any] = named_column(arguments.column).model_dump()
    if arguments.ideal:
        values |= FAULTLESS
    values |= _given(arguments, COLUMN)
    if arguments.aberration is not None:
        values["aberrations"] = _aberrations(arguments.aberration)
    if arguments.dwell_times is not None:
        values["dwell_times"] = _dwell_times(arguments.dwell_times)
    if arguments.apertures is not None:
        values |= _apertures(arguments.apertures)
    values |= {field: True for field in ("mirrored", "flyback_blanked") if getattr(arguments, field)}
    values |= {field: False for field in ("shot_noise", "pixel_area") if getattr(arguments, f"no_{field}")}
    return _validate(Column, values, COLUMN)


def _add_group(group: argparse._ArgumentGroup, options: tuple[Option, ...], defaults: BaseModel) -> None:
    for option in options:
        value = getattr(defaults, option.field)
        default = "its own" if value is None else f"{value / option.scale:.4g}"
        group.add_argument(
            option.flag,
            dest=option.field,
            type=_number,
            metavar=option.metavar,
            help=f"{option.help} (default: {default})",
        )


def _number(text: str) -> float:
    value = float(text)
    return int(value) if value.is_integer() else value


def _given(arguments: argparse.Namespace, options: tuple[Option, ...]) -> dict[str, Any]:
    values = ((option, getattr(arguments, option.field)) for option in options)
    return {o.field: value if o.scale == 1 else value * o.scale for o, value in values if value is not None}


def _aberrations(items: list[str]) -> dict[str, float]:
    if items == ["none"]:
        return {}
    values = {}
    for item in items:
        name, _, number = item.partition("=")
        try:
            values[name] = float(number)
        except ValueError:
            msg = f"--aberration {item}: not NAME=VALUE with a number, like C12=20"
            raise MalformedRequestError(msg) from None
    return values


def _apertures(text: str) -> dict[str, Any]:
    pairs = [part.partition(":") for part in text.split(",")]
    try:
        angles = tuple(float(angle) for angle, _, _ in pairs)
        currents = tuple(float(current) for _, colon, current in pairs if colon)
    except ValueError:
        msg = f"--apertures {text}: not semi-angles with commas between, like 15,21.4,30 or 15:1,21.4:2,30:3.9"
        raise MalformedRequestError(msg) from None
    if currents and len(currents) < len(angles):
        msg = f"--apertures {text}: {len(currents)} of {len(angles)} apertures have a current; give each one, or none"
        raise MalformedRequestError(msg)
    return {"apertures": angles, "aperture_currents": currents}


def _dwell_times(text: str) -> tuple[float, ...] | None:
    if text == "any":
        return None
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        msg = f"--dwell-times {text}: not numbers with commas between, like 1e-5,2e-5, nor `any`"
        raise MalformedRequestError(msg) from None


def _validate(model: type[_Model], values: Mapping[str, Any], options: tuple[Option, ...]) -> _Model:
    try:
        return model.model_validate(values)
    except ValidationError as error:
        flags = {option.field: option.flag for option in options}
        first = error.errors()[0]
        field = str(first["loc"][0]) if first["loc"] else ""
        name = flags.get(field, f"--{field}" if field else "options")
        shown = f" {first['input']}" if field in flags else ""
        msg = f"{name}{shown}: {first['msg'].removeprefix('Value error, ')}"
        raise MalformedRequestError(msg) from error
