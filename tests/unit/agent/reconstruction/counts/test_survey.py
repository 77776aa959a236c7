"""One look at all patterns, in memory or on disk, tells what they add up to and whether they are counts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from numpy.typing import NDArray

from agent.reconstruction.counts import survey as module
from agent.reconstruction.counts.survey import Survey, survey

SHAPES = [(40, 32, 16), (40, 9, 11), (1, 8, 8)]
"""Whose pixels come in groups of sixteen, or do not."""


def counts(shape: tuple[int, ...] = SHAPES[0], most: float = 3.0) -> NDArray[np.int64]:
    patterns = np.random.default_rng(0).poisson(most, shape)
    patterns[len(patterns) // 2, 5] = 0
    return patterns


def check(found: Survey, patterns: NDArray[Any], mask: NDArray[np.bool_] | None = None) -> None:
    """Against NumPy, of all patterns at once."""
    truth = patterns.astype(np.float64)
    counting = truth if mask is None else truth * mask
    assert np.allclose(found.mean, truth.mean(axis=0), rtol=1e-12, atol=0)
    assert np.allclose(found.totals, counting.sum(axis=(1, 2)), rtol=1e-7, atol=0)
    assert (found.largest, found.smallest) == (truth.max(), truth.min())
    assert found.brightest == np.unravel_index(truth.argmax(), truth.shape)[0]
    assert found.empty == np.count_nonzero(counting.sum(axis=(1, 2)) == 0)
    assert found.finite
    assert found.broken is None


@pytest.fixture(params=[2**26, 5 * 32 * 16, 1], ids=["one part", "several", "pattern by pattern"])
def parts(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bytes that are read at a time."""
    monkeypatch.setattr(module, "CHUNK", request.param)
    monkeypatch.setattr(module, "_BLOCK", min(request.param, 2000))


@pytest.mark.usefixtures("parts")
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", ["u1", "u2", ">u2", "u4", "i2", "i8", "f2", "f4", ">f4", "f8"])
def test_counts_of_any_type_are_added_up(dtype: str, shape: tuple[int, ...]) -> None:
    patterns = counts(shape).astype(dtype)
    found = survey(patterns)
    check(found, patterns)
    assert found.whole
    assert np.array_equal(found.totals, counts(shape).sum(axis=(1, 2)))


@pytest.mark.usefixtures("parts")
@pytest.mark.parametrize("dtype", ["u1", "u2", "f4"])
def test_pixels_that_do_not_count_are_in_the_mean_only(dtype: str) -> None:
    patterns = counts().astype(dtype)
    patterns[7, 3:] = 0
    mask = np.arange(32)[:, None] >= np.full(16, 3)
    check(survey(patterns, mask), patterns, mask)
    assert survey(patterns, mask).empty == 1
    check(survey(patterns, ~mask), patterns, ~mask)
    check(survey(patterns, np.ones((32, 16), bool)), patterns)


def test_large_counts_of_16_bits_lose_nothing() -> None:
    patterns = np.full((700, 16, 16), 65535, np.uint16)
    patterns[::2] -= 1
    found = survey(patterns)
    assert np.array_equal(found.mean, patterns.mean(axis=0, dtype=np.float64))
    assert np.array_equal(found.totals, patterns.sum(axis=(1, 2)))


@pytest.mark.usefixtures("parts")
def test_patterns_on_disk_are_read_in_parts(tmp_path: Path) -> None:
    patterns = counts().astype(np.uint16)
    np.save(tmp_path / "patterns.npy", patterns)
    np.save(tmp_path / "swapped.npy", patterns.astype(">u2"))
    for name in ("patterns.npy", "swapped.npy"):
        check(survey(np.load(tmp_path / name, mmap_mode="r")), patterns)
    with h5py.File(tmp_path / "patterns.h5", "w") as file:
        file["plain"] = patterns
        file.create_dataset("compressed", data=patterns.astype(">f4"), chunks=(3, 32, 16), compression="gzip")
        reads: list[int] = []

        class Watched:
            shape, dtype = file["plain"].shape, file["plain"].dtype

            def __len__(self) -> int:
                return int(self.shape[0])

            def __getitem__(self, part: slice) -> NDArray[Any]:
                reads.append(len(range(*part.indices(len(self)))))
                return np.asarray(file["plain"][part])

        for dataset in (file["plain"], file["compressed"], Watched()):
            check(survey(dataset), patterns)
    assert sum(reads) == len(patterns), "every pattern is read once"
    assert max(reads) <= max(1, module.CHUNK // (32 * 16 * 2))


def test_reversed_and_cut_patterns_are_legal() -> None:
    patterns = counts((40, 32, 32)).astype(np.uint8)
    check(survey(patterns[::-1]), patterns[::-1])
    check(survey(patterns[:, :, ::2]), patterns[:, :, ::2])


def test_fractions_of_counts_are_not_whole() -> None:
    patterns = counts().astype("f4")
    patterns[30, 3, 4] = 1.5
    found = survey(patterns)
    check(found, patterns)
    assert not found.whole


@pytest.mark.parametrize("dtype", ["f2", "f4", ">f8"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_numbers_end_it(value: float, dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    patterns = counts().astype(dtype)
    patterns[20, 3, 4] = value
    patterns[19, 0, 0] = -2
    found = survey(patterns)
    assert not found.finite
    assert not found.whole
    assert found.broken == 20
    assert found.largest == counts().max()
    monkeypatch.setattr(module, "CHUNK", 8 * 32 * 16 * np.dtype(dtype).itemsize)
    patterns[19, 0, 0] = 0
    early = survey(patterns)
    assert early.broken == 20
    assert np.array_equal(early.mean, patterns[:16].mean(axis=0, dtype=np.float64))


@pytest.mark.parametrize(("value", "dtype"), [(-0.5, "f4"), (-3, "i2"), (-3, "i8")])
def test_negative_values_end_it(value: float, dtype: str) -> None:
    patterns = counts().astype(dtype)
    patterns[20, 3, 4] = value
    patterns[25, 3, 4] = 2 * value
    found = survey(patterns)
    assert found.broken == 20
    assert found.smallest == 2 * value
    assert found.finite
    assert found.whole == (dtype != "f4")


def test_nothing_but_values_that_are_not_numbers() -> None:
    found = survey(np.full((3, 8, 8), np.nan))
    assert not found.finite
    assert found.broken == 0


def test_empty_patterns_are_counted() -> None:
    patterns = np.zeros((30, 8, 8), np.uint8)
    patterns[7] = 1
    found = survey(patterns)
    assert found.empty == 29
    assert found.largest == 1
