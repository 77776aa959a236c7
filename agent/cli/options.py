"""Options that belong together: one frozen class a group, whose fields a verb takes as options of its own.

A verb names a group as the type of one of its parameters, and `grouped` turns it into the options on the command line.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from copy import copy
from dataclasses import dataclass, fields, is_dataclass
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args, get_origin, get_type_hints

import typer

if TYPE_CHECKING:
    from agent.known_geometry import KnownGeometry
    from agent.reconstruction_choice import ReconstructionChoice
    from agent.tuning.records import Plan
    from instrument.recordings import RecordingOptions

Debug = Annotated[bool, typer.Option("--debug", help="Show where an error came from (a traceback), and log more.")]

REFINED: dict[str, dict[str, Any]] = {
    "positions": {"refine_positions": "free"},
    "lines": {"refine_positions": "lines"},
    "linear": {"refine_positions": "linear"},
    "optics": {"refine_optics": ("defocus", "C12", "C21", "C23", "C30", "rotation", "centre")},
    "intensity": {"refine_intensity": True},
}
"""What `--refine` may name, and the settings that it stands for."""
PASSES = 10
"""Where neither `--passes` nor a settings file says how many."""


@dataclass(frozen=True)
class FileOptions:
    """What the file does not say, or says wrongly"""

    voltage: Annotated[float | None, typer.Option(min=1, max=3000, help="kV, where the file does not say.")] = None
    wavelength: Annotated[
        float | None, typer.Option(min=1e-2, help="Å, of X-rays or light, in place of the voltage.")
    ] = None
    semiangle: Annotated[float | None, typer.Option(min=0.01, help="Convergence semi-angle, mrad.")] = None
    angular_pixel: Annotated[float | None, typer.Option(min=1e-4, help="Detector sampling, mrad per pixel.")] = None
    step: Annotated[float | None, typer.Option(min=1e-3, help="Scan step size, Å.")] = None
    defocus: Annotated[float | None, typer.Option(help="Å, positive for underfocus.")] = None
    counts_per_electron: Annotated[
        float | None, typer.Option(min=1e-9, help="Signal of one electron, for detectors that write floats.")
    ] = None
    scan_shape: Annotated[
        str | None, typer.Option(metavar="ROWS,COLUMNS", help="Positions scanned, where the file does not say.")
    ] = None
    detector_shape: Annotated[
        str | None, typer.Option(metavar="ROWS,COLUMNS", help="Pixels of a pattern in a raw file; without it: EMPAD.")
    ] = None
    dtype: Annotated[str | None, typer.Option(help="Type of a raw file's counts: uint8, uint16, >u2, float32, …")] = (
        None
    )
    offset: Annotated[int | None, typer.Option(min=0, help="Bytes before a raw file's first pattern.")] = None
    frame_header: Annotated[int | None, typer.Option(min=0, help="Bytes before each pattern of a raw file.")] = None
    frame_gap: Annotated[int | None, typer.Option(min=0, help="Bytes after each pattern of a raw file.")] = None
    dataset: Annotated[str | None, typer.Option(help="Path in an HDF5 file with several data sets.")] = None

    def recording(self) -> RecordingOptions:
        """What readers of recordings are told. Raises BadInputError for a shape that is none."""
        from instrument.recordings import RecordingOptions, parse_shape

        given = {
            "voltage": None if self.voltage is None else self.voltage * 1e3,
            "wavelength": self.wavelength,
            "semiangle": self.semiangle,
            "angular_pixel": self.angular_pixel,
            "step": self.step,
            "defocus": self.defocus,
            "counts_per_electron": self.counts_per_electron,
        }
        return RecordingOptions(
            dataset=self.dataset,
            scan_shape=parse_shape(self.scan_shape, "--scan-shape"),
            detector_shape=parse_shape(self.detector_shape, "--detector-shape"),
            dtype=self.dtype,
            offset=self.offset,
            frame_header=self.frame_header,
            frame_gap=self.frame_gap,
            numbers={name: value for name, value in given.items() if value is not None},
        )


@dataclass(frozen=True)
class GeometryOptions:
    """What is known of the detector's geometry"""

    rotation: Annotated[
        float | None,
        typer.Option(
            metavar="DEG",
            help="Turns a direction on the detector into the scan's frame. What is not given is measured.",
        ),
    ] = None
    mirrored: Annotated[bool, typer.Option("--mirrored", help="Detector and scan rows are of opposite hand.")] = False
    transpose: Annotated[bool, typer.Option("--transpose", help="The patterns have rows and columns exchanged.")] = (
        False
    )
    flip_rows: Annotated[bool, typer.Option("--flip-rows", help="The patterns' rows are in reverse order.")] = False
    flip_columns: Annotated[bool, typer.Option("--flip-columns", help="Their columns are in reverse order.")] = False
    centre: Annotated[
        str | None, typer.Option(metavar="ROW,COLUMN", help="Of the zero beam, detector pixels, counted from 0.")
    ] = None
    mask: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="One number for each detector pixel (.npy, HDF5): 1 where it counts, else 0."
        ),
    ] = None
    bad_pixels: Annotated[
        list[str] | None,
        typer.Option(
            "--bad-pixels", metavar="ROW,COLUMN", help="Do not count; a colon is a whole row (12,:). Repeatable."
        ),
    ] = None

    def known(self) -> KnownGeometry:
        """What is known. Raises BadInputError for what is not possible."""
        from agent.config import parse_section
        from agent.known_geometry import KnownGeometry

        given: dict[str, Any] = {field.name: getattr(self, field.name) for field in fields(self)}
        given["centre"] = None if self.centre is None else _numbers(self.centre, "--centre", "ROW,COLUMN", 2)
        given["bad_pixels"] = tuple(self.bad_pixels or ())
        stated = {name: value for name, value in given.items() if value is not None}
        return parse_section(stated, KnownGeometry, "options")


