"""Master files of DECTRIS detectors (ARINA, QUADRO, ELA): patterns in a row in data files that the master links to.

NAME_master.h5 has external links entry/data/data_000001, … to entry/data/data of NAME_data_000001.h5, …, each (n, ky, kx). Where
it has none, the data files beside it are taken. The scan is --scan-shape, or the master's triggers and images per trigger,
or a square. NAME.h5 beside an ARINA's master may have the scan's step in nm (facts: py4DSTEM, read_arina).
"""

from __future__ import annotations

import glob
import math
import re
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from instrument.errors import BadInputError
from instrument.memory import allocate
from instrument.recordings.hdf5 import has_signature, open_hdf5, read_dataset
from instrument.recordings.raster import as_raster
from instrument.recordings.recording import Number, Recording, RecordingOptions
from instrument.recordings.units import number_in

_DATA = re.compile(r"data_\d+")
_SPECIFIC = "entry/instrument/detector/detectorSpecific"
_MASTER = "_master"


class DectrisFormat:
    """See `RecordingFormat`."""

    name = "DECTRIS master (_master.h5)"

    def recognises(self, path: Path) -> bool:
        """By links to data files, or by the names of files beside it."""
        if not has_signature(path):
            return False
        try:
            with open_hdf5(path) as file:
                return bool(_links(file)) or (path.stem.endswith(_MASTER) and bool(_siblings(path)))
        except BadInputError:
            return False

    def read(self, path: Path, options: RecordingOptions) -> Recording:
        """All data files in their order; pixels that the master's pixel mask names do not count. See `RecordingFormat.read`."""
        options.allow_only(path, "scan_shape")
        with ExitStack() as stack:
            master = stack.enter_context(open_hdf5(path))
            parts = _linked(path, master) or _beside(path, stack)
            if not parts:
                msg = f"{path}: has no patterns in its data files; copy all files of the recording into one folder"
                raise BadInputError(msg)
            frames = _joined(path, parts)
            mask, notes = _mask(master, frames.shape[1:])
            scan_shape = options.scan_shape or _scanned(master, len(frames))
        if options.scan_shape is None and scan_shape is not None:
            notes += (f"taken for a scan of {scan_shape[0]} × {scan_shape[1]}; give --scan-shape if it was another",)
        raster, left_out = as_raster(path, frames, scan_shape)
        return Recording(path, raster, _step(path), mask, (*notes, *left_out))


def _links(master: Any) -> list[str]:
    """Names of the links to data sets, in their order."""
    group = master.get("entry/data")
    return sorted(filter(_DATA.fullmatch, group.keys())) if hasattr(group, "keys") else []


def _siblings(path: Path) -> list[Path]:
    """The data files beside a master, in their order."""
    name = glob.escape(path.stem.removesuffix(_MASTER))
    return sorted(path.parent.glob(f"{name}_data_*.h5"))


def _linked(path: Path, master: Any) -> list[Any]:
    """The data sets to which the master links."""
    parts = []
    for key in _links(master):
        try:
            parts.append(master["entry/data"][key])
        except (KeyError, OSError) as error:
            missing = getattr(master["entry/data"].get(key, getlink=True), "filename", key)
            msg = f"{path}: its data file {missing} cannot be opened; copy all files of the recording into one folder"
            raise BadInputError(msg) from error
    return parts


def _beside(path: Path, stack: ExitStack) -> list[Any]:
    """The data sets of the files beside the master; `stack` keeps them open."""
    files = [stack.enter_context(open_hdf5(other)) for other in _siblings(path)]
    return [file["entry/data/data"] for file in files if "entry/data/data" in file]


def _joined(path: Path, parts: list[Any]) -> NDArray[Any]:
    """(n, ky, kx) of all data sets, one after the other."""
    if len({(part.shape[1:], part.dtype) for part in parts}) > 1 or parts[0].ndim != 3:
        msg = f"{path}: its data files have patterns of other sizes or types, so they are no series of one scan"
        raise BadInputError(msg)
    if len(parts) == 1:
        return read_dataset(path, parts[0])
    out = allocate((sum(map(len, parts)), *parts[0].shape[1:]), parts[0].dtype)
    first = 0
    for part in parts:
        out[first : first + len(part)] = read_dataset(path, part)
        first += len(part)
    return out


def _mask(master: Any, shape: tuple[int, ...]) -> tuple[NDArray[np.bool_] | None, tuple[str, ...]]:
    """(ky, kx) True where the pixel counts, and a sentence of how many do not."""
    marks = master.get(f"{_SPECIFIC}/pixel_mask")
    if marks is None or marks.shape != shape:
        return None, ()
    counting: NDArray[np.bool_] = np.asarray(marks) == 0
    dead = int((~counting).sum())
    return (counting, (f"{dead} pixels do not count: the master's pixel mask",)) if dead else (None, ())


def _scanned(master: Any, frames: int) -> tuple[int, int] | None:
    """(lines, positions a line): triggers and images per trigger, or a square."""
    stated = [master.get(f"{_SPECIFIC}/{name}") for name in ("ntrigger", "nimages")]
    lines, line = (int(number_in(None if each is None else each[()]) or 0) for each in stated)
    if min(lines, line) > 1 and lines * line == frames:
        return lines, line
    edge = math.isqrt(frames)
    return (edge, edge) if edge * edge == frames else None


def _step(path: Path) -> dict[str, Number]:
    companion = path.with_name(f"{path.stem.removesuffix(_MASTER)}.h5")
    if companion == path or not has_signature(companion):
        return {}
    with open_hdf5(companion) as file:
        metadata = file.get("STEM Metadata")
        pixel = np.ravel(metadata.attrs.get("Pixel Size", ())) if metadata is not None else np.empty(0)
    nanometres = number_in(pixel[0]) if pixel.size else None
    return {"step": Number(10 * nanometres, f"Pixel Size in {companion.name}")} if nanometres else {}
