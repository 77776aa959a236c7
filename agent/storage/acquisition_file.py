"""Acquisition files: what the detector counted and everything needed to make sense of it, in HDF5.

Frames are stored as they came over the wire: a bslz4 payload is an HDF5 bitshuffle/LZ4 chunk (filter 32008), one chunk a
frame. The file is never modified once it has its name. README.md of this room says what is where in it.
"""

from __future__ import annotations

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
from agent.storage.emd import Axis, write_tree
from agent.storage.frame_mirror import FrameMirror
from agent.storage.nexus import NewFile, put, read_context, read_text, reading, write_entry, write_image
from instrument import optics, stream
from instrument.chunks import decode_chunk
from instrument.errors import StreamError
from instrument.memory import load_dataset
from instrument.models import AcquisitionPlan, Description, Outcome

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


class AcquisitionWriter:
    """The sink of an acquisition's frames: takes them as they arrive, in any order, compressed as they are.

    `finish` gives the file its name; leaving the context without it removes what was written. Where the disk is full
    everything raises StoppedError, and nothing half-written stays behind.

    Args:
        path: of the file to write.
        plan: what was asked for.
        description: of the instrument; its detector says what frames are like.
        metadata: written along.

    Attributes:
        received: (n_positions,) bool, whether the frame of a position has arrived.
        mirror: takes every frame as well, for whoever looks at them while the scan runs; None: nobody does.
    """

    def __init__(self, path: Path, plan: AcquisitionPlan, description: Description, metadata: Metadata) -> None:
        self.path = path
        self.plan = plan
        self.received = np.zeros(plan.n_positions, dtype=bool)
        self.mirror: FrameMirror | None = None
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
        """Look at a series before its frames come (instrument.receiver.FrameSink).

        Raises:
            StreamError: shape or type of its frames is not what the detector's description says.
        """
        if header.shape != self._shape or np.dtype(header.image_dtype) != self._dtype:
            msg = (
                f"the detector sends {header.shape} {header.image_dtype}, its description says {self._shape} "
                f"{self._dtype.name}"
            )
            raise StreamError(msg)

    def frame(self, index: int, chunk: bytes, pattern_shape: tuple[int, int], dtype: np.dtype[Any]) -> None:
        """Store a frame (instrument.receiver.FrameSink).

        Args:
            index: its scan position.
            chunk: the pattern as an HDF5 bitshuffle/LZ4 chunk.
            pattern_shape: (detector_y, detector_x).
            dtype: of the pattern.
        """
        pattern = decode_chunk(chunk, pattern_shape, dtype)
        with self._new.writing():
            self._patterns.id.write_direct_chunk((index, 0, 0), chunk)
        self.received[index] = True
        self._sum += pattern
        self._dark_field[index] = np.vdot(pattern, self._outside)
        if self.mirror is not None:
            self.mirror.put(index, pattern)

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
        if plan.passes > 1:
            put(measurement, "pass", plan.pass_index(), "", "in which pass each position was scanned, 0 or 1")
        put(measurement, "received", self.received, "", "whether the frame of this position arrived")
        if not self.received.all():  # an empty data set is what HyperSpy cannot read
            put(measurement, "missing", np.flatnonzero(~self.received), "", "positions without a frame")
        measurement["outcome"] = outcome.model_dump_json()
        rows, columns = (
            (np.arange(n) - n // 2) * detector.angular_pixel for n in (detector.shape[0], detector.shape[1])
        )
        mean = self._sum / max(int(self.received.sum()), 1)
        write_image(
            entry, "mean_pattern", mean, "counts", (rows, columns), "mrad", "mean diffraction pattern", logarithmic=True
        )
        if plan.scan_pattern != "raster":
            measurement["positions"].attrs["pattern"] = plan.scan_pattern
        for number, raster in enumerate(plan.rasters()):
            positions = plan.scan_positions()[raster]
            y, x = positions[:, 0, 0], positions[0, :, 1]
            suffix, which = ("", "") if number == 0 else (f"_{number + 1}", ", second pass")
            title = f"counts outside the bright-field disc{which}"
            write_image(entry, f"dark_field{suffix}", self._dark_field[raster], "counts", (y, x), "Å", title)
            if plan.pattern != "raster":  # a view of patterns that do not follow each other would be slower than a copy
                continue
            self._write_raster(
                file,
                raster,
                (("scan_y", y, "Å"), ("scan_x", x, "Å"), ("detector_y", rows, "mrad"), ("detector_x", columns, "mrad")),
                suffix,
            )

    def _write_raster(self, file: h5py.File, raster: NDArray[np.int64], axes: tuple[Axis, ...], suffix: str) -> None:
        """The patterns as (scan_y, scan_x, detector_y, detector_x), which is how others expect them: a view, no copy.

        Of two offset passes each has a view; only that of the first has a second name in the EMD tree.
        """
        n_y, n_x = raster.shape
        view = h5py.VirtualLayout((n_y, n_x, *self._shape), self._dtype)
        patterns = h5py.VirtualSource(".", self._patterns.name, self._patterns.shape, self._dtype)
        every = 2 if self.plan.passes == 2 and self.plan.interlacing == "checkerboard" else 1
        for row, index in enumerate(raster):
            for first in range(min(every, n_x)):
                pattern = index[first::every]  # of one pass, one after the other
                view[row, first::every] = patterns[int(pattern[0]) : int(pattern[-1]) + 1]
        group = file["entry"].create_group(f"diffraction{suffix}")
        group.attrs["NX_class"] = "NXdata"
        group.attrs["signal"] = "data"
        group.attrs["axes"] = [name for name, _, _ in axes]
        group.attrs["interpretation"] = "image"
        group["title"] = "diffraction patterns"
        data = group.create_virtual_dataset("data", view, fillvalue=0)
        for key, value in (("units", "counts"), ("long_name", "diffraction patterns"), ("interpretation", "image")):
            data.attrs[key] = value
        for name, values, unit in axes:
            put(group, name, values, unit, name)
        description = self._description
        calibration: dict[str, float | str] = {
            "R_pixel_size": self.plan.step,
            "R_pixel_units": "A",
            "Q_pixel_size": optics.spatial_frequency(description.detector.angular_pixel, description.voltage),
            "Q_pixel_units": "A^-1",
        }
        if not suffix:
            write_tree(file, "datacube", "DataCube", data, axes, calibration)


def read_acquisition(path: Path) -> Acquisition:
    """Read an acquisition file.

    Args:
        path: of the file.

    Raises:
        BadInputError: it is no acquisition file, or damaged.
    """
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


def require_space(folder: Path, needed: int) -> None:
    """Make sure, before an exposure, that the disk holds it.

    Args:
        folder: on the disk in question.
        needed: bytes; RESERVE more must be free.

    Raises:
        StoppedError: there is not enough room.
    """
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
