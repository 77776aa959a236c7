"""`ptychopilot reconstruct`: one data set, calibrated, reconstructed and scored as a campaign would do it."""

from __future__ import annotations

import math
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
from rich.console import Console

from agent.cli.results import check_json, make_writable, say, write_json
from agent.cli.terminal import Terminal
from agent.config import MAX_RINGS, Metadata, ScoreChoice
from agent.errors import BadInputError, NoResultError
from agent.formatting import signed_length, uncertain
from agent.known_geometry import KnownGeometry
from agent.processing.assemble import PatternFile, is_acquisition, read_patterns
from agent.processing.process import ProcessingJob, ProcessingResult, process_acquisition
from agent.reconstruction import SMALLEST_DETECTOR
from agent.reconstruction_choice import ReconstructionChoice
from agent.report.pictures import Picture, phase_image
from agent.storage.acquisition_file import Acquisition, read_acquisition
from agent.storage.atomic import atomic_write
from agent.storage.reconstruction_file import read_reconstruction
from instrument import optics
from instrument.models import AcquisitionPlan, Description, Detector, Outcome, Parameter, Rectangle
from instrument.recordings import RecordingOptions, whole_counts
from instrument.text import printable

MEASURED = KnownGeometry()
SCORED = 0.8
"""Part of the scan's shorter edge that is scored; towards the rim the overlap thins out."""


def reconstruct_file(
    path: Path,
    out: Path | None,
    options: RecordingOptions,
    choice: ReconstructionChoice,
    json_file: Path | None = None,
    *,
    geometry: KnownGeometry = MEASURED,
) -> None:
    """Reconstruct one data set; write the object (HDF5) and its phase (PNG).

    Args:
        path: of the data set.
        out: folder to write into; None: the current one.
        options: what the file lacks or has wrong.
        choice: how to reconstruct; the score's halves are never regularised.
        geometry: what is known of the detector and need not be measured.
        json_file: where score, defocus, timings and the paths of the files go as JSON.

    Raises:
        BadInputError: the file is no 4D data set, is damaged, or lacks a number that was not given.
        NoResultError: the score cannot be trusted; object and picture are written all the same.
    """
    console = Terminal()
    folder = out or Path.cwd()
    check_json(json_file)
    acquisition, notes = read_file(path, options, geometry)
    make_writable(folder)  # before anything is computed
    output = (folder / f"{path.stem}-reconstruction.h5").resolve()
    scored = scored_square(acquisition.plan.field)
    score = score_choice(acquisition.description, scored)
    with tempfile.TemporaryDirectory() as scratch, console.status("reading") as status:
        job = ProcessingJob(
            acquisition=path.resolve(),
            output=output,
            column_output=Path(scratch) / "column.json",
            scored=scored,
            geometry=geometry,
            reconstruction=choice,
            score=score,
        )
        result = process_acquisition(
            acquisition, job, lambda phase, fraction: status.update(f"{phase}: {fraction:.0%}")
        )
    png = output.with_name(f"{path.stem}-phase.png")
    picture = Picture.of(read_reconstruction(output))
    atomic_write(png, phase_image(picture, picture.levels()))
    for note in notes:
        say(console, note)
    _show(console, result, output, png)
    if json_file is not None:
        write_json(json_file, {**result.model_dump(mode="json"), "object": str(output), "picture": str(png)})
        say(console, f"result (JSON): {json_file.resolve()}")
    if result.score.veto is not None:
        msg = f"the score is not to be trusted: {result.score.veto}"
        raise NoResultError(msg)


def read_file(path: Path, options: RecordingOptions, geometry: KnownGeometry) -> tuple[Acquisition, tuple[str, ...]]:
    """The file as an acquisition, and notes on it.

    Args:
        path: of any data set.
        options: what the file lacks or has wrong.
        geometry: what is known of the detector.

    Raises:
        BadInputError: the file is no 4D data set, is damaged, or lacks a number that was not given.
    """
    if options == RecordingOptions() and is_acquisition(path):
        return read_acquisition(path), ()
    file = read_patterns(path, options, geometry)
    return _as_acquisition(path, file), file.notes


