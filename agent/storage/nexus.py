"""HDF5 files with the manners of NeXus: the default-plot chain, names after NXem, units, and a name only when whole.

The library's default (earliest) bounds are used: a killed file of the newest bounds cannot be opened by ordinary readers.
"""

from __future__ import annotations

import errno
import io
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import h5py
import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from agent.config import Metadata
from agent.errors import BadInputError, StoppedError
from agent.storage.atomic import part_of, publish
from instrument.models import AcquisitionPlan, Description

DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""What the operating system says where disk, quota or the limit of file sizes are reached."""


class NewFile:
    """An HDF5 file in the making. Leaving the context without `publish` removes it.

    Inside `writing`, a full disk removes the file and becomes a StoppedError.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._part = part_of(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        self._disk = _Disk(self._part)
        self.file = h5py.File(self._disk, "w")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.file:
            self._discard()

    @contextmanager
    def writing(self) -> Iterator[h5py.File]:
        """Where data are written."""
        try:
            yield self.file
            self._disk.require_whole()
        except OSError as error:
            # HDF5 may trip over what is missing before anybody asks the disk; its error has no number then.
            cause = self._disk.error or error
            if cause.errno not in DISK_FULL:
                raise
            self._discard()
            limit = " or the limit of file sizes (`ulimit -f`) is reached" if cause.errno == errno.EFBIG else ""
            msg = f"the disk is full{limit}: {self.path} could not be written and was removed; free some and resume"
            raise StoppedError(msg) from error

    def publish(self) -> None:
        """Close the file, make sure it is on the disk and give it its name."""
        with self.writing():
            self.file.close()
            self._disk.close()
            self._disk.require_whole()
            publish(self.path)

    def _discard(self) -> None:
        self.file.close()
        self._disk.close()
        self._part.unlink(missing_ok=True)


class _Disk(io.FileIO):
    """The file beneath HDF5. An error is kept, and from then on everything is said to be written.

    HDF5 cannot close a file that it cannot flush: it prints a hundred lines and ends the process with a segmentation fault.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path, "w+")
        self.error: OSError | None = None

    def write(self, data: Any, /) -> int:
        """Write all of `data`, or say so."""
        view = memoryview(data).cast("B")
        written = 0
        try:
            while self.error is None and written < len(view):
                written += super().write(view[written:])
        except OSError as error:
            self.error = error
        return len(view)

    def truncate(self, size: int | None = None, /) -> int:
        """Make the file that long, or say so."""
        try:
            return super().truncate(size)
        except OSError as error:
            self.error = self.error or error
            return self.tell() if size is None else size

    def require_whole(self) -> None:
        """Raise the OSError with which something could not be written, if there was one."""
        if self.error is not None:
            raise OSError(self.error.errno, self.error.strerror, str(self.name)) from self.error


def put(group: h5py.Group, name: str, value: Any, units: str, long_name: str) -> None:
    """A dataset with its unit and a name that viewers show."""
    dataset = group.create_dataset(name, data=value)
    dataset.attrs["units"] = units
    dataset.attrs["long_name"] = long_name


def write_image(
    entry: h5py.Group,
    name: str,
    image: NDArray[Any],
    units: str,
    axes: tuple[NDArray[Any], ...],
    axes_units: str,
    title: str,
    logarithmic: bool = False,
) -> None:
    """Write an NXdata group with an image and its axes.

    Args:
        entry: the group that gets it.
        name: of the new group.
        image: (y, x).
        units: of the image.
        axes: coordinates of the rows and of the columns.
        axes_units: of both.
        title: what viewers show.
        logarithmic: whether viewers show it on a logarithmic scale.
    """
    data = entry.create_group(name)
    data.attrs["NX_class"] = "NXdata"
    data.attrs["signal"] = "image"
    data.attrs["axes"] = ["y", "x"]
    data.attrs["interpretation"] = "image"  # HyperSpy looks for it here, the others at the data set
    if logarithmic:
        data.attrs["SILX_style"] = '{"signal_scale_type": "log"}'
    data["title"] = title
    put(data, "image", np.asarray(image, dtype=np.float32), units, title)
    data["image"].attrs["interpretation"] = "image"
    for axis, values in zip(("y", "x"), axes, strict=True):
        put(data, axis, values, axes_units, axis)


def write_entry(
    file: h5py.File, plan: AcquisitionPlan, description: Description, metadata: Metadata, default: str
) -> h5py.Group:
    """Write the root and the NXentry with everything that is told in words and single numbers.

    Args:
        file: open for writing.
        plan: of the acquisition.
        description: of the instrument.
        metadata: sample, operator, proposal.
        default: name of the group that viewers show first.

    Returns:
        The entry.
    """
    file.attrs["NX_class"] = "NXroot"
    file.attrs["default"] = "entry"
    file.attrs["creator"] = "ptychopilot"
    entry = file.require_group("entry")
    entry.attrs["NX_class"] = "NXentry"
    entry.attrs["default"] = default
    entry["title"] = f"{plan.campaign}: {plan.id}"
    entry["entry_identifier"] = plan.id
    entry["experiment_identifier"] = _storable(metadata.proposal)
    entry["experiment_description"] = _storable(metadata.comment)
    entry["plan"] = plan.model_dump_json()
    entry["description"] = description.model_dump_json()
    entry["metadata"] = metadata.model_dump_json()
    for name, nx_class, value in (("sample", "NXsample", metadata.sample), ("user", "NXuser", metadata.operator)):
        group = entry.create_group(name)
        group.attrs["NX_class"] = nx_class
        group["name"] = _storable(value)
    _write_instrument(entry, plan, description)
    return entry


def _storable(text: str) -> str:
    """HDF5 ends a text at a NUL; a campaign of an earlier version may hold one."""
    return text.replace("\0", "")


def _write_instrument(entry: h5py.Group, plan: AcquisitionPlan, description: Description) -> None:
    instrument = entry.create_group("instrument")
    instrument.attrs["NX_class"] = "NXinstrument"
    instrument["name"] = description.name
    groups: dict[str, tuple[str, Mapping[str, tuple[float | None, str, str]]]] = {
        "source": ("NXsource", {"voltage": (description.voltage, "eV", "beam energy")}),
        "beam": (
            "NXbeam",
            {
                "semiangle": (description.semiangle, "mrad", "convergence semi-angle"),
                "current": (description.beam_current, "pA", "beam current"),
                "defocus": (plan.defocus, "Å", "nominal, positive for underfocus"),
                "dose": (plan.dose, description.dose_unit, "electrons per area of a scan cell"),
                "electrons": (plan.electrons, description.dose_unit.split("/")[0], "electrons of the scan"),
            },
        ),
        "scan": ("NXcollection", {"step": (plan.step, "Å", "scan step size")}),
        "detector": (
            "NXdetector",
            {
                "angular_pixel": (description.detector.angular_pixel, "mrad", "reciprocal-space sampling per pixel"),
                "saturation_value": (description.detector.saturation, "counts", "largest count of a pixel"),
                "counts_per_electron": (description.detector.counts_per_electron, "", "NaN where not known"),
            },
        ),
    }
    for name, (nx_class, fields) in groups.items():
        group = instrument.create_group(name)
        group.attrs["NX_class"] = nx_class
        for key, (value, units, long_name) in fields.items():
            put(group, key, np.nan if value is None else value, units, long_name)
    if description.wavelength is not None:
        put(instrument["beam"], "wavelength", description.wavelength, "Å", "of X-rays or light")
    put(instrument["scan"], "shape", np.asarray(plan.shape), "", "(scan_y, scan_x)")


def read_context(entry: h5py.Group) -> tuple[AcquisitionPlan, Description, Metadata]:
    """What `write_entry` has written."""
    return (
        AcquisitionPlan.model_validate_json(read_text(entry["plan"])),
        Description.model_validate_json(read_text(entry["description"])),
        Metadata.model_validate_json(read_text(entry["metadata"])),
    )


@contextmanager
def reading(path: Path, what: str) -> Iterator[h5py.Group]:
    """Open the entry of a file of this program.

    Args:
        path: of the file.
        what: names the kind of file in messages.

    Raises:
        BadInputError: the file is missing, damaged, or none of ours; also where reading it fails inside the context.
    """
    try:
        with h5py.File(path, "r") as file:
            yield file["entry"]
    except FileNotFoundError as error:
        msg = f"{path}: there is no such file"
        raise BadInputError(msg) from error
    except (OSError, KeyError, ValidationError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        msg = f"{path}: not a whole {what} file of this program ({reason})"
        raise BadInputError(msg) from error


def read_text(dataset: h5py.Dataset) -> str:
    """A string dataset."""
    text: str = dataset.asstr()[()]
    return text


def read_pair(dataset: h5py.Dataset) -> tuple[float, float]:
    """A dataset of two numbers."""
    first, second = dataset[:]
    return float(first), float(second)
