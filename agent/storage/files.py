"""Bulk data on disk: one HDF5 file per acquisition and one per reconstruction, never modified once they have their name.

Frames are stored as they came over the wire: a bslz4 payload is an HDF5 bitshuffle/LZ4 chunk (filter 32008), one chunk a
frame. Both files follow the NeXus default-plot chain (root `default` → NXentry → NXdata `signal`/`axes`), so that H5Web and
silx open them on a picture, and name things after NXem. Lengths are in Å, angles in mrad, energies in eV; every dataset
carries its `units`.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import h5py
import hdf5plugin
import numpy as np
from numpy.typing import NDArray

from agent.config import Metadata
from agent.errors import StoppedError
from agent.reconstruction import Reconstruction
from agent.records import Score
from agent.storage.nexus import NewFile, put, read_context, read_pair, read_text, reading, write_entry, write_image
from instrument import stream
from instrument.errors import StreamError
from instrument.memory import load_dataset
from instrument.models import AcquisitionPlan, Description, Outcome, Rectangle

RESERVE = 64 * 2**20
"""Bytes that stay free on the disk besides what an acquisition needs: journal, log and reconstructions."""


@dataclass(frozen=True)
class Acquisition:
    """What an acquisition file holds.

    Attributes:
        patterns: (n, detector_y, detector_x) counts, unsigned; zeros where a frame is missing. In a file without a name where
            memory cannot hold them.
        received: (n,) bool, False where a frame is missing.
        plan: what was asked for; `plan.scan_positions()` are the (n, 2) set-points, Å.
        description: of the instrument when it was acquired.
        metadata: sample, operator, proposal.
        outcome: how it ended, as the instrument journalled it.
    """

    patterns: NDArray[Any]
    received: NDArray[np.bool_]
    plan: AcquisitionPlan
    description: Description
    metadata: Metadata
    outcome: Outcome


@dataclass(frozen=True)
class StoredReconstruction:
    """What a reconstruction file holds.

    Attributes:
        reconstruction: object, probe and all that is known of them.
        score: of the acquisition.
        half_phases: (2, y, x), rad, of the two half-count reconstructions, on the grid of `reconstruction.phase`.
        scored: the part that was scored, in the frame of the positions, Å.
        plan: of the acquisition.
        description: of the instrument.
        metadata: sample, operator, proposal.
        notes: what the reconstruction has to say to a person.
    """

    reconstruction: Reconstruction
    score: Score
    half_phases: NDArray[np.float32] | None
    scored: Rectangle
    plan: AcquisitionPlan
    description: Description
    metadata: Metadata
    notes: tuple[str, ...]


class AcquisitionWriter:
    """The sink of an acquisition's frames: takes them as they arrive, in any order, compressed as they are.

    `finish` gives the file its name; leaving the context without it removes what was written. Raises StoppedError when
    the disk is full; nothing half-written stays behind.
    """

    def __init__(self, path: Path, plan: AcquisitionPlan, description: Description, metadata: Metadata) -> None:
        self.path = path
        self.plan = plan
        self.received = np.zeros(plan.n_positions, dtype=bool)
        self._description = description
        self._metadata = metadata
        self._shape = description.detector.shape
        self._dtype = np.dtype(description.detector.dtype)
        self._sum: NDArray[np.uint64] = np.zeros(self._shape, dtype=np.uint64)
        self._dark_field: NDArray[np.float64] = np.zeros(plan.n_positions)
        self._outside = _outside_disc(description)
        self._new = NewFile(path)
        with self._new.writing() as file:
            self._patterns = file.create_dataset(
                "entry/measurement/patterns",
                (plan.n_positions, *self._shape),
                self._dtype,
                chunks=(1, *self._shape),
                fillvalue=0,
                **hdf5plugin.Bitshuffle(nelems=0, cname="lz4"),
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._new.__exit__(*exc_info)

    def start(self, header: stream.SeriesStart) -> None:
        """Refuse a series that is not what the detector's description says; raises StreamError."""
        if header.shape != self._shape or np.dtype(header.image_dtype) != self._dtype:
            msg = (
                f"the detector sends {header.shape} {header.image_dtype}, its description says {self._shape} "
                f"{self._dtype.name}"
            )
            raise StreamError(msg)

    def frame(self, index: int, chunk: bytes, pattern_shape: tuple[int, int], dtype: np.dtype[Any]) -> None:
        """Store the frame of scan position `index` (instrument.receiver.FrameSink)."""
        pattern = stream.decode_chunk(chunk, pattern_shape, dtype)
        with self._new.writing():
            self._patterns.id.write_direct_chunk((index, 0, 0), chunk)
        self.received[index] = True
        self._sum += pattern
        self._dark_field[index] = np.vdot(pattern, self._outside)

    def finish(self, outcome: Outcome) -> None:
        """Write everything that goes with the frames and give the file its name."""
        with self._new.writing() as file:
            self._write_context(file, outcome)
        self._new.publish()

    def _write_context(self, file: h5py.File, outcome: Outcome) -> None:
        plan, detector = self.plan, self._description.detector
        entry = write_entry(file, plan, self._description, self._metadata, default="mean_pattern")
        measurement = entry["measurement"]
        measurement.attrs["NX_class"] = "NXcollection"
        self._patterns.attrs["units"] = "counts"
        self._patterns.attrs["interpretation"] = "image"
        put(measurement, "positions", plan.scan_positions(), "Å", "probe set-points (y, x), specimen frame")
        put(measurement, "received", self.received, "", "whether the frame of this position arrived")
        put(measurement, "missing", np.flatnonzero(~self.received), "", "positions without a frame")
        measurement["outcome"] = outcome.model_dump_json()
        rows, columns = (
            (np.arange(n) - n // 2) * detector.angular_pixel for n in (detector.shape[0], detector.shape[1])
        )
        mean = self._sum / max(int(self.received.sum()), 1)
        write_image(
            entry, "mean_pattern", mean, "counts", (rows, columns), "mrad", "mean diffraction pattern", logarithmic=True
        )
        if plan.positions is None:
            n_y, n_x = plan.shape
            y, x = plan.field.y + (np.arange(n_y) + 0.5) * plan.step, plan.field.x + (np.arange(n_x) + 0.5) * plan.step
            write_image(
                entry,
                "dark_field",
                self._dark_field.reshape(n_y, n_x),
                "counts",
                (y, x),
                "Å",
                "counts outside the bright-field disc",
            )


def read_acquisition(path: Path) -> Acquisition:
    """Read an acquisition file. Raises BadInputError where it is none, or damaged."""
    with reading(path, "acquisition") as entry:
        measurement = entry["measurement"]
        plan, description, metadata = read_context(entry)
        return Acquisition(
            patterns=load_dataset(measurement["patterns"]),
            received=measurement["received"][:].astype(bool),
            plan=plan,
            description=description,
            metadata=metadata,
            outcome=Outcome.model_validate_json(read_text(measurement["outcome"])),
        )


def write_reconstruction(
    path: Path,
    reconstruction: Reconstruction,
    score: Score,
    half_phases: NDArray[np.float32] | None,
    scored: Rectangle,
    acquisition: Acquisition,
    notes: tuple[str, ...] = (),
) -> None:
    """Write a reconstruction file.

    Args:
        half_phases: (2, y, x), rad, of the two half-count reconstructions.
        scored: the part that was scored.
        acquisition: what it was made from; its plan, description and metadata are written along.

    Raises:
        StoppedError: the disk is full; nothing half-written stays behind.
    """
    r = reconstruction
    with NewFile(path) as new, new.writing() as file:
        entry = write_entry(
            file, acquisition.plan, acquisition.description, acquisition.metadata, default="phase_image"
        )
        y, x = (r.origin[axis] + np.arange(r.phase.shape[axis]) * r.pixel_size[axis] for axis in (0, 1))
        write_image(entry, "phase_image", r.phase, "rad", (y, x), "Å", "phase of the object")
        write_image(entry, "amplitude_image", np.abs(r.object).prod(axis=0), "", (y, x), "Å", "amplitude of the object")
        probe_axes = tuple((np.arange(n) - n // 2) * p for n, p in zip(r.probe.shape[1:], r.pixel_size, strict=True))
        intensity = (np.abs(r.probe) ** 2).sum(axis=0)
        write_image(entry, "probe_image", intensity, "counts", probe_axes, "Å", "intensity of the probe, all states")
        _write_frc(entry, score)

        process = entry.create_group("reconstruction")
        process.attrs["NX_class"] = "NXprocess"
        process["program"] = "ptychopilot"
        put(process, "object", r.object, "", "complex transmission (slices, y, x)")
        put(process, "phase", r.phase, "rad", "phase summed over the slices")
        put(process, "probe", r.probe, "", "probe states (mode, y, x), real space, centred")
        put(process, "positions", r.positions, "Å", "probe positions (y, x) as used")
        put(process, "illuminated", r.illuminated, "", "summed probe intensity relative to its maximum")
        put(process, "pixel_size", np.asarray(r.pixel_size), "Å", "(y, x)")
        put(process, "origin", np.asarray(r.origin), "Å", "(y, x) of the first pixel")
        put(process, "defocus", r.defocus, "Å", "measured, positive for underfocus")
        put(process, "deviance", np.asarray(r.deviance), "", "Poisson deviance per detector pixel, one value a pass")
        put(process, "passes", r.passes, "", "passes over all patterns")
        put(process, "seconds", r.seconds, "s", "wall-clock time")
        process["device"] = r.device
        process["aberrations"] = json.dumps(dict(r.aberrations))
        if r.background is not None:
            put(process, "background", r.background, "counts", "counts a pattern that no coherent model explains")
        if half_phases is not None:
            put(process, "half_phases", half_phases, "rad", "phases of the two half-count reconstructions (half, y, x)")
        process["score"] = score.model_dump_json()
        process["scored"] = scored.model_dump_json()
        process.create_dataset("notes", data=list(notes), dtype=h5py.string_dtype())
        new.publish()


def read_reconstruction(path: Path) -> StoredReconstruction:
    """Read a reconstruction file. Raises BadInputError where it is none, or damaged."""
    with reading(path, "reconstruction") as entry:
        group = entry["reconstruction"]
        plan, description, metadata = read_context(entry)
        return StoredReconstruction(
            reconstruction=Reconstruction(
                object=group["object"][:],
                phase=group["phase"][:],
                pixel_size=read_pair(group["pixel_size"]),
                origin=read_pair(group["origin"]),
                probe=group["probe"][:],
                positions=group["positions"][:],
                defocus=float(group["defocus"][()]),
                aberrations=json.loads(read_text(group["aberrations"])),
                background=group["background"][:] if "background" in group else None,
                deviance=tuple(group["deviance"][:].tolist()),
                passes=int(group["passes"][()]),
                illuminated=group["illuminated"][:],
                device=read_text(group["device"]),
                seconds=float(group["seconds"][()]),
            ),
            score=Score.model_validate_json(read_text(group["score"])),
            half_phases=group["half_phases"][:] if "half_phases" in group else None,
            scored=Rectangle.model_validate_json(read_text(group["scored"])),
            plan=plan,
            description=description,
            metadata=metadata,
            notes=tuple(note.decode() for note in group["notes"][:]),
        )


def require_space(folder: Path, needed: int) -> None:
    """Raise StoppedError unless the disk of `folder` holds `needed` more bytes and a reserve. Asked before an exposure."""
    free = shutil.disk_usage(folder).free
    if free < needed + RESERVE:
        msg = (
            f"the disk of {folder} has {free / 1e6:.0f} MB left, the next acquisition needs up to "
            f"{(needed + RESERVE) / 1e6:.0f} MB; nothing was exposed. Free some and resume"
        )
        raise StoppedError(msg)


def _outside_disc(description: Description) -> NDArray[np.float32]:
    """(detector_y, detector_x), 1 outside the bright-field disc as calibrated, 0 inside and on dead pixels."""
    detector = description.detector
    rows, columns = (np.arange(n) - n // 2 for n in detector.shape)
    angle = np.hypot(rows[:, None], columns[None, :]) * detector.angular_pixel
    outside = (angle > 1.1 * description.semiangle).astype(np.float32)
    for row, column in detector.dead_pixels:
        outside[row, column] = 0
    return outside


def _write_frc(entry: h5py.Group, score: Score) -> None:
    data = entry.create_group("fourier_ring_correlation")
    data.attrs["NX_class"] = "NXdata"
    data.attrs["signal"] = "frc"
    data.attrs["axes"] = ["frequency"]
    put(data, "frc", np.asarray(score.frc, dtype=np.float64), "", "Fourier ring correlation of the two halves")
    put(data, "frequency", np.asarray(score.frequency, dtype=np.float64), "1/Å", "spatial frequency")
    put(data, "pairs", np.asarray(score.pairs, dtype=np.float64), "", "independent Fourier pairs per ring")
