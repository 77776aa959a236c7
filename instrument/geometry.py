"""What a person knows of how a detector lies to the scan, and of which of its pixels count."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from instrument import optics
from instrument.errors import NUMPY_REFUSES, BadInputError
from instrument.models import Description, Record

_MOSTLY = 0.9
"""Part of the detector that a mask hides from which it is taken for the wrong way round."""


class Geometry(Record):
    """What is known beforehand, and need not be measured. What is left out is measured, or as the instrument says."""

    rotation: Annotated[float, Field(ge=-360, le=360)] | None = Field(
        default=None,
        description="degrees that turn a direction on the detector into the scan's frame; None: measured, or 0 where one of the "
        "next four is true",
    )
    mirrored: bool = Field(default=False, description="detector rows and scan rows are of opposite hand")
    transpose: bool = Field(default=False, description="the patterns have rows and columns exchanged")
    flip_rows: bool = Field(default=False, description="the patterns' rows are in reverse order, once transposed")
    flip_columns: bool = Field(default=False, description="the patterns' columns are in reverse order, once transposed")
    mask: Path | None = Field(
        default=None,
        description="file (.npy or HDF5) with one number for each detector pixel: 1 where it counts, else 0",
    )
    bad_pixels: tuple[str, ...] = Field(
        default=(), description='detector pixels that do not count: "ROW,COLUMN", "ROW,:" or ":,COLUMN"'
    )

    def matrix(self) -> NDArray[np.float64] | None:
        """(2, 2) from (row, column) on the detector, as the patterns are given, to the scan's frame; None: not known."""
        if self.rotation is None and not (self.mirrored or self.transpose or self.flip_rows or self.flip_columns):
            return None
        turned = optics.detector_to_scan(np.deg2rad(self.rotation or 0.0), self.mirrored)
        flips = np.diag([-1.0 if self.flip_rows else 1.0, -1.0 if self.flip_columns else 1.0])
        exchanged = np.eye(2)[::-1] if self.transpose else np.eye(2)
        return turned @ flips @ exchanged

    def counting(self, shape: tuple[int, int]) -> NDArray[np.bool_] | None:
        """Which pixels count.

        Args:
            shape: (ky, kx) of the detector.

        Returns:
            (ky, kx), True where one counts; None where nothing is known of them.

        Raises:
            BadInputError: the mask cannot be read or is of another shape, or a pixel lies beyond the detector.
        """
        if self.mask is None and not self.bad_pixels:
            return None
        good = np.ones(shape, dtype=bool) if self.mask is None else read_mask(self.mask, shape)
        for text in self.bad_pixels:
            good[_pixels(text, shape)] = False
        return good

    def applied(self, description: Description) -> Description:
        """The instrument as it advertises itself, corrected by what is known better. Raises BadInputError as `counting`."""
        changes: dict[str, Any] = {}
        matrix, good = self.matrix(), self.counting(description.detector.shape)
        if matrix is not None:
            changes["scan_rotation"], changes["mirrored"] = optics.rotation_and_hand(matrix)
        if good is not None:
            dead = sorted({(int(y), int(x)) for y, x in np.argwhere(~good)} | set(description.detector.dead_pixels))
            changes["detector"] = description.detector.model_copy(update={"dead_pixels": tuple(dead)})
        return description.model_copy(update=changes)


def read_mask(path: Path, shape: tuple[int, int]) -> NDArray[np.bool_]:
    """A mask from a file.

    Args:
        path: .npy, or HDF5 with one two-dimensional data set.
        shape: (ky, kx) of the detector.

    Returns:
        (ky, kx), True where a pixel counts.

    Raises:
        BadInputError: it cannot be read, or is no mask of such a detector.
    """
    try:
        given = np.load(path, allow_pickle=False) if path.suffix.lower() == ".npy" else _from_hdf5(path)
    except NUMPY_REFUSES as error:
        msg = f"{path}: no mask can be read from it ({error}); a .npy or HDF5 file with one two-dimensional array is expected"
        raise BadInputError(msg) from error
    if given.shape != shape:
        msg = f"{path}: the mask has shape {given.shape}, the detector {shape}"
        raise BadInputError(msg)
    if given.dtype.kind not in "buif" or not ((given == 0) | (given == 1)).all():
        msg = f"{path}: the mask ({given.dtype}) holds more than 0 and 1; it is 1 where a pixel counts"
        raise BadInputError(msg)
    if given.mean() < 1 - _MOSTLY:
        msg = f"{path}: the mask hides {1 - given.mean():.0%} of the detector; it is 1 where a pixel counts, not where it is dead"
        raise BadInputError(msg)
    mask: NDArray[np.bool_] = given.astype(bool)
    return mask


def _from_hdf5(path: Path) -> NDArray[Any]:
    """The only two-dimensional data set. Raises ValueError where there is none, or several."""
    import h5py

    found: list[NDArray[Any]] = []
    with h5py.File(path, "r") as file:
        file.visititems(lambda _, each: found.append(each[()]) if getattr(each, "ndim", 0) == 2 else None)
    if len(found) != 1:
        msg = f"{len(found)} two-dimensional data sets in it"
        raise ValueError(msg)
    return found[0]


def _pixels(text: str, shape: tuple[int, int]) -> tuple[int | slice, int | slice]:
    """Row and column of `ROW,COLUMN`; `:` is all of them."""
    parts = [part.strip() for part in text.split(",")]
    legal = len(parts) == 2 and all(
        part == ":" or (part.isdecimal() and int(part) < n) for part, n in zip(parts, shape, strict=True)
    )
    if not legal or parts == [":", ":"]:
        msg = (
            f"bad pixel {text!r} is not possible; legal: ROW,COLUMN up to {shape[0] - 1},{shape[1] - 1}; a colon stands for a "
            f"whole row (12,:) or column (:,7)"
        )
        raise BadInputError(msg)
    row, column = (slice(None) if part == ":" else int(part) for part in parts)
    return row, column
