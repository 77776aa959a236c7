"""What a person knows of the detector: orientation, mask and bad pixels, for recordings and microscopes alike."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
from examples import description, detector
from numpy.typing import NDArray

from instrument import optics
from instrument.errors import BadInputError
from instrument.geometry import Geometry, read_mask

SHAPE = (4, 6)


def test_flips_and_transposition_undo_what_was_done_to_the_patterns() -> None:
    matrix = optics.detector_to_scan(np.deg2rad(25.0))
    at_first = np.array([0.3, -0.8])
    exchanged = at_first[::-1]
    reversed_rows = exchanged * [-1, 1]  # patterns whose rows and columns were exchanged, then their rows reversed
    known = Geometry(rotation=25, transpose=True, flip_columns=True).matrix()
    assert known is not None
    # exchanging after the flip: rows reversed of exchanged patterns are columns reversed of those as they were
    np.testing.assert_allclose(known @ reversed_rows, matrix @ at_first, atol=1e-12)
    mirrored = Geometry(mirrored=True).matrix()
    assert mirrored is not None
    np.testing.assert_allclose(mirrored, optics.detector_to_scan(0.0, mirrored=True))
    assert Geometry().matrix() is None, "it is to be measured"
    assert Geometry(rotation=0).matrix() is not None, "0 is a rotation that is known"


def test_what_is_known_comes_before_what_the_instrument_says() -> None:
    told = description(detector=detector(6, dead_pixels=((0, 0),)), scan_rotation=0.2, mirrored=True)
    known = Geometry(rotation=90, bad_pixels=("2,:", " :, 5", "1,1")).applied(told)
    assert known.scan_rotation == pytest.approx(np.pi / 2)
    assert known.mirrored is False
    assert set(known.detector.dead_pixels) == {(0, 0), (1, 1)} | {(2, c) for c in range(6)} | {(r, 5) for r in range(6)}
    assert Geometry().applied(told) == told


@pytest.mark.parametrize("name", ["mask.npy", "mask.h5"])
def test_a_mask_is_read(tmp_path: Path, name: str) -> None:
    mask = np.ones(SHAPE, np.uint8)
    mask[1, 2:] = 0
    path = written(tmp_path / name, mask)
    np.testing.assert_array_equal(read_mask(path, SHAPE), mask.astype(bool))
    counting = Geometry(mask=path, bad_pixels=("0,0",)).counting(SHAPE)
    assert counting is not None
    assert counting.sum() == mask.sum() - 1


def written(path: Path, mask: NDArray[np.uint8]) -> Path:
    if path.suffix == ".npy":
        np.save(path, mask)
    else:
        with h5py.File(path, "w") as file:
            file["entry/mask"] = mask
    return path


def test_a_mask_whose_header_is_spoilt_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "mask.npy", np.ones(SHAPE, np.uint8))
    path.write_bytes(path.read_bytes().replace(b"|u1", b",u1"))  # NumPy takes that for a Python expression
    with pytest.raises(BadInputError, match=r"mask\.npy: no mask can be read from it"):
        read_mask(path, SHAPE)


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (np.ones((6, 4)), r"the mask has shape \(6, 4\), the detector \(4, 6\)"),
        (np.full(SHAPE, 2), "the mask .* holds more than 0 and 1; it is 1 where a pixel counts"),
        (np.eye(4, 6) * np.eye(1, 6), "the mask hides 96% of the detector; it is 1 where a pixel counts"),
        (np.ones((2, 2, 2)), r"the mask has shape \(2, 2, 2\)"),
    ],
)
def test_what_is_no_mask_is_refused(tmp_path: Path, mask: NDArray[np.uint8], message: str) -> None:
    with pytest.raises(BadInputError, match=message):
        read_mask(written(tmp_path / "mask.npy", mask), SHAPE)


def test_a_file_without_a_mask_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.npy").write_text("no array")
    with h5py.File(tmp_path / "two.h5", "w") as file:
        file["a"], file["b"] = np.ones(SHAPE), np.ones(SHAPE)
    for name in ("text.npy", "two.h5", "absent.npy"):
        with pytest.raises(BadInputError, match=rf"{name}: no mask can be read from it .*; a \.npy or HDF5 file"):
            read_mask(tmp_path / name, SHAPE)


@pytest.mark.parametrize("text", ["4,0", "0", "a,b", "-1,2", ":,:", "1,2,3"])
def test_a_pixel_beyond_the_detector_is_refused(text: str) -> None:
    with pytest.raises(BadInputError, match=r"bad pixel .* is not possible; legal: ROW,COLUMN up to 3,5"):
        Geometry(bad_pixels=(text,)).counting(SHAPE)
