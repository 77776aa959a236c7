"""From a file to what a reconstruction takes: positions, optics and whole detector pixels beside the patterns.

The file is an acquisition of ours, or a recording of any format that `instrument.recordings` reads.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from agent.errors import BadInputError
from agent.reconstruction import DiffractionData, fit_disc, selected
from instrument import optics
from instrument.geometry import Geometry
from instrument.models import Interlacing
from instrument.recordings import (
    Number,
    Recording,
    RecordingOptions,
    check_given,
    check_range,
    counts_of,
    read_recording,
)

_UNSTATED = RecordingOptions()
_UNKNOWN = Geometry()


@dataclass(frozen=True)
class PatternFile:
    """Diffraction patterns as a file has them, not calibrated beyond what it says.

    Attributes:
        data: the patterns that were received, in scan order, with positions and optics; `data.patterns` may be a memory map, and
            of either byte order.
        scan_shape: (scan_y, scan_x) where `data` is a complete raster, or two of them; None otherwise.
        pattern: in which order they were scanned, where `scan_shape` is known.
        interlacing: of two passes, where `data` holds both of them completely; None otherwise.
        step: scan step size, Å.
        geometry_known: whether `data.detector_to_scan` and `data.defocus` are more than a guess.
        notes: sentences for the user: where each number came from, what was left out or assumed.
    """

    data: DiffractionData
    scan_shape: tuple[int, int] | None
    step: float
    geometry_known: bool
    notes: tuple[str, ...] = ()
    pattern: Literal["raster", "serpentine", "spiral"] = "raster"
    interlacing: Interlacing | None = None


def read_patterns(path: Path, options: RecordingOptions = _UNSTATED, geometry: Geometry = _UNKNOWN) -> PatternFile:
    """Read a 4D data set.

    Args:
        path: acquisition file of a campaign, or a recording of any format that is read.
        options: what the file does not say, or says wrongly. `angular_pixel` may be missing (the disc is `semiangle` wide),
            and so may `defocus` (0; parallax finds it).
        geometry: of it only the pixels that do not count are used, besides those that a recording names itself.

    Returns:
        Patterns (n, ky, kx) with their positions and optics.

    Raises:
        BadInputError: no such file, damaged, not four-dimensional, a number missing or not positive; one sentence.
    """
    if path.suffix.lower() != ".part" and is_acquisition(path):
        options.allow_only(path)
        return _from_acquisition(path, options.numbers)
    recording = read_recording(path, options)
    n_y, n_x = recording.patterns.shape[2:]
    good = geometry.counting((n_y, n_x))
    if good is not None:
        recording = replace(recording, mask=good if recording.mask is None else good & (recording.mask != 0))
    return _assemble(recording)


def is_acquisition(path: Path) -> bool:
    """Whether a campaign of this program has written the file; False for what cannot be opened."""
    import h5py

    try:
        with h5py.File(path, "r") as file:
            return "entry/measurement/patterns" in file
    except OSError:
        return False


def _from_acquisition(path: Path, given: Mapping[str, float]) -> PatternFile:
    from agent.storage.acquisition_file import read_acquisition

    check_given(given)
    check_range(path, given)
    acquisition = read_acquisition(path)
    plan, description, received = acquisition.plan, acquisition.description, acquisition.received
    if not received.any():
        msg = f"{path}: no pattern of this acquisition arrived"
        raise BadInputError(msg)
    mask = np.ones(description.detector.shape, dtype=bool)
    for row, column in description.detector.dead_pixels:
        mask[row, column] = False
    known = description.scan_rotation is not None and description.mirrored is not None
    step = given.get("step", plan.step)
    data = DiffractionData(
        patterns=selected(acquisition.patterns, received),
        positions=plan.scan_positions()[received] * (step / plan.step),
        pass_index=plan.pass_index()[received] if plan.passes > 1 else None,
        voltage=given.get("voltage", description.energy),
        semiangle=given.get("semiangle", description.semiangle),
        angular_pixel=given.get("angular_pixel", description.detector.angular_pixel),
        defocus=given.get("defocus", plan.defocus),
        detector_to_scan=optics.detector_to_scan(description.scan_rotation or 0.0, bool(description.mirrored)),
        aberrations=description.nominal_aberrations,
        mask=None if mask.all() else mask,
    )
    complete = plan.positions is None and bool(received.all())
    return PatternFile(
        data,
        plan.shape if complete else None,
        step,
        geometry_known=known,
        pattern=plan.pattern,
        interlacing=plan.interlacing if complete and plan.passes > 1 else None,
    )


def _assemble(recording: Recording) -> PatternFile:
    """Positions of the raster, and the angular pixel from the bright-field disc where nobody has said it."""
    path = recording.path
    numbers = recording.require("voltage", "semiangle", "step")
    counts = counts_of(recording)
    if numbers.get("angular_pixel", 0) <= 0:
        try:
            disc = fit_disc(counts.mean, counts.mask)
        except BadInputError as error:
            msg = f"{path}: does not say angular_pixel, and {error}"
            raise BadInputError(msg) from error
        angular_pixel = Number(numbers["semiangle"] / disc.radius, "the bright-field disc")
        recording = replace(recording, numbers={**recording.numbers, "angular_pixel": angular_pixel})
    n_y, n_x = recording.patterns.shape[:2]
    numbers, step = recording.require(), numbers["step"]
    scan = np.stack(np.meshgrid(np.arange(n_y) + 0.5, np.arange(n_x) + 0.5, indexing="ij"), axis=-1)
    data = DiffractionData(
        patterns=counts.patterns,
        positions=scan.reshape(-1, 2) * step,
        voltage=numbers["voltage"],
        semiangle=numbers["semiangle"],
        angular_pixel=numbers["angular_pixel"],
        defocus=numbers.get("defocus", 0.0),
        mask=counts.mask,
    )
    notes = (recording.sources(), *recording.notes, *counts.notes)
    return PatternFile(data, (n_y, n_x), step, geometry_known=False, notes=notes)
