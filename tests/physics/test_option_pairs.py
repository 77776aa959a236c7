"""Options that are combined: none ends worse than it was, and what is odd is said. All pairs: benchmarks/option_pairs.py."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import phantom
import pytest
import unsteady

from agent.reconstruction import ReconstructionSettings, Reconstructor, reconstruct
from agent.reconstruction.solver import per_pattern
from agent.reconstruction.solver.best_pass import WORSE

SETTINGS = ReconstructionSettings(max_passes=40, stop_early=False, quantitative=False, device="cpu")


@pytest.fixture(scope="module")
def flickering() -> unsteady.Scan:
    return unsteady.scan(jitter=0.2, flicker=0.3)


@pytest.fixture(scope="module")
def steady() -> unsteady.Scan:
    return unsteady.scan()


@pytest.mark.parametrize(
    "options",
    [
        {"refine_intensity": True},
        {"refine_intensity": True, "refine_positions": "free"},
        {"refine_intensity": True, "refine_positions": "free", "object_type": "phase"},
        {"refine_intensity": True, "refine_positions": "lines", "variable_modes": 1},
        {"variable_modes": 1},
        {"variable_modes": 1, "refine_positions": "lines"},
    ],
    ids=lambda options: " + ".join(options),
)
def test_options_that_once_diverged_together_end_with_their_best_pass(
    flickering: unsteady.Scan, options: dict[str, Any]
) -> None:
    result = reconstruct(flickering.data, replace(SETTINGS, **options))
    assert result.deviance[-1] <= (1 + WORSE) * min(result.deviance)
    assert result.passes == 40
    assert not any("rose" in note for note in result.notes)


def test_intensities_and_free_positions_are_found_together(flickering: unsteady.Scan) -> None:
    result = reconstruct(flickering.data, replace(SETTINGS, refine_intensity=True, refine_positions="free"))
    assert flickering.phase_error(result) < 0.13  # 0.105 on a steady scan without either
    assert flickering.position_error(result) < 1.5  # Å; the worst position, at the rim, where there is little to see
    assert result.notes == ()


@pytest.mark.parametrize("stop_early", [False, True])
def test_what_diverges_returns_to_its_best_pass_and_says_so(
    flickering: unsteady.Scan, stop_early: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(per_pattern, "SEEN", 1e9)  # steps that are far too long for strong variations
    result = reconstruct(flickering.data, replace(SETTINGS, variable_modes=1, stop_early=stop_early))
    assert max(result.deviance) > 5 * min(result.deviance)
    assert result.deviance[-1] == min(result.deviance)
    assert result.passes < 36
    rose = [note for note in result.notes if "rose" in note]
    assert len(rose) == 1
    assert f"the result is that of pass {result.passes}; try it without variable_modes" in rose[0]
    fewer = replace(SETTINGS, variable_modes=1, stop_early=stop_early, max_passes=30)
    assert flickering.phase_error(result) < 1.2 * flickering.phase_error(reconstruct(flickering.data, fewer))


@pytest.mark.parametrize("loss", ["gaussian", "amplitude"])
def test_a_loss_that_is_not_the_deviance_ends_where_it_ends(steady: unsteady.Scan, loss: Any) -> None:
    assert reconstruct(steady.data, replace(SETTINGS, loss=loss)).passes == 40


def test_values_that_are_no_numbers_are_never_returned(steady: unsteady.Scan, monkeypatch: pytest.MonkeyPatch) -> None:
    intensities, calls = per_pattern.update_intensities, iter(range(1000))

    def broken(*arguments: Any) -> None:
        intensities(*arguments)
        if next(calls) == 20:
            arguments[1].weights[3] = np.nan

    monkeypatch.setattr(per_pattern, "update_intensities", broken)
    options = {"refine_intensity": True, "refine_positions": "free"}
    result = reconstruct(steady.data, replace(SETTINGS, **options))
    assert steady.phase_error(result) < 0.15
    assert "rose" in result.notes[0]


def test_deviance_has_a_value_for_every_fourth_full_pass(steady: unsteady.Scan) -> None:
    result = reconstruct(steady.data, replace(SETTINGS, max_passes=30))
    assert len(result.deviance) == 7  # passes 6, 10, …, 30
    assert list(result.deviance) == sorted(result.deviance, reverse=True)
    early = reconstruct(steady.data, replace(SETTINGS, stop_early=True))
    assert len(early.deviance) == 2
    assert early.deviance[1] < early.deviance[0]


def test_corner_centred_patterns_are_noticed(steady: unsteady.Scan) -> None:
    data = replace(steady.data, patterns=np.fft.ifftshift(steady.data.patterns, axes=(1, 2)))
    few = replace(SETTINGS, max_passes=6)
    (corners,) = (note for note in reconstruct(data, few).notes if "corners" in note)
    assert "apply numpy.fft.fftshift" in corners
    assert "(0, 0) as centre instead of (16, 16)" in corners
    assert reconstruct(replace(data, centre=(0.0, 0.0)), few).notes == ()


@pytest.mark.parametrize("pixels", [4, 9])
def test_a_zero_beam_far_from_its_centre_is_noticed(steady: unsteady.Scan, pixels: int) -> None:
    data = replace(steady.data, patterns=np.roll(steady.data.patterns, (-1, pixels), axis=(1, 2)))
    few = replace(SETTINGS, max_passes=6)
    odd = [note for note in reconstruct(data, few).notes if "brightest disc" in note]
    # half a radius off is not far: it may be a bend of the specimen's mean pattern
    assert len(odd) == (pixels > 5)
    assert all(f"about pixel (15, {16 + pixels}), not about the centre (16, 16)" in note for note in odd)


def test_counts_that_the_model_does_not_describe_are_noticed(flickering: unsteady.Scan) -> None:
    (note,) = reconstruct(flickering.data, replace(SETTINGS, max_passes=15)).notes
    assert "times what counting noise explains" in note
    assert "refine_intensity" in note
    assert reconstruct(flickering.data, replace(SETTINGS, max_passes=15, refine_intensity=True)).notes == ()


@pytest.mark.parametrize("electrons", [50.0, 1e3, 1e6])
@pytest.mark.parametrize("regularise", [False, True])
def test_nothing_is_odd_about_a_good_scan(electrons: float, regularise: bool) -> None:
    data = unsteady.scan(electrons=electrons).data
    assert reconstruct(data, replace(SETTINGS, max_passes=25, regularise=regularise)).notes == ()
    mask = np.ones((32, 32), bool)
    mask[12:20, 12:20] = False  # a beam stop
    worker = Reconstructor(replace(data, mask=mask), replace(SETTINGS, max_passes=8))
    worker.run()
    assert worker.result().notes == ()


def test_a_scan_that_drifts_and_flickers_is_no_oddity_once_it_is_followed() -> None:
    drifting = unsteady.drifting()
    followed = reconstruct(
        drifting.data, replace(SETTINGS, max_passes=20, refine_positions="lines", refine_intensity=True)
    )
    assert followed.notes == ()
    assert drifting.position_error(followed) < 0.1
    assert np.ptp(phantom.inner(followed)[0]) > 0.5
