"""What two passes have in common, against what is known: noise scores nothing, drift is found and undone, grids do not count."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import phantom
import pytest
from numpy.typing import NDArray

from agent.config import ScoreChoice
from agent.reconstruction import DiffractionData, ReconstructionSettings, reconstruct
from agent.records import Score
from agent.scoring.both_kinds import combined, overlap_of
from agent.scoring.drift import without_drift
from agent.scoring.halves import judge
from agent.scoring.harmonics import excess_at_harmonics, scan_harmonics
from agent.scoring.information import score_spectrum, without_chance
from agent.scoring.regions import crop
from agent.scoring.registration import Shift, chance, find_shift, moved
from agent.scoring.ring_correlation import Spectrum, ring_correlation, rings_of
from instrument.models import Rectangle

PIXEL = (0.25, 0.25)
CHOICE = ScoreChoice()
SETTINGS = ReconstructionSettings(max_passes=6, stop_early=False, padding=1.0, device="cpu")  # the grid of `phantom`
SQUARE = [Rectangle(y=4, x=4, height=16, width=16)]


def images(signal: float, seed: int, n: int = 68) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Two images of a smooth random specimen, of `signal` times the noise that each has of its own."""
    rng = np.random.default_rng(seed)
    k = np.hypot(np.fft.fftfreq(n, PIXEL[0])[:, None], np.fft.fftfreq(n, PIXEL[1])[None])
    specimen = np.fft.ifft2(np.fft.fft2(rng.normal(size=(n, n))) * np.exp(-((k / 0.6) ** 2))).real
    specimen *= signal / specimen.std()
    return specimen + rng.normal(size=(n, n)), specimen + rng.normal(size=(n, n))


def registered(pair: tuple[NDArray[np.float64], NDArray[np.float64]], seed: int) -> tuple[Score, Score]:
    """The score of a pair that was registered, without and with what chance adds."""
    shift = find_shift([pair], PIXEL, CHOICE)
    tiles = [(pair[0], moved(pair[1], shift, PIXEL))]
    spectrum = ring_correlation(tiles, PIXEL, CHOICE)
    added, draws = chance(tiles, PIXEL, CHOICE, spectrum, seed)
    return without_chance(spectrum, added, draws), score_spectrum(spectrum)


@pytest.mark.parametrize("signal", [0.0, 0.15])
def test_registering_weak_pictures_adds_nothing_to_their_score(signal: float) -> None:
    pairs = [images(signal, seed) for seed in range(24)]
    plain = np.mean([score_spectrum(ring_correlation([pair], PIXEL, CHOICE)).value for pair in pairs])
    scores = [registered(pair, seed) for seed, pair in enumerate(pairs)]
    honest, lucky = (np.array([score[i].value for score in scores]) for i in (0, 1))
    assert honest.mean() == pytest.approx(plain, abs=0.1)
    assert lucky.mean() > plain + 0.05, "noise fits itself where it is allowed to"
    assert honest.std() < 1.15 * np.mean([score[0].sd for score in scores])


@pytest.mark.parametrize("by", [(0.31, -0.18), (-0.9, 0.7)])
def test_a_shift_is_found_within_its_uncertainty(by: tuple[float, float]) -> None:
    found = []
    for seed in range(10):
        first, second = images(1.0, seed)
        found.append(find_shift([(first, moved(second, Shift((-by[0], -by[1]), (0, 0)), PIXEL))], PIXEL, CHOICE))
    errors = np.array([np.subtract(shift.by, by) / shift.sd for shift in found])
    assert np.sqrt((errors**2).mean()) < 1.6
    assert np.mean([shift.sd for shift in found]) < 0.02