def _show(console: Console, result: ProcessingResult, output: Path, png: Path) -> None:
    """Print score, defocus and where the files are, after what a person should be told."""
    for note in result.notes:
        say(console, note)
    score = result.score
    resolution = "not reached" if score.resolution is None else f"{score.resolution:.3g} Å"
    marked = "" if score.veto is None else " (not to be trusted)"
    say(console, f"score:   {uncertain(score.value, score.sd)} bit/Å², half-bit resolution {resolution}{marked}")
    if score.halves is not None:
        say(console, f"halves:  {score.halves_text()}")
    measured = signed_length(result.defocus_measured)
    say(console, f"defocus: {measured} measured; {result.passes} passes on the {result.device}")
    say(console, f"object:  {output}")
    say(console, f"picture: {png}")


def _as_acquisition(path: Path, file: PatternFile) -> Acquisition:
    """Patterns of any file in the form in which a campaign hands them to its processing."""
    n_y, n_x = file.data.patterns.shape[1:]
    if min(n_y, n_x) < SMALLEST_DETECTOR:
        least = f"{SMALLEST_DETECTOR} × {SMALLEST_DETECTOR}"
        msg = f"{path}: holds patterns of {n_y} × {n_x} pixels; at least {least} are expected, the detector's axes last"
        raise BadInputError(msg)
    data = replace(file.data, patterns=whole_counts(path, file.data.patterns))
    positions, half = data.positions, file.step / (4 if file.interlacing == "offset" else 2)
    low, high = positions.min(axis=0) - half, positions.max(axis=0) + half
    cells = len(positions) if file.scan_shape is None else math.prod(file.scan_shape)
    plan = AcquisitionPlan(
        id="file",
        campaign="file",
        region="file",
        field=Rectangle(y=low[0], x=low[1], height=high[0] - low[0], width=high[1] - low[1]),
        step=file.step,
        defocus=data.defocus,
        dose=float(data.patterns.sum(dtype=np.float64)) / cells / file.step**2,
        positions=None if file.scan_shape is not None else tuple((float(y), float(x)) for y, x in positions),
        pattern=file.pattern if file.scan_shape is not None else "raster",
        passes=1 if file.interlacing is None else 2,
        interlacing=file.interlacing or "offset",
    )
    small = data.patterns.max() <= np.iinfo(np.uint8).max

    def fixed(value: float, unit: str) -> Parameter:
        return Parameter(kind="fixed", unit=unit, values=(value,))

    description = Description(
        name=printable(path.name),
        voltage=data.voltage,
        wavelength=optics.wavelength(data.voltage) if isinstance(data.voltage, optics.EquivalentVoltage) else None,
        semiangle=data.semiangle,
        detector=Detector(
            shape=data.patterns.shape[1:],
            angular_pixel=data.angular_pixel,
            dtype="uint8" if small else "uint16",
            saturation=int(np.iinfo(np.uint8 if small else np.uint16).max),
            counts_per_electron=None,
            dead_pixels=() if data.mask is None else tuple((int(y), int(x)) for y, x in np.argwhere(~data.mask)),
        ),
        step=fixed(plan.step, "Å"),
        defocus=fixed(plan.defocus, "Å"),
        dose=fixed(plan.dose, "counts/Å²"),
        two_passes=file.interlacing,
        scan_patterns=(plan.scan_pattern,),
        electrons_per_pattern=(plan.electrons_per_pattern, plan.electrons_per_pattern),
        area=plan.field,
    )
    return Acquisition(
        patterns=data.patterns,
        received=np.ones(len(positions), dtype=bool),
        plan=plan,
        description=description,
        metadata=Metadata(sample=printable(path.name)),
        outcome=Outcome(id=plan.id, state="done", frames=len(positions)),
    )


def scored_square(field: Rectangle) -> Rectangle:
    """The part of a scan that is scored."""
    edge = SCORED * min(field.height, field.width)
    return Rectangle(
        y=field.y + (field.height - edge) / 2, x=field.x + (field.width - edge) / 2, height=edge, width=edge
    )


def score_choice(description: Description, scored: Rectangle) -> ScoreChoice:
    """Rings one Fourier pixel wide, from two of them up to twice the aperture or the sampling limit."""
    pixel = max(
        optics.pixel_size(description.detector.angular_pixel, n, description.voltage)
        for n in description.detector.shape
    )
    k_aperture = optics.spatial_frequency(description.semiangle, description.voltage)
    k_max = min(2 * k_aperture, 0.95 / (2 * pixel))
    # a step in a wrong unit makes a field of micrometres, which is doubted where the positions are checked
    ring = max(1 / scored.height, k_max / MAX_RINGS)
    k_max = max(4 * ring, k_max)
    return ScoreChoice(k_min=2 * ring, k_max=k_max, ring_width=ring)
