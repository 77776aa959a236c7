"""The score against what is known: noise scores nothing, known spectra score what the formula says, halves are independent."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from agent.config import ScoreChoice
from agent.reconstruction import (
    DiffractionData,
    Reconstruction,
    ReconstructionSettings,
    Reconstructor,
    expected_deviance,
    reconstruct,
)
from agent.reconstruction.counts.thinning import halves
from agent.reconstruction.model import probe
from agent.scoring.halves import judge
from agent.scoring.information import dose_knee, scale_score, score_spectrum
from agent.scoring.regions import crop, tiles
from agent.scoring.ring_correlation import Spectrum, half_bit_resolution, ring_correlation, spectrum_of
from agent.scoring.splitting import alternate, excess_variance, split
from agent.scoring.vetoes import apply_vetoes, predict, reconstruct_examined, relative_deviance
from instrument.models import Rectangle

PIXEL = (0.3, 0.3)
CHOICE = ScoreChoice()


def images(signal: float, seed: int, n: int = 64) -> tuple[np.ndarray, np.ndarray]:
    """Two images with the same white signal of variance `signal` and independent noise of variance 1."""
    rng = np.random.default_rng(seed)
    common = np.sqrt(signal) * rng.normal(size=(n, n))
    return common + rng.normal(size=(n, n)), common + rng.normal(size=(n, n))


def test_noise_scores_nothing_and_the_stated_sd_is_the_scatter() -> None:
    scores = [score_spectrum(ring_correlation([images(0.0, seed)], PIXEL, CHOICE)) for seed in range(200)]
    values = np.array([s.value for s in scores])
    assert abs(values.mean()) < 3 * values.std() / np.sqrt(len(values))
    # the taper correlates neighbouring Fourier pixels, which the correction of `pairs` describes to some 15 %
    assert values.std() == pytest.approx(scores[0].sd, rel=0.2)


@pytest.mark.parametrize("signal", [0.2, 1.0])
def test_a_block_bootstrap_over_space_confirms_the_stated_sd(signal: float) -> None:
    # one picture of 16 blocks, as of a large field; blocks are drawn again with replacement
    blocks = [images(signal, seed) for seed in range(16)]
    stated = score_spectrum(ring_correlation(blocks, PIXEL, CHOICE)).sd
    rng = np.random.default_rng(0)
    drawn = [
        score_spectrum(ring_correlation([blocks[i] for i in rng.integers(0, 16, 16)], PIXEL, CHOICE)).value
        for _ in range(100)
    ]
    # 16 blocks tell their own scatter to 18 %, the taper's correction to 15 %
    assert np.std(drawn, ddof=1) == pytest.approx(stated, rel=0.35)


@pytest.mark.parametrize("signal", [0.2, 1.0, 5.0])
def test_known_signal_to_noise_scores_what_the_formula_says(signal: float) -> None:
    # each half has signal-to-noise `signal`, so all counts have 2 · signal: ½ log2(1 + S) per Fourier pixel
    expected = 0.5 * np.log2(1 + 2 * signal) * np.pi * (CHOICE.k_max**2 - CHOICE.k_min**2)
    values = [score_spectrum(ring_correlation([images(signal, seed)], PIXEL, CHOICE)).value for seed in range(30)]
    # the correlation coefficient of some thirty pairs is biased low by a few per cent
    assert np.mean(values) == pytest.approx(expected, rel=0.05)


def test_more_tiles_give_the_same_score_with_less_uncertainty() -> None:
    one = score_spectrum(ring_correlation([images(1.0, 0)], PIXEL, CHOICE))
    four = score_spectrum(ring_correlation([images(1.0, seed) for seed in range(4)], PIXEL, CHOICE))
    assert four.sd == pytest.approx(one.sd / 2, rel=0.06)  # 1/(n − 3), not 1/n
    assert abs(four.value - one.value) < 3 * np.hypot(four.sd, one.sd)


def test_constant_and_plane_are_not_signal() -> None:
    rng = np.random.default_rng(0)
    plane = 40 + 3 * np.arange(64)[:, None] - 2 * np.arange(64)[None]
    score = score_spectrum(
        ring_correlation([(rng.normal(size=(64, 64)) + plane, rng.normal(size=(64, 64)) + plane)], PIXEL, CHOICE)
    )
    assert abs(score.value) < 3 * score.sd


def test_scaling_to_another_dose() -> None:
    # noise variance falls as 1/dose: halves of 4 times the dose have signal 4 where these have 1
    low = score_spectrum(ring_correlation([images(1.0, seed) for seed in range(8)], PIXEL, CHOICE))
    high = score_spectrum(ring_correlation([images(4.0, seed) for seed in range(8, 16)], PIXEL, CHOICE))
    scaled = scale_score(low, 4.0)
    assert scaled.value == pytest.approx(high.value, abs=4 * np.hypot(scaled.sd, high.sd))
    assert scaled.value == pytest.approx(high.value, rel=0.05)
    assert scale_score(low, 1.0).value == pytest.approx(low.value)
    assert scale_score(low, 1.0).sd == pytest.approx(low.sd)


def test_knee_of_the_dose_curve_follows_from_the_rings() -> None:
    # white signal, signal-to-noise 2 in the full data at dose 1000: score = ½ log2(1 + D/500) per Fourier pixel
    score = score_spectrum(ring_correlation([images(1.0, seed) for seed in range(8)], PIXEL, CHOICE))
    assert dose_knee(score, 1000.0) == pytest.approx(500, rel=0.15)
    noise = score_spectrum(ring_correlation([images(0.0, 1)], PIXEL, CHOICE))
    assert dose_knee(noise, 1000.0) is None


def test_half_bit_resolution_is_where_signal_ends() -> None:
    edges = np.arange(0.1, 1.05, 0.1)
    pairs = np.full(9, 400.0)

    def resolution(*frc: float) -> float | None:
        return half_bit_resolution(Spectrum(edges, np.array(frc), pairs))

    assert resolution(0.9, 0.9, 0.9, 0.9, 0.0, 0.0, 0.0, 0.0, 0.0) == pytest.approx(1 / 0.6)  # means of three rings
    assert resolution(0.0, 0.0, 0.9, 0.0, 0.9, 0.0, 0.0, 0.0, 0.0) == pytest.approx(1 / 0.7), "a crystal's reflections"
    assert resolution(*[0.9] * 9) == pytest.approx(1.0)
    assert resolution(*[0.05] * 9) is None


def test_tiles_lie_inside_and_do_not_overlap() -> None:
    area = Rectangle(y=10, x=-5, height=41, width=20)
    squares = tiles(area, 18)
    assert len(squares) == 2
    assert all(area.contains(square) for square in squares)
    assert not squares[0].overlaps(squares[1])


def test_cutting_beyond_the_picture_is_refused() -> None:
    with pytest.raises(ValueError, match="reaches beyond"):
        crop(np.zeros((10, 10)), (0.0, 0.0), (1.0, 1.0), Rectangle(y=5, x=5, height=8, width=3))


def test_halves_are_independent_poisson_counts() -> None:
    rng = np.random.default_rng(1)
    counts = rng.poisson(np.linspace(0, 150, 32)[None, :, None], (400, 32, 8)).astype(np.uint16)
    first, second = halves(counts, seed=3)
    assert np.array_equal(first + second, counts)
    a, b = first.astype(float), second.astype(float)
    mean = a.mean(axis=0)
    assert np.allclose(mean, counts.mean(axis=0) / 2, rtol=0.06, atol=0.05)
    filled = mean > 0
    assert (a.var(axis=0)[filled] / mean[filled]).mean() == pytest.approx(1.0, abs=0.02)
    covariance = ((a - a.mean(axis=0)) * (b - b.mean(axis=0))).mean(axis=0)[filled] / mean[filled]
    assert abs(covariance.mean()) < 0.02
    again, _ = halves(counts, seed=3)
    assert np.array_equal(first, again)
    assert not np.array_equal(first, halves(counts, seed=4)[0])


def test_halves_of_counts_that_memory_cannot_hold_are_the_same_and_stay_on_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = np.random.default_rng(1).poisson(3.0, (20, 16, 16)).astype(">u2")
    np.save(tmp_path / "counts.npy", counts)
    expected = halves(counts, seed=3)
    monkeypatch.setattr("instrument.memory.free_memory", lambda: 1)
    monkeypatch.setattr("agent.reconstruction.counts.patterns._CHUNK", 7)
    found = halves(np.load(tmp_path / "counts.npy", mmap_mode="r"), seed=3)
    assert all(isinstance(half, np.memmap) for half in found)
    assert np.array_equal(found, expected)


def test_deviance_of_true_model_is_its_expectation() -> None:
    rng = np.random.default_rng(2)
    model = np.geomspace(0.003, 300, 64)[None, :, None] * np.ones((30, 64, 64))
    counts = rng.poisson(model).astype(np.uint16)
    assert relative_deviance(counts, model.astype(np.float32), np.ones((64, 64), np.float32)) == pytest.approx(
        1.0, abs=0.01
    )
    assert expected_deviance(np.array([1e4]))[0] == pytest.approx(1.0, abs=1e-3)


def specimen(phase_peak: float, dose: float, seed: int) -> DiffractionData:
    """A crystal-free field of atoms (or nothing, peak 0), 24 Å wide, step 1.5 Å, 200 Å underfocus, 64² pixels."""
    from agent.reconstruction.model import forward, geometry

    axis = (np.arange(16) + 0.5) * 1.5
    positions = np.stack(np.meshgrid(axis, axis, indexing="ij"), axis=-1).reshape(-1, 2)
    data = DiffractionData(np.zeros((256, 64, 64), np.uint16), positions, 80e3, 21.4, 2.0, 200.0)
    geo = geometry.locate(data)
    rng = np.random.default_rng(11)
    y, x = (geo.origin[i] + geo.pixel_size[i] * np.arange(geo.object_shape[i]) for i in (0, 1))
    phase = np.zeros(geo.object_shape)
    for py, px in rng.uniform(-15, 40, (250, 2)):
        phase += phase_peak * np.exp(-((y - py) ** 2)[:, None] / 0.7 - ((x - px) ** 2)[None, :] / 0.7)
    wave = probe.aperture_wave((64, 64), 2.0, 80e3, 21.4, {"C10": -200.0}) * np.sqrt(dose * 1.5**2)
    obj = np.exp(1j * phase).astype(np.complex64)
    problem, unknowns = forward.known(obj[None], wave[None], geo.corners, geo.subpixel_shifts)
    model, _ = forward.intensities(problem, unknowns, np.arange(len(geo.corners)), np)
    counts = np.random.default_rng(seed).poisson(model).astype(np.uint16)
    return replace(data, patterns=np.roll(counts, (32, 32), axis=(1, 2)))


SQUARE = [Rectangle(y=3, x=3, height=18, width=18)]
SETTINGS = ReconstructionSettings(device="cpu", max_passes=8, stop_early=False)


def several_counts(data: DiffractionData, seed: int) -> DiffractionData:
    """The same patterns with a fifth of the electrons, each of which gives 5 counts on average, some in the next row."""
    rng = np.random.default_rng(seed)
    electrons = rng.binomial(data.patterns, 0.2)
    shared = 0.7 * electrons + 0.3 * np.roll(electrons, 1, axis=1)
    return replace(data, patterns=rng.poisson(5 * shared).astype(np.uint16))


def test_electrons_of_several_counts_are_noticed() -> None:
    for dose in (1e2, 2e4):
        data = specimen(0.4, dose, 1)
        assert 0.8 < excess_variance(data.patterns, data.positions) < 1.3
        many = several_counts(data, 1)
        assert excess_variance(many.patterns, many.positions) > 3
    assert np.isnan(excess_variance(data.patterns[:2], data.positions[:2]))


def test_electrons_of_several_counts_score_zero_without_a_specimen_if_positions_are_halved() -> None:
    chosen = CHOICE.model_copy(update={"split": "positions"})
    data = [several_counts(specimen(0.0, 1e4, seed), seed) for seed in range(4)]
    shared = judge(data[0], SETTINGS, SQUARE, CHOICE, 0).score
    assert abs(shared.value) < 2 * shared.sd, "noise that both halves share is seen in their counts"
    scores = [judge(one, SETTINGS, SQUARE, chosen, seed).score for seed, one in enumerate(data)]
    values, sd = np.array([s.value for s in scores]), scores[0].sd
    assert np.all(np.abs(values) < 2.6 * sd)


def test_halved_positions_score_what_halved_counts_do() -> None:
    """With single electrons and overlap to spare."""
    data = specimen(0.4, 2e4, 1)
    counts = judge(data, SETTINGS, SQUARE, CHOICE, 1).score
    positions = judge(data, SETTINGS, SQUARE, CHOICE.model_copy(update={"split": "positions"}), 1).score
    assert positions.value == pytest.approx(counts.value, rel=0.15)
    assert positions.heldout_gain == pytest.approx(counts.heldout_gain, rel=0.2)


def test_positions_are_halved_as_a_checkerboard_then_by_columns_and_rows() -> None:
    i, j = np.divmod(np.arange(35), 7)
    positions = np.stack([3.0 + 1.7 * i, -2.0 + 1.7 * j], axis=-1) + np.random.default_rng(0).normal(0, 0.01, (35, 2))
    for number, expected in enumerate(((i + j) % 2 == 0, j % 2 == 0, i % 2 == 0)):
        assert np.array_equal(alternate(positions, number), expected)
    scattered = np.random.default_rng(0).uniform(0, 50, (400, 2))
    assert alternate(scattered).mean() == pytest.approx(0.5, abs=0.1)


def test_an_empty_specimen_scores_zero_within_two_sd() -> None:
    scores = [judge(specimen(0.0, 2e3, seed), SETTINGS, SQUARE, CHOICE, seed).score for seed in range(4)]
    values, sd = np.array([s.value for s in scores]), scores[0].sd
    assert np.all(np.abs(values) < 2.6 * sd)  # four draws: each within 2.6 sd is what 2 sd is for one
    assert abs(values.mean()) < 2 * sd / np.sqrt(len(values)) + 0.1 * sd


def test_a_wrong_probe_scores_low_and_more_dose_scores_high() -> None:
    data = specimen(0.4, 2e3, 1)
    right = judge(data, SETTINGS, SQUARE, CHOICE, 1).score
    wrong = judge(replace(data, defocus=-200.0), SETTINGS, SQUARE, CHOICE, 1).score
    more = judge(specimen(0.4, 2e4, 1), SETTINGS, SQUARE, CHOICE, 1).score
    assert wrong.value + 5 * wrong.sd < right.value < more.value - 5 * more.sd
    assert right.veto is None
    assert right.heldout_gain is not None
    assert right.heldout_gain > 0
    assert right.deviance == pytest.approx(1.0, abs=0.15)  # a small scan: the fit takes a tenth of the freedom


def test_a_picture_that_is_mostly_noise_predicts_when_weighted_with_what_halves_share() -> None:
    """Unweighted, its noise predicts worse than an empty specimen, which used to be called overfit."""
    data = specimen(0.2, 5e2, 1)
    settings = replace(SETTINGS, max_passes=30)
    first, second = halves(data.patterns, 0)
    solver = Reconstructor(replace(data, patterns=first), settings)
    solver.run()
    predicted = solver.deviance_of(second)
    solver.take_over(solver.learned(), empty=True)
    assert predicted > solver.deviance_of(second)
    score = judge(data, settings, SQUARE, CHOICE, 0).score
    assert score.value > 2 * score.sd
    assert score.veto is None
    assert score.heldout_gain is not None
    assert score.heldout_gain > 0
    assert score.grid is not None
    assert 0.1 < score.grid < 3


def test_halves_that_agree_on_what_the_counts_do_not_show_are_vetoed() -> None:
    claimed = judge(specimen(0.4, 2e3, 1), SETTINGS, SQUARE, CHOICE, 1).score
    examined = reconstruct_examined(specimen(0.4, 2e3, 1), SETTINGS, of_one_scan=True)
    again = specimen(0.4, 2e3, 7)
    elsewhere = replace(again, patterns=again.patterns[::-1])
    for other, overfit in ((again, False), (elsewhere, True)):
        score = apply_vetoes(claimed, predict(examined, other, spectrum_of(claimed)))
        assert ("overfit" in (score.veto or "")) == overfit


def test_a_prior_changes_the_picture_and_not_the_score() -> None:
    data = specimen(0.4, 5e2, 1)
    free, expected = (judge(data, replace(SETTINGS, regularise=chosen), SQUARE, CHOICE, 1) for chosen in (False, True))
    assert expected.score.model_copy(update={"grid": free.score.grid}) == free.score  # the grid is the picture's
    assert np.std(expected.reconstruction.phase) < 0.9 * np.std(free.reconstruction.phase)


def test_data_that_the_model_cannot_describe_are_vetoed() -> None:
    data = specimen(0.4, 1e6, 1)
    rng = np.random.default_rng(0)
    shuffled = replace(
        data, patterns=data.patterns[rng.permutation(len(data.patterns))]
    )  # right patterns, wrong places
    score = judge(shuffled, SETTINGS, SQUARE, CHOICE, 1).score
    assert score.veto is not None


def test_several_splits_are_averaged_and_scatter_less() -> None:
    data = specimen(0.4, 2e3, 1)
    scores = [judge(data, SETTINGS, SQUARE, CHOICE, seed).score for seed in range(4)]
    one = [score.value for score in scores]
    two = judge(data, SETTINGS, SQUARE, CHOICE, 0, splits=2).score
    assert two.value != one[0]
    assert abs(two.value - np.mean(one)) < 3 * np.std(one, ddof=1)
    assert scores[0].sd == pytest.approx(two.sd)


def test_own_reconstruction_and_own_score() -> None:
    from agent.scoring.halves import score_halves

    data = specimen(0.4, 2e3, 1)
    calls = []

    def mine(data: DiffractionData, settings: ReconstructionSettings) -> object:
        calls.append(settings.seed)
        return reconstruct(data, replace(settings, max_passes=1))

    def doubled(pairs: object, pixel_size: tuple[float, float], choice: ScoreChoice) -> object:
        score = score_halves(pairs, pixel_size, choice)
        return score.model_copy(update={"value": 2 * score.value})

    plain = judge(data, SETTINGS, SQUARE, CHOICE, 5, reconstruct_with=mine)
    assert calls == [5, 6, 7]
    assert plain.reconstruction.passes == 1
    twice = judge(data, SETTINGS, SQUARE, CHOICE, 5, reconstruct_with=mine, score_with=doubled)
    assert twice.score.value == pytest.approx(2 * plain.score.value, rel=0.01)  # which leaves harmonics of the scan out


def test_halves_of_counts_keep_the_pixels_of_the_whole() -> None:
    # enough counts to extend the detector for several slices, but not in either half
    data = specimen(0.4, 4e3, 1)
    pixels = []

    def mine(data: DiffractionData, settings: ReconstructionSettings) -> Reconstruction:
        pixels.append(reconstruct(data, replace(settings, max_passes=1)).pixel_size)
        return reconstruct(data, replace(settings, max_passes=1))

    judge(data, replace(SETTINGS, slices=2), SQUARE, CHOICE, 5, reconstruct_with=mine)
    alone = [
        reconstruct(half, replace(SETTINGS, slices=2, max_passes=1)).pixel_size for half in split(data, "counts", 0)
    ]
    assert pixels[0] == pixels[1] == pixels[2]
    assert pixels[0] < min(alone)