def two_passes(drift: tuple[float, float] = (0.0, 0.0), dose: float = 4e3, **changes: Any) -> DiffractionData:
    """Offset rasters of 1.5 Å over a known specimen that moves by `drift`, Å, from pass to pass."""
    raster = phantom.raster()
    positions = np.concatenate([raster - 0.375, raster + 0.375])
    passes = np.repeat([0, 1], len(raster))
    time = np.arange(len(positions)) / len(raster)
    true = positions + np.outer(time - time.mean(), drift)
    # a pattern of the phantom holds dose · step²; two share that of a cell
    return replace(
        phantom.experiment(dose=dose / 2, positions=positions, true_positions=true, **changes), pass_index=passes
    )


def test_two_passes_are_marked_and_have_thinned_halves_beside_them_where_they_hardly_overlap() -> None:
    data = two_passes()
    score = judge(data, SETTINGS, SQUARE, CHOICE, 1).score
    once = judge(replace(data, pass_index=None), SETTINGS, SQUARE, CHOICE, 1).score
    assert (score.halves, once.halves) == ("passes", "thinned")
    assert once.thinned is None
    assert score.thinned is None, "ten patterns of a pass light a place"
    few = np.flatnonzero(np.arange(len(data.positions)) % 7 == 0)
    sparse = judge(data.at(few), SETTINGS, SQUARE, CHOICE, 1).score
    assert sparse.halves == "passes"
    assert sparse.thinned is not None
    assert score.veto is None
    assert score.value == pytest.approx(once.value, rel=0.25)
    assert score.heldout_gain is not None
    assert score.heldout_gain > 0, "the first pass predicts the second"


def test_drift_is_found_and_undone_in_the_picture() -> None:
    still, drifting = two_passes(), two_passes((0.5, -0.4))
    judged = judge(drifting, SETTINGS, SQUARE, CHOICE, 1)
    assert judged.drift is not None
    # what the specimen does in the frame of the positions is the opposite of what they do on it
    np.testing.assert_allclose(judged.drift.by, (-0.5, 0.4), atol=0.05)
    undone = without_drift(drifting, judged.drift)
    time = np.arange(len(still.positions)) / 256
    np.testing.assert_allclose(undone.positions - still.positions, np.outer(time - time.mean(), (0.5, -0.4)), atol=0.05)
    without = judge(still, SETTINGS, SQUARE, CHOICE, 1)
    assert judged.score.value == pytest.approx(without.score.value, abs=2 * judged.score.sd)
    blurred = reconstruct(drifting, SETTINGS)
    truth, sharp, smeared = (
        crop(picture.phase, picture.origin, picture.pixel_size, SQUARE[0])
        for picture in (without.reconstruction, judged.reconstruction, blurred)
    )
    pixel = blurred.pixel_size
    agrees, less = (
        score_spectrum(ring_correlation([(truth, image)], pixel, CHOICE)).value for image in (sharp, smeared)
    )
    assert agrees > 1.05 * less
    assert without.drift is not None
    assert without.drift.size < 0.05


def test_a_pass_that_was_cut_short_leaves_thinned_halves() -> None:
    data = two_passes()
    kept = np.arange(len(data.positions)) < 330
    score = judge(data.at(kept), SETTINGS, [Rectangle(y=2, x=4, height=8, width=8)], CHOICE, 1).score
    assert score.halves == "thinned"


def test_every_harmonic_of_a_raster_is_left_out_and_nothing_of_a_random_scan() -> None:
    square, shape = SQUARE[0], (64, 64)
    raster = phantom.raster(step=2.0)
    found = scan_harmonics([raster - 0.5, raster + 0.5], square, shape, PIXEL, CHOICE.taper)
    k = np.fft.fftfreq(64, 0.25)
    expected = np.argwhere(found)
    assert {(round(2 * k[i]), round(2 * k[j])) for i, j in expected} == {
        (i, j) for i in range(-4, 4) for j in range(-4, 4) if (i, j) != (0, 0)
    }
    np.testing.assert_allclose(2 * k[expected], np.round(2 * k[expected]), atol=2 * 1.5 * k[1])
    scattered = np.random.default_rng(0).uniform(0, 24, (144, 2))
    assert not scan_harmonics([scattered], square, shape, PIXEL, CHOICE.taper).any()