@dataclass(frozen=True)
class EngineOptions:
    """How to reconstruct"""

    settings: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.yaml",
            help="Every setting of the engine: the keys of a campaign file's `reconstruction` section. Options come first.",
        ),
    ] = None
    passes: Annotated[
        int | None, typer.Option(help="Passes over all patterns.", show_default=f"{PASSES}, or the file's")
    ] = None
    probe_modes: Annotated[int | None, typer.Option(help="Mutually incoherent probe states.")] = None
    slices: Annotated[int | None, typer.Option(help="Slices of the object.")] = None
    slice_spacing: Annotated[
        str | None, typer.Option(metavar="Å[,Å…]", help="From slice to slice; one for all, or one for each gap.")
    ] = None
    refine: Annotated[
        str | None,
        typer.Option(metavar="WHAT[,WHAT…]", help=f"Any of {', '.join(REFINED)} (lines, linear: models of positions)."),
    ] = None
    probe: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Probe to start from: of an earlier reconstruction (HDF5), or waves (.npy)."),
    ] = None
    hold_probe: Annotated[bool, typer.Option("--hold-probe", help="Keep the probe as it is at the start.")] = False
    no_calibrate: Annotated[
        bool, typer.Option("--no-calibrate", help="Take defocus and geometry as given; measure neither.")
    ] = False
    regularise: Annotated[
        bool, typer.Option("--regularise", help="Expect no specimen where only noise is seen (picture, not score).")
    ] = False
    model: Annotated[
        str | None,
        typer.Option(
            metavar="auto|given",
            help="auto: held-out counts choose slices, background, positions and more, as far as they are not given.",
            show_default="given",
        ),
    ] = None
    device: Annotated[str | None, typer.Option(metavar="auto|cpu|gpu", help="Where to compute.")] = None

    def choice(self) -> ReconstructionChoice:
        """The settings of the file, overruled by the options. Raises BadInputError for what is not possible."""
        from agent.config import load_settings, parse_settings

        raw: dict[str, Any] = {}
        if self.settings is not None:
            raw = load_settings(self.settings).model_dump(exclude_unset=True)
        raw["model"] = self.model or "given"
        given = {name: getattr(self, name) for name in ("passes", "probe_modes", "slices", "device", "probe")}
        spacing = _numbers(self.slice_spacing, "--slice-spacing", "Å, one number or one for each gap, such as 1,5.15,1")
        given["slice_spacing"] = spacing[0] if spacing and len(spacing) == 1 else spacing
        raw |= {name: value for name, value in given.items() if value is not None}
        raw |= _refined(self.refine)
        if self.hold_probe:
            raw["refine_probe"] = False
        if self.no_calibrate:
            raw["calibrate"] = False
        if self.regularise:
            raw["regularise"] = True
        return parse_settings(raw, "options")


