"""Data that cannot be reconstructed are refused in one sentence: what is wrong, which value, what is legal."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from numpy.typing import NDArray

from agent.errors import BadInputError
from agent.reconstruction import Reconstructor
from agent.reconstruction.model.checks import check_data
from agent.reconstruction.model.data import DiffractionData
from agent.reconstruction.model.settings import ReconstructionSettings

N, SIZE = 36, 32


def positions(step: float = 2.0) -> NDArray[np.float64]:
    return step * np.indices((6, 6)).reshape(2, -1).T.astype(np.float64)


def good(**changes: Any) -> DiffractionData:
    values: dict[str, Any] = {
        "patterns": np.random.default_rng(0).poisson(1.0, (N, SIZE, SIZE)).astype(np.uint16),
        "positions": positions(),
        "voltage": 80e3,
        "semiangle": 21.4,
        "angular_pixel": 2.0,
        "defocus": 200.0,
    }
    return DiffractionData(**{**values, **changes})


def refusal(data: DiffractionData) -> str:
    with pytest.raises(BadInputError) as caught:
        check_data(data)
    message = str(caught.value)
    assert "\n" not in message
    return message


def with_value(value: float, dtype: str = "f4") -> NDArray[Any]:
    patterns = good().patterns.astype(dtype)
    patterns[20, 3, 4] = value
    return patterns


def some_mask(*shown: tuple[int, int]) -> NDArray[np.bool_]:
    mask = np.zeros((SIZE, SIZE), dtype=bool)
    for pixel in shown:
        mask[pixel] = True
    return mask


@pytest.mark.parametrize("dtype", ["u1", "u2", ">u2", "u4", "i4", "f2", ">f4", "f8"])
def test_counts_of_any_type_are_legal(dtype: str) -> None:
    check_data(good(patterns=good().patterns.astype(dtype)))
    totals = Reconstructor(
        good(patterns=good().patterns.astype(dtype)), ReconstructionSettings(device="cpu")
    ).experiment.counts.totals
    assert (totals == good().patterns.sum(axis=(1, 2))).all()


def test_a_pattern_without_counts_is_legal() -> None:
    patterns = np.zeros((N, SIZE, SIZE), dtype=np.uint8)
    patterns[30, 5, 5] = 1
    check_data(good(patterns=patterns))
    check_data(good(mask=some_mask((5, 5)), patterns=patterns))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"patterns": [[1]]}, "patterns are a list; a NumPy array is expected"),
        ({"patterns": np.ones((6, 6, SIZE, SIZE))}, "reshape a raster to (scan_y · scan_x, ky, kx)"),
        ({"patterns": np.ones((SIZE, SIZE))}, "patterns have shape (32, 32); (n, ky, kx) is expected"),
        ({"patterns": np.ones((N, SIZE, SIZE), dtype=complex)}, "patterns are of type complex128"),
        ({"patterns": np.ones((N, SIZE, SIZE), dtype=bool)}, "patterns are of type bool; unsigned integers or floats"),
        ({"patterns": np.ones((0, 8, 8)), "positions": np.ones((0, 2))}, "there are no patterns"),
        ({"patterns": np.ones((N, 1, 7))}, "patterns have 1 × 7 pixels; at least 8 × 8 are expected"),
        ({"patterns": np.ma.ones((N, SIZE, SIZE))}, "patterns are a masked array; give a plain one"),
        ({"mask": np.full((SIZE, SIZE), 0.5)}, "the mask (float64) holds more than True and False (1 and 0)"),
        ({"mask": np.full((SIZE, SIZE), np.nan)}, "the mask (float64) holds more than True and False (1 and 0)"),
        ({"positions": np.ones((35, 2))}, "positions have shape (35, 2); (36, 2) is expected"),
        ({"positions": np.ones((N, 3))}, "positions have shape (36, 3)"),
        ({"mask": np.ones((SIZE, 8), dtype=bool)}, "the mask has shape (32, 8), the patterns (32, 32)"),
        ({"mask": some_mask()}, "the mask hides every detector pixel"),
        ({"aperture": np.ones((4, 4))}, "the aperture has shape (4, 4)"),
        ({"aperture": np.full((SIZE, SIZE), np.nan)}, "the aperture is no amplitude"),
        ({"aperture": np.zeros((SIZE, SIZE))}, "the aperture is no amplitude"),
        ({"aperture": np.full((SIZE, SIZE), 1j)}, "the aperture is no amplitude"),
        (
            {"aperture": np.eye(SIZE)[::-1] * (np.arange(SIZE) < 4)},
            "the aperture is 0 within 21.4 mrad of the centre (16, 16)",
        ),
    ],
)
def test_wrong_shapes_are_refused(changes: dict[str, Any], message: str) -> None:
    assert message in refusal(good(**changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"voltage": 80.0}, "voltage of 80 eV is not possible; legal: 1e3 … 1e7 eV, so 80 kV is 80e3"),
        ({"voltage": float("nan")}, "voltage of nan is not possible; a positive number is expected"),
        ({"semiangle": -3.0}, "semiangle of -3.0 is not possible"),
        ({"angular_pixel": 0.0}, "angular_pixel of 0.0 is not possible"),
        ({"angular_pixel": "2"}, "angular_pixel of 2 is not possible"),
        ({"defocus": float("inf")}, "defocus of inf is not a number; Å are expected"),
        ({"defocus": None}, "defocus of None is not a number"),
        ({"aberrations": {"Cs": 1e7}}, "unknown aberration 'Cs'; legal: C12, phi12"),
        ({"aberrations": {"C10": 100.0}}, "C10 is −defocus"),
        ({"aberrations": {"C30": float("nan")}}, "aberration C30 of nan is not a number; Å is expected"),
        ({"aberrations": {"phi12": None}}, "aberration phi12 of None is not a number; rad is expected"),
        ({"centre": (40.0, 16.0)}, "the centre (40.0, 16.0) lies outside the detector; legal: (0 … 31, 0 … 31) pixels"),
        ({"centre": (16.0, float("nan"))}, "lies outside the detector"),
        ({"semiangle": 40.0}, "a semi-angle of 40 mrad is 20 pixels of 2 mrad; legal on 32 × 32 pixels: 2 … 32 mrad"),
        ({"semiangle": 0.0214}, "is 0.0107 pixels of 2 mrad; legal"),
        (
            {"semiangle": 0.0214, "angular_pixel": 0.002},
            "semiangle of 0.0214 mrad is not possible; legal: 0.1 … 200 mrad",
        ),
        ({"centre": 16.0}, "the centre is 16.0; (row, column) in detector pixels is expected"),
        ({"centre": (1.0, 2.0, 3.0)}, "the centre is (1.0, 2.0, 3.0); (row, column)"),
        ({"detector_to_scan": [[1, 0.5], [0, 1]]}, "no orthogonal 2 × 2 matrix ([[1.0, 0.5], [0.0, 1.0]])"),
        ({"detector_to_scan": 0.3}, "no orthogonal 2 × 2 matrix (0.3); instrument.optics.detector_to_scan"),
        ({"aberrations": None}, "aberrations are a NoneType; a mapping is expected"),
        (
            {"aberrations": {"C30": 1e12}},
            "with these aberrations the probe is 1.96e+07 Å wide, more than twice the window",
        ),
        ({"point_spread": -1.0}, "point_spread of -1.0 is not possible; legal: 0 … 16 detector pixels"),
        ({"point_spread": float("nan")}, "point_spread of nan is not possible"),
        ({"source_size": -0.3}, "source_size of -0.3 is not possible; legal: FWHM from 0 to 10.44 Å"),
        ({"source_size": (0.3, 0.4)}, "source_size of (0.3, 0.4) is not possible; legal: FWHM"),
        ({"source_size": (0.3, 0.4, None)}, "angle of the major axis in rad"),
        ({"focal_spread": float("inf")}, "focal_spread of inf is not possible; legal: 0 … 487.8 Å"),
        ({"position_jitter": 1e3}, "position_jitter of 1000.0 is not possible; legal: 0 … 20.88 Å"),
        ({"defocus": -500.0}, "the largest legal defocus is ±487.8 Å with pixels of 2 mrad"),
    ],
)
def test_impossible_optics_are_refused(changes: dict[str, Any], message: str) -> None:
    assert message in refusal(good(**changes))


def test_the_largest_legal_defocus_is_legal() -> None:
    check_data(good(defocus=-487.8))
    check_data(good(semiangle=32.0, defocus=0.0))


@pytest.mark.parametrize(
    ("where", "message"),
    [
        (positions() * 1e-10, "the positions span only 1e-09 Å; they are expected in Å"),
        (positions() * 0, "the positions span only 0 Å"),
        (positions(1e5), "neighbouring positions lie 1e+05 Å apart"),
        (
            positions(30.0),
            "neighbouring positions lie 30 Å apart, farther than the window of a pattern, 1/Δk = 20.88 Å",
        ),
        (np.where(np.arange(N)[:, None] == 7, np.nan, positions()), "position 7 is not a number"),
        (positions().astype(str), "positions are of type <U32; floats are expected"),
    ],
)
def test_impossible_positions_are_refused(where: NDArray[Any], message: str) -> None:
    assert message in refusal(good(positions=where))


def test_patterns_that_cannot_be_appended_are_refused() -> None:
    smaller = good(patterns=good().patterns[:, 1:, 1:])
    with pytest.raises(BadInputError, match=r"\(31, 31\) pixels cannot be appended to some of \(32, 32\)"):
        check_data(smaller, before=good())
    with pytest.raises(BadInputError, match=r"the positions span 1e.05 × 1e.05 Å, an object of"):
        check_data(good(positions=positions() + 1e5), before=good())
    check_data(good(positions=positions() + 10), before=good())


def test_an_object_that_memory_cannot_hold_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("instrument.memory.free_memory", lambda: 10_000_000)
    check_data(good())
    with pytest.raises(
        BadInputError, match=r"in 200 slices takes .* GB of memory, 0.01 GB are free; take fewer slices"
    ):
        check_data(good(), slices=200)
    with pytest.raises(BadInputError, match=r"pixels in 2 slices takes .* GB of memory"):
        Reconstructor(good(), ReconstructionSettings(slices=2, padding=4.0))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"probe_modes": 0}, "probe_modes of 0 is not possible; legal: whole numbers from 1 to 64"),
        ({"slices": 1.5}, "slices of 1.5 is not possible; legal: whole numbers from 1 to 1000"),
        ({"max_passes": 0}, "max_passes of 0 is not possible; legal: whole numbers from 1"),
        ({"batch_size": 0}, "batch_size of 0 is not possible; legal: whole numbers from 1"),
        ({"seed": -1}, "seed of -1 is not possible; legal: whole numbers from 0"),
        ({"slice_spacing": -5.0}, "slice_spacing of -5.0 is not possible; legal: 0 … 10000"),
        (
            {"slices": 4, "slice_spacing": (1.0, 5.0)},
            "slice_spacing of (1.0, 5.0) is not possible; legal: 0 … 10000, or a tuple",
        ),
        ({"slices": 2, "slice_spacing": (float("nan"),)}, "slice_spacing of (nan,) is not possible; legal: 0 … 10000"),
        ({"padding": 0.5}, "padding of 0.5 is not possible; legal: 1 … 4, or None"),
        ({"step_size": 0.0}, "step_size of 0.0 is not possible; legal: above 0"),
        ({"coherence": float("nan")}, "coherence of nan is not possible; legal: 0.5 … 0.9999"),
        ({"loss": "l2"}, "loss of 'l2' is not possible; legal: 'poisson', 'amplitude', 'gaussian'"),
        ({"device": "cuda"}, "device of 'cuda' is not possible; legal: 'auto', 'cpu', 'gpu'"),
        (
            {"refine_positions": True},
            "refine_positions of True is not possible; legal: 'free', 'lines', 'linear', None",
        ),
        ({"refine_optics": "defocus"}, "refine_optics of 'defocus' is not possible; legal: a tuple of names"),
        ({"background": "no"}, "background of 'no' is not possible; legal: True or False"),
    ],
)
def test_impossible_settings_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInputError) as caught:
        ReconstructionSettings(**changes)
    assert message in str(caught.value)


def test_positions_in_any_order_are_neighbours() -> None:
    shuffled = np.random.default_rng(0).permutation(positions(4.0))
    check_data(good(positions=shuffled))
    check_data(good(patterns=good().patterns[:1], positions=positions()[:1]))


@pytest.mark.parametrize(
    ("patterns", "message"),
    [
        (with_value(np.nan), "pattern 20 holds values that are not numbers; mask such pixels and set them to 0"),
        (with_value(np.inf), "pattern 20 holds values that are not numbers"),
        (with_value(-np.inf), "pattern 20 holds values that are not numbers"),
        (with_value(1e30), "pattern 20 holds 1e+30 counts in a pixel; legal: up to 1e+09; mask such pixels"),
        (with_value(2**32 - 1, "u4"), "pattern 20 holds 4.295e+09 counts in a pixel; legal: up to 1e+09"),
        (good().patterns * 1e-9, "all 36 patterns together hold 3.69e-05 counts, less than one electron"),
        (with_value(-0.5), "pattern 20 holds negative counts (smallest -0.5)"),
        (with_value(-3, "i2"), "pattern 20 holds negative counts (smallest -3)"),
        (np.zeros((N, SIZE, SIZE), dtype="u1"), "all 36 patterns are empty; there is nothing to reconstruct"),
        (np.zeros((N, SIZE, SIZE)), "all 36 patterns are empty"),
    ],
)
def test_impossible_counts_are_refused(patterns: NDArray[Any], message: str) -> None:
    assert message in refusal(good(patterns=patterns))


def test_counts_that_a_mask_hides_do_not_count() -> None:
    patterns = np.zeros((N, SIZE, SIZE), dtype=np.uint8)
    patterns[:, 5, 5] = 1
    assert "all 36 patterns are empty on the pixels that the mask lets count" in refusal(
        good(patterns=patterns, mask=some_mask((6, 6)))
    )


def test_patterns_on_disk_are_checked_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent.reconstruction.model.count_checks._CHUNK", 5 * SIZE * SIZE * 4)
    broken = with_value(np.nan)
    np.save(tmp_path / "patterns.npy", broken)
    mapped = np.load(tmp_path / "patterns.npy", mmap_mode="r")
    assert "pattern 20 holds" in refusal(good(patterns=mapped))
    with h5py.File(tmp_path / "patterns.h5", "w") as file:
        file["bad"], file["good"], file["empty"] = broken, good().patterns, good().patterns * 0
        reads: list[int] = []

        class Watched:
            shape, dtype, ndim = file["bad"].shape, file["bad"].dtype, 3

            def __len__(self) -> int:
                return int(self.shape[0])

            def __getitem__(self, part: slice) -> NDArray[Any]:
                reads.append(len(range(*part.indices(len(self)))))
                return np.asarray(file["bad"][part])

        assert "pattern 20 holds" in refusal(good(patterns=Watched()))
        assert reads == [5] * 5, "no more than a part at once, and none after the first fault"
        check_data(good(patterns=file["good"]))
        assert "all 36 patterns are empty" in refusal(good(patterns=file["empty"]))


def test_replacing_a_field_keeps_the_rest_checked() -> None:
    check_data(replace(good(), detector_to_scan=np.eye(2), centre=(15.5, 16.2)))
