"""`ptychopilot reconstruct`: one data set, calibrated, reconstructed and scored as a campaign would do it."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from agent.config import Metadata, ReconstructionChoice, ScoreChoice
from agent.errors import BadInputError
from agent.processing import ProcessingJob, process
from agent.quantities import signed_length, uncertain
from agent.reconstruction.bright_field import fit_disc
from agent.report.pictures import Picture, phase_image
from agent.store import AcquisitionWriter, read_acquisition, read_reconstruction
from instrument import optics, stream
from instrument.models import AcquisitionPlan, Description, Detector, Outcome, Parameter, Rectangle
from instrument.recording import Recording, RecordingError, open_recording

SCORED = 0.8
"""Part of the scan's shorter edge that is scored; towards the rim the overlap thins out."""

NEEDED = {
    "voltage": ("acceleration voltage", "--voltage kV"),
    "semiangle": ("convergence semi-angle", "--semiangle mrad"),
    "step": ("scan step", "--step Å"),
    "defocus": ("nominal defocus", "--defocus Å"),
}
"""Numbers without which there is no reconstruction -> what they are and the option that gives them."""


def reconstruct_file(path: Path, out: Path | None, given: Mapping[str, float], passes: int) -> None:
    """Reconstruct `path` and write object (HDF5) and phase (PNG) into `out`, the current folder by default.

    Args:
        given: numbers that the file lacks or has wrong: voltage (eV), semiangle and angular_pixel (mrad), step and
            defocus (Å).

    Raises:
        BadInputError: the file is no 4D data set, is damaged, or lacks a number that was not given.
    """
    folder = out or Path.cwd()
    console = Console()
    with tempfile.TemporaryDirectory() as scratch:
        acquisition = path if _is_acquisition(path) else _import_recording(path, given, Path(scratch))
        plan, description = (read := read_acquisition(acquisition)).plan, read.description
        folder.mkdir(parents=True, exist_ok=True)
        output = folder / f"{path.stem}-reconstruction.h5"
        scored = _scored(plan.field)
        job = ProcessingJob(
            acquisition=acquisition.resolve(),
            output=output.resolve(),
            column_output=Path(scratch) / "column.json",
            scored=scored,
            reconstruction=ReconstructionChoice(passes=passes),
            score=_score_choice(description, scored),
        )
        with console.status("reading") as status:
            result = process(job, lambda phase, fraction: status.update(f"{phase}: {fraction:.0%}"))
    picture = Picture.of(read_reconstruction(output).reconstruction)
    png = output.with_name(f"{path.stem}-phase.png")
    png.write_bytes(phase_image(picture, picture.levels()))
    resolution = "not reached" if result.score.resolution is None else f"{result.score.resolution:.3g} Å"
    for line in (
        *result.notes,
        f"score: {uncertain(result.score.value, result.score.sd)} bit/Å², half-bit resolution {resolution}",
        f"defocus: {signed_length(result.defocus_measured)}, {result.passes} passes on the {result.device}",
        f"object:  {output.resolve()}",
        f"picture: {png.resolve()}",
    ):
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def _is_acquisition(path: Path) -> bool:
    """Whether a campaign has written the file. What cannot be opened is left to the reader of recordings to explain."""
    try:
        with h5py.File(path, "r") as file:
            return "entry/measurement/patterns" in file
    except OSError:
        return False


def _import_recording(path: Path, given: Mapping[str, float], scratch: Path) -> Path:
    """A recording as an acquisition file in `scratch`."""
    try:
        with open_recording(path) as recording:
            patterns = _counts(recording)
            numbers = {**recording.numbers, **given}
    except RecordingError as error:
        raise BadInputError(str(error)) from error
    for name, (meaning, option) in NEEDED.items():
        if name not in numbers:
            msg = f"{path} does not tell the {meaning}; give it with {option}"
            raise BadInputError(msg)
    if "angular_pixel" not in numbers:
        # The bright-field disc is as wide as the aperture.
        numbers["angular_pixel"] = numbers["semiangle"] / fit_disc(patterns.mean(axis=(0, 1))).radius
    plan, description = _plan(patterns, numbers), _description(path, patterns, numbers)
    target = scratch / "acquisition.h5"
    with AcquisitionWriter(target, plan, description, Metadata(sample=path.name)) as writer:
        for index, pattern in enumerate(patterns.reshape(-1, *patterns.shape[2:])):
            writer.write(index, stream.compress(np.ascontiguousarray(pattern)))
        writer.finish(Outcome(id=plan.id, state="done", frames=plan.n_positions))
    return target


def _counts(recording: Recording) -> NDArray[Any]:
    """(scan_y, scan_x, detector_y, detector_x) as uint8 or uint16. Raises BadInputError for what are no counts."""
    data = recording.data[...]
    if data.dtype in (np.uint8, np.uint16):
        return np.asarray(data)
    low, high = float(data.min()), float(data.max())
    if not (low >= 0 and high <= np.iinfo(np.uint16).max and np.array_equal(data, np.rint(data))):
        msg = f"{recording.path}: holds values from {low:g} to {high:g}; whole counts from 0 to 65535 are needed"
        raise BadInputError(msg)
    return np.asarray(data, dtype=np.uint16)


def _plan(patterns: NDArray[Any], numbers: Mapping[str, float]) -> AcquisitionPlan:
    step = numbers["step"]
    field = Rectangle(y=0.0, x=0.0, height=patterns.shape[0] * step, width=patterns.shape[1] * step)
    counts = float(patterns.sum(dtype=np.float64)) / (patterns.shape[0] * patterns.shape[1])
    return AcquisitionPlan(
        id="recording",
        campaign="recording",
        region="recording",
        field=field,
        step=step,
        defocus=numbers["defocus"],
        dose=counts / step**2,
    )


def _description(path: Path, patterns: NDArray[Any], numbers: Mapping[str, float]) -> Description:
    plan = _plan(patterns, numbers)

    def fixed(value: float, unit: str) -> Parameter:
        return Parameter(kind="fixed", unit=unit, values=(value,))

    return Description(
        name=path.name,
        voltage=numbers["voltage"],
        semiangle=numbers["semiangle"],
        detector=Detector(
            shape=patterns.shape[2:],
            angular_pixel=numbers["angular_pixel"],
            dtype="uint8" if patterns.dtype == np.uint8 else "uint16",
            saturation=int(np.iinfo(patterns.dtype).max),
            counts_per_electron=numbers.get("counts_per_electron"),
        ),
        step=fixed(plan.step, "Å"),
        defocus=fixed(plan.defocus, "Å"),
        dose=fixed(plan.dose, "counts/Å²"),
        electrons_per_pattern=(plan.electrons_per_pattern, plan.electrons_per_pattern),
        area=plan.field,
    )


def _scored(field: Rectangle) -> Rectangle:
    edge = SCORED * min(field.height, field.width)
    return Rectangle(
        y=field.y + (field.height - edge) / 2, x=field.x + (field.width - edge) / 2, height=edge, width=edge
    )


def _score_choice(description: Description, scored: Rectangle) -> ScoreChoice:
    """Rings one Fourier pixel wide, from two of them up to twice the aperture or the sampling limit."""
    pixel = max(
        optics.pixel_size(description.detector.angular_pixel, n, description.voltage)
        for n in description.detector.shape
    )
    k_aperture = optics.spatial_frequency(description.semiangle, description.voltage)
    ring = 1 / scored.height
    return ScoreChoice(k_min=2 * ring, k_max=max(4 * ring, min(2 * k_aperture, 0.95 / (2 * pixel))), ring_width=ring)