def test_a_grid_of_the_scan_changes_no_score_and_is_seen() -> None:
    pair = images(0.5, 0, 64)
    raster = phantom.raster(step=2.0)
    harmonics = scan_harmonics([raster], SQUARE[0], (64, 64), PIXEL, CHOICE.taper)
    grid = np.zeros((64, 64))
    grid[::8, ::8] = 3.0  # every 2 Å
    with_grid = [(pair[0] + grid, pair[1] + grid)]
    plain, honest = (ring_correlation(tiles, PIXEL, CHOICE, harmonics) for tiles in ([pair], with_grid))
    fooled = ring_correlation(with_grid, PIXEL, CHOICE)
    assert score_spectrum(honest).value == pytest.approx(score_spectrum(plain).value, rel=0.1)
    assert score_spectrum(fooled).value > 1.1 * score_spectrum(plain).value
    rings, _ = rings_of((64, 64), PIXEL, CHOICE)
    assert excess_at_harmonics([pair[0] + grid], harmonics, rings, CHOICE.taper) > 5
    assert excess_at_harmonics([pair[0]], harmonics, rings, CHOICE.taper) < 3


def score(value: float, **changes: Any) -> Score:
    """A score of `value` with twenty even rings."""
    edges = CHOICE.k_min + 0.05 * np.arange(23)
    frc = np.tanh(np.full(22, value * np.log(2) / (np.pi * (edges[-1] ** 2 - edges[0] ** 2))))
    return score_spectrum(Spectrum(edges, frc, np.full(22, 60.0))).model_copy(update=changes)


def test_the_score_lies_between_passes_and_thinned_halves_and_says_how_far_they_are_apart() -> None:
    near, far = combined(score(3.0), score(3.4), 0.8), combined(score(3.0), score(5.0), 0.8)
    assert near.value == pytest.approx(3.2, abs=0.05)
    assert 3.3 < far.value < 4.0
    assert far.sd > near.sd
    assert (near.thinned, near.halves) == (pytest.approx(3.4), "passes")
    assert near.veto is None
    assert far.veto is None


def test_passes_that_overlap_well_are_believed() -> None:
    between, passes = (combined(score(3.0), score(4.0), overlap) for overlap in (2.0, 8.0))
    assert passes.value == pytest.approx(3.0)
    assert passes.sd >= between.sd > score(3.0).sd, "the difference stays unexplained"
    assert 3.05 < between.value < 3.4
    still = reconstruct(two_passes().at(np.arange(256)), replace(SETTINGS, max_passes=1))
    assert 10 < overlap_of(still) < 40, "a disc of 8.6 Å every 1.5 Å"


def test_a_scan_that_saw_too_little_is_vetoed() -> None:
    gaps = combined(score(1.0), score(2.9), 0.8)
    assert gaps.veto is not None
    assert "too coarse" in gaps.veto
    assert combined(score(0.1), score(0.6), 0.8).veto is None, "noise"


def test_scored_squares_of_two_passes_lie_on_each_other() -> None:
    judged = judge(two_passes((0.3, 0.2)), SETTINGS, SQUARE, CHOICE, 1)
    picture = judged.reconstruction
    halves = [crop(half, picture.origin, picture.pixel_size, SQUARE[0]) for half in judged.half_phases]
    assert find_shift([(halves[0], halves[1])], picture.pixel_size, CHOICE).size < 0.05


@pytest.mark.parametrize("seed", range(2))
def test_an_empty_specimen_in_two_passes_scores_zero(seed: int) -> None:
    data = two_passes(dose=1e3)
    disc = data.patterns.mean(axis=0)  # of all positions: what an even specimen would give, up to its scattering
    rng = np.random.default_rng(seed)
    nothing = replace(data, patterns=rng.poisson(disc, data.patterns.shape).astype(np.uint16))
    found = judge(nothing, SETTINGS, SQUARE, CHOICE, seed).score
    assert abs(found.value) < 3 * found.sd
