"""Recordings as microscopes make them: what is no pattern is left out, bad pixels are masked, the beam is followed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from agent.errors import BadInputError
from agent.processing.cleaning import Cleaned, clean
from agent.processing.cleaning.descan import led_back, still_good
from agent.reconstruction import DiffractionData
from agent.scoring.splitting import excess_variance

Patterns = NDArray[Any]
COLUMNS = {"80 kV": (12, 14, 32, 2.0, 20.0, 80e3), "200 kV": (11, 9, 64, 1.2, 25.0, 200e3)}
"""Scan rows and columns, detector edge, mrad a pixel, semi-angle in mrad, voltage in eV."""


def recording(column: str, electrons: float = 5000.0, beam: NDArray[np.float64] | None = None) -> DiffractionData:
    """Discs with a speckle that moves with the probe, and a little dark field."""
    n_y, n_x, edge, pixel, semiangle, voltage = COLUMNS[column]
    rng = np.random.default_rng(4)
    y, x = np.meshgrid(np.arange(n_y), np.arange(n_x), indexing="ij")
    k = (np.arange(edge) - edge // 2)[:, None], (np.arange(edge) - edge // 2 + 1)[None]
    distance = np.hypot(*k)
    disc = 1 / (1 + np.exp(2 * (distance - semiangle / pixel)))
    speckle = rng.standard_normal((4, 4))
    phase = [
        a * k[0] / 3 + b * k[1] / 3 + 0.4 * a * y.ravel()[:, None, None] + 0.5 * b * x.ravel()[:, None, None]
        for a in range(4)
        for b in range(4)
    ]
    waves = sum(s * np.cos(p) for s, p in zip(speckle.ravel(), phase, strict=True)) / 12
    mean = disc * (1 + waves).clip(0.2) + 3e-3 * np.exp(-distance / edge)
    mean *= electrons / mean.sum(axis=(1, 2), keepdims=True)
    if beam is not None:
        mean *= beam[:, None, None]
    positions = np.stack([y.ravel(), x.ravel()], axis=-1).astype(np.float64) * 1.5
    return DiffractionData(rng.poisson(mean).astype(np.uint16), positions, voltage, semiangle, pixel, 200.0)


def cleaned(data: DiffractionData, column: str, change: Callable[[Patterns], None] | None = None) -> Cleaned:
    patterns = data.patterns.copy()
    if change is not None:
        change(patterns)
    n_y, n_x = COLUMNS[column][:2]
    index = np.arange(n_y * n_x).reshape(n_y, n_x)
    return clean(replace(data, patterns=patterns), np.ones(len(patterns), bool), (index,))


@pytest.fixture(params=COLUMNS)
def column(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.mark.parametrize("electrons", [20.0, 500.0, 5e4])
def test_a_clean_recording_is_left_as_it_is(column: str, electrons: float) -> None:
    found = cleaned(recording(column, electrons), column)
    record = found.record
    assert (record.empty, record.saturated, record.partial) == (0, 0, 0)
    assert (record.dead_pixels, record.hot_pixels, record.intensity_sd) == (0, 0, None)
    assert record.descan is None
    assert record.sentences() == ()
    assert found.data.intensity is None
    assert found.raster is not None
    assert (found.raster.intensity == 1).all()


def test_empty_saturated_and_partial_patterns_are_left_out_with_a_count(column: str) -> None:
    half = COLUMNS[column][2] // 2

    def spoil(patterns: Patterns) -> None:
        patterns[[17, 40]] = 0
        patterns[60] = 65535
        patterns[30, half:] = 0

    found = cleaned(recording(column), column, spoil)
    assert (found.record.empty, found.record.saturated, found.record.partial) == (2, 1, 1)
    assert found.record.sentences()[0].endswith("4 are left out: 2 empty, 1 saturated, 1 partial")
    assert len(found.data.patterns) == len(found.data.positions) == found.record.patterns - 4
    assert found.raster is not None
    gone = np.flatnonzero(found.raster.intensity.ravel() == 0)
    assert gone.tolist() == [17, 30, 40, 60]


def test_an_aborted_scan_keeps_its_complete_lines(column: str) -> None:
    n_y, n_x = COLUMNS[column][:2]

    def abort(patterns: Patterns) -> None:
        patterns[(n_y - 2) * n_x - 3 :] = 0

    found = cleaned(recording(column), column, abort)
    assert found.record.empty == 2 * n_x + 3
    assert found.raster is not None
    assert found.raster.intensity.shape == (n_y - 3, n_x)


def test_a_recording_of_empty_patterns_is_refused_with_what_is_wrong(column: str) -> None:
    def spoil(patterns: Patterns) -> None:
        patterns[10:] = 0

    with pytest.raises(BadInputError, match=r"only 10 patterns .*16 are needed .* empty, saturated or partial"):
        cleaned(recording(column), column, spoil)


def blocks(n: int) -> list[tuple[str, Callable[[Patterns], None], list[tuple[slice, slice]], str]]:
    """Faults of a detector with n × n pixels: name, what it does, where, and how it is called."""
    h = n // 2

    def fill(value: Callable[[Patterns], Any], *places: tuple[slice, slice]) -> Callable[[Patterns], None]:
        def change(patterns: Patterns) -> None:
            for rows, columns in places:
                patterns[:, rows, columns] = value(patterns[:, rows, columns])

        return change

    rng = np.random.default_rng(8)
    whole = slice(None)
    gap = [(slice(h - 1, h + 1), whole), (whole, slice(h - 1, h + 1))]
    inside, dark = (slice(h - 4, h - 1), slice(h + 2, h + 5)), (slice(3, 6), slice(4, 7))
    pair = (slice(h + 3, h + 5), slice(h - 5, h - 3))
    return [
        ("gap of a quad", fill(np.zeros_like, *gap), gap, "dead"),
        ("dead row", fill(np.zeros_like, (slice(h + 3, h + 4), whole)), [(slice(h + 3, h + 4), whole)], "dead"),
        (
            "weak column",
            fill(lambda c: rng.binomial(c, 0.1), (whole, slice(h, h + 1))),
            [(whole, slice(h, h + 1))],
            "dead",
        ),
        ("2 × 2 always alike", fill(lambda c: np.full_like(c, 3000), pair), [pair], "hot"),
        ("3 × 3 always alike", fill(lambda c: np.full_like(c, 3000), inside), [inside], "hot"),
        ("3 × 3 in the dark", fill(lambda c: rng.poisson(400, c.shape), dark), [dark], "hot"),
    ]


@pytest.mark.parametrize("number", range(6))
def test_bad_pixels_that_touch_are_masked(column: str, number: int) -> None:
    data = recording(column)
    name, change, places, kind = blocks(COLUMNS[column][2])[number]
    bad = cleaned(data, column, change).bad
    n_y, n_x = data.patterns.shape[1:]
    faulty, mean = np.zeros((n_y, n_x), bool), data.patterns.mean(axis=0)
    for place in places:
        faulty[place] = True
    seen = faulty & ((mean > 0.75 * mean.max()) if kind == "dead" else True)  # what is dark anyway does no harm
    assert (bad.dead if kind == "dead" else bad.hot)[seen].all(), name
    assert not bad.any[~faulty].any(), name


def test_flicker_a_dim_line_and_a_falling_current_are_followed(column: str) -> None:
    n_y, n_x = COLUMNS[column][:2]
    line = np.repeat(np.arange(n_y), n_x)
    rng = np.random.default_rng(6)
    beams = {
        "flicker": 1 + 0.15 * rng.standard_normal(n_y * n_x),
        "dim line": np.where(line == 4, 0.8, 1.0),
        "drift": 1.2 - 0.4 * line / n_y,
    }
    for name, beam in beams.items():
        found = cleaned(recording(column, beam=beam), column).data.intensity
        assert found is not None, name
        assert np.std(found / (beam / beam.mean()) - 1) < 1.6 / np.sqrt(5000), name


def test_most_of_what_the_specimen_takes_away_stays_the_specimens(column: str) -> None:
    n_y, n_x = COLUMNS[column][:2]
    y, x = np.meshgrid(np.arange(n_y) / n_y, np.arange(n_x) / n_x, indexing="ij")
    bead = 1 - 0.3 * np.exp(-((y - 0.4) ** 2 + (x - 0.5) ** 2) / 0.06)
    found = cleaned(recording(column, 2e4, beam=bead.ravel()), column).data.intensity
    taken = 0.0 if found is None else np.corrcoef(found, bead.ravel())[0, 1] * found.std() / bead.std()
    assert taken < 0.6


def wandering(column: str, pixels: float) -> DiffractionData:
    """A recording whose zero beam moves by so many pixels over the scan, drawn as if the specimen were moved likewise."""
    data = recording(column)
    n = data.patterns.shape[1]
    where = (data.positions - data.positions.mean(axis=0)) / np.ptp(data.positions, axis=0)
    shift = pixels * where @ np.array([[0.8, 0.3], [-0.5, 0.9]])
    k = np.fft.fftfreq(n)
    turn = shift[:, 0, None, None] * k[:, None] + shift[:, 1, None, None] * k[None]
    smooth = np.exp(-2 * (np.pi * 0.7) ** 2 * (k[:, None] ** 2 + k[None] ** 2))
    moved = np.fft.ifft2(np.fft.fft2(data.patterns) * smooth * np.exp(-2j * np.pi * turn)).real
    patterns = np.random.default_rng(1).poisson(moved.clip(0)).astype(np.uint16)
    return replace(data, patterns=patterns)


def centres(patterns: Patterns) -> NDArray[np.float64]:
    """(n, 2) centres of mass."""
    total = patterns.sum(axis=(1, 2))
    index = np.arange(patterns.shape[1])
    return np.stack([(patterns.sum(axis=2) @ index) / total, (patterns.sum(axis=1) @ index) / total], axis=-1)


@pytest.mark.parametrize("pixels", [0.6, 3.0])
def test_a_zero_beam_that_wanders_with_the_scan_is_led_back(column: str, pixels: float) -> None:
    data = wandering(column, pixels)
    found = cleaned(data, column)
    assert found.record.descan == pytest.approx((1.3 * pixels, 1.2 * pixels), abs=0.2, rel=0.06)
    assert "moved by" in found.record.sentences()[-1]
    terms = np.c_[np.ones(len(data.positions)), data.positions / np.ptp(data.positions, axis=0)]
    slopes = [
        np.linalg.lstsq(terms, centres(patterns), rcond=None)[0][1:]
        for patterns in (recording(column).patterns, data.patterns, found.data.patterns)
    ]
    left, before = np.abs(slopes[2] - slopes[0]).max(), np.abs(slopes[1] - slopes[0]).max()
    assert left < max(0.1 * before, 0.2)
    assert found.data.patterns.dtype == data.patterns.dtype
    assert found.data.patterns.sum() > 0.98 * data.patterns.sum()
    assert found.raster is not None
    assert np.array_equal(found.raster.patterns.reshape(found.data.patterns.shape), found.data.patterns)


def test_counts_that_are_led_back_stay_poisson_and_come_from_good_pixels_only() -> None:
    counts = np.random.default_rng(0).poisson(3.0, (4000, 9, 9)).astype(np.uint8)
    shifts = np.random.default_rng(1).uniform(-1.5, 1.5, (4000, 2))
    moved = led_back(counts, shifts)[:, 4, 4]
    assert moved.mean() == pytest.approx(3.0, rel=0.03)
    assert moved.var() == pytest.approx(3.0, rel=0.1)
    good = np.ones((9, 9), bool)
    good[0, 0] = False
    counts[:, 0, 0] = 200
    shifts = np.repeat([[-1.3, 0.2]], 4000, axis=0)
    left = still_good(good, shifts)
    assert led_back(counts, shifts)[:, left].mean() < 3.2
    assert left[4, 4]
    assert not left[0].any(), "nothing was moved there"


@pytest.mark.parametrize("counts", [1, 4])
def test_counts_per_electron_are_found_through_flicker(column: str, counts: int) -> None:
    n = np.prod(COLUMNS[column][:2])
    data = recording(column, 2000.0, beam=1 + 0.15 * np.random.default_rng(2).standard_normal(n))
    found = cleaned(replace(data, patterns=(counts * data.patterns).astype(np.uint16)), column)
    assert found.record.counts_per_electron == pytest.approx(counts, rel=0.15)


def test_counts_of_a_strong_specimen_at_high_dose_are_still_single_electrons(column: str) -> None:
    data = recording(column, 5e4)
    assert excess_variance(data.patterns, data.positions) < 1.5


def test_a_detector_without_a_pixel_that_counts_is_refused_with_what_may_be_wrong() -> None:
    data = recording("80 kV")
    everywhere = list(np.ndindex(data.patterns.shape[1:]))
    with pytest.raises(BadInputError, match=r"none of the 32 × 32 pixels .* axes are not the last two"):
        clean(data, np.ones(len(data.patterns), bool), (), dead_pixels=everywhere)