@dataclass(frozen=True)
class TuneOptions:
    """How to search"""

    search: Annotated[
        str | None,
        typer.Option(
            metavar="NAME[,NAME…]",
            help="Only these: probe_modes, slices, batches, passes, step_size, loss, … (an unknown one lists all). defocus and "
            "rotation are measured, and searched only where they are named.",
        ),
    ] = None
    reconstructions: Annotated[
        float, typer.Option(min=4, help="What the search may cost, in whole reconstructions.")
    ] = 40.0
    minutes: Annotated[float | None, typer.Option(min=0.01, help="Begin nothing more after so many.")] = None
    cores: Annotated[
        int | None, typer.Option(min=0, help="Processes on this machine; 0: this one only.", show_default="all cores")
    ] = None
    dask: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="Scheduler of a Dask cluster to use instead: tcp://HOST:8786.")
    ] = None
    slurm: Annotated[
        int | None,
        typer.Option(
            metavar="JOBS",
            min=1,
            help="So many SLURM jobs instead, a core each; queue, account, … from Dask's configuration (jobqueue.slurm).",
        ),
    ] = None
    seed: Annotated[int, typer.Option(min=0, help="Of what is drawn.")] = 0
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the search in --out.")] = False

    def plan(self) -> Plan:
        """How the search is conducted."""
        from agent.tuning.records import Plan

        return Plan(reconstructions=self.reconstructions, minutes=self.minutes, seed=self.seed)


def grouped(verb: Callable[..., None]) -> Callable[..., None]:
    """The verb with each parameter whose type is a group of options replaced by the options themselves."""
    signature = inspect.signature(verb, eval_str=True)
    parameters: list[inspect.Parameter] = []
    groups: dict[str, Any] = {}
    for parameter in signature.parameters.values():
        if is_dataclass(parameter.annotation):
            groups[parameter.name] = parameter.annotation
            parameters += _options_of(parameter.annotation)
        else:
            parameters.append(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY))

    @wraps(verb)
    def call(**given: Any) -> None:
        for name, group in groups.items():
            given[name] = group(**{field.name: given.pop(field.name) for field in fields(group)})
        verb(**given)

    call.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    call.__annotations__ = {}  # typer reads the signature
    return call


def _options_of(group: Any) -> list[inspect.Parameter]:
    """The fields of a group as parameters that typer understands, under the group's heading in `--help`."""
    hints = get_type_hints(group, include_extras=True)
    found = []
    for field in fields(group):
        assert get_origin(hints[field.name]) is Annotated
        kind, option = get_args(hints[field.name])
        headed = copy(option)
        headed.rich_help_panel = group.__doc__
        found.append(
            inspect.Parameter(
                field.name,
                inspect.Parameter.KEYWORD_ONLY,
                default=field.default,
                annotation=Annotated[kind, headed],
            )
        )
    return found


def _numbers(text: str | None, option: str, legal: str, count: int | None = None) -> tuple[float, ...] | None:
    from agent.errors import BadInputError

    if text is None:
        return None
    msg = f"{option} {text} is not possible; legal: {legal}"
    try:
        numbers = tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise BadInputError(msg) from error
    if count is not None and len(numbers) != count:
        raise BadInputError(msg)
    return numbers


def _refined(text: str | None) -> dict[str, Any]:
    from agent.errors import BadInputError

    raw: dict[str, Any] = {}
    for name in (part.strip() for part in (text or "").split(",") if part.strip()):
        if name not in REFINED:
            msg = f"--refine {name} is not possible; legal: any of {', '.join(REFINED)}, with commas between"
            raise BadInputError(msg)
        if raw.keys() & REFINED[name].keys():
            msg = f"--refine {text}: positions, lines and linear are three models of the same; choose one"
            raise BadInputError(msg)
        raw |= REFINED[name]
    return raw
