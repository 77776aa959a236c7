"""What halves of one scan get wrong alike is told from their counts, and is no signal."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import phantom
import pytest
from numpy.typing import NDArray

from agent.config import ScoreChoice
from agent.reconstruction import ReconstructionSettings, reconstruct
from agent.scoring.comparison import Rules, compare, score_of
from agent.scoring.regions import crop
from agent.scoring.ring_correlation import Spectrum
from agent.scoring.shared_error import Seen, shared_error, without_shared
from agent.scoring.splitting import split
from agent.scoring.truth import true_information
from instrument.models import Rectangle

SHAPE = (50, 8000)
MEAN = 2.0


def halves(wrong: float, taken: float) -> tuple[Seen, Seen]:
    """Both models are `wrong` by so much in units of counting noise, and each has `taken` so much of its own noise with it."""
    rng = np.random.default_rng(4)
    error = wrong * np.sqrt(MEAN) * rng.choice([-1, 1], SHAPE)

    def half() -> Seen:
        counts: NDArray[np.float64] = rng.poisson(MEAN, SHAPE).astype(np.float64)
        model = MEAN + error + taken * (counts - MEAN)
        return Seen(counts.astype(np.float32), model.astype(np.float32))

    return half(), half()


def test_noise_alone_is_no_shared_error() -> None:
    assert shared_error(*halves(0.0, 0.1), views=5.0) == 0.0


def test_a_shared_error_is_found_with_the_size_that_it_has() -> None:
    # C is wrong² a pixel, p what is taken of the noise; five views agree on a quarter of what they do not agree on
    found = shared_error(*halves(0.2, 0.05), views=5.0)
    assert found == pytest.approx(0.04 / 0.05 / 4, rel=0.1)
    assert shared_error(*halves(0.2, 0.05), views=9.0) == pytest.approx(found / 2)


def test_a_score_is_that_of_signal_over_noise_and_shared_error() -> None:
    specimen, noise, wrong = np.array([3.0, 1.0, 0.0]), 1.0, 0.2
    edges = 0.15 + 0.05 * np.arange(4)
    found = Spectrum(edges, (specimen + wrong) / (specimen + wrong + noise), np.full(3, 60.0))
    honest = without_shared(found, wrong / noise).frc
    np.testing.assert_allclose(2 * honest / (1 - honest), specimen / (wrong + noise / 2), atol=1e-9)
    same = without_shared(found, 0.0).frc
    np.testing.assert_allclose(same, found.frc)
    negative = Spectrum(edges, -found.frc, found.pairs)
    np.testing.assert_allclose(without_shared(negative, 0.2).frc, -honest, atol=1e-12)


def test_positions_that_are_wrong_in_both_halves_lower_the_score_and_widen_its_uncertainty() -> None:
    settings = ReconstructionSettings(max_passes=6, stop_early=False, padding=1.0, device="cpu")
    square = [Rectangle(y=4, x=4, height=16, width=16)]
    raster = phantom.raster(2.0)
    rng = np.random.default_rng(3)
    missed = phantom.experiment(dose=3e4, step=2.0, true_positions=raster + rng.normal(0, 0.2, raster.shape))
    rules = Rules(settings, square, ScoreChoice(k_max=1.0))
    compared = compare(split(missed, "counts", 1), rules, 1, "thinned")
    plain, honest = (score_of(each, rules, 1) for each in (replace(compared, shared=0.0), compared))
    picture = reconstruct(missed, settings)
    image = crop(picture.phase, picture.origin, picture.pixel_size, square[0])
    truth = true_information(
        image, picture.pixel_size, phantom.atoms((210, 210), (1.5, 1.5), (0.1, 0.1)), 0.1, rules.choice
    )
    assert plain.value > 1.1 * truth + 2 * plain.sd, "it claims too much"
    assert abs(honest.value - truth) < 0.7 * (plain.value - truth)
    assert honest.sd > plain.sd
