"""Fair baselines: the formulas of the field, a raster, and the seed paper's optimiser."""

import numpy as np
import pytest

from agent.policy import Observation, make_policy
from instrument import optics

from .landscapes import Landscape, explore, problem, spent


@pytest.mark.parametrize("name", ["ncem", "phaser", "grid", "seed", "seed-4"])
def test_a_baseline_explores_legally_within_its_share_and_recommends_something_legal(name):
    task = problem(name, trials=6)
    policy = make_policy(task, 0)
    suggestions = explore(policy, Landscape(0))
    assert len(suggestions) == 6
    assert spent(suggestions) <= task.config.exploration.share * task.config.electrons
    for suggestion in suggestions:
        assert policy.space.why_illegal(suggestion.settings) is None
    left = task.config.electrons - spent(suggestions)
    assert policy.space.why_illegal(policy.recommend(left).settings, final=True) is None


def test_the_ncem_rule_fills_a_third_of_the_window_and_steps_15_percent_of_the_disc():
    task = problem("ncem", trials=1)
    settings = make_policy(task, 3).recommend(1e7).settings
    beam = task.description
    window = 1 / optics.spatial_frequency(beam.detector.angular_pixel, beam.voltage)
    disc = 2e-3 * beam.semiangle * settings.defocus
    assert disc == pytest.approx(window / 3, rel=0.02)
    assert settings.step == pytest.approx(0.15 * disc, rel=0.02)


def test_phasers_predictor_prefers_more_overlap_and_finer_ronchigrams():
    policy = make_policy(problem("phaser"), 0)
    odds = policy.log_odds(np.array([[0.5, 150.0, 1e3], [0.5, 600.0, 1e3], [2.5, 600.0, 1e3]]))
    assert odds[0] > odds[1] > odds[2]
    assert "probability" in policy.recommend(1e7).reason


def test_the_grid_visits_other_settings_each_time():
    suggestions = make_policy(problem("grid", trials=9), 0).suggest(9)
    assert len({(round(s.settings.step, 3), round(s.settings.defocus, 1)) for s in suggestions}) == 9


def test_the_seed_papers_optimiser_goes_on_over_identical_points_and_equal_scores():
    policy = make_policy(problem("seed-4", trials=8), 0)
    settings = policy.suggest()[0].settings
    policy.ingest(
        [Observation(trial=n, settings=settings, state="done", score=1.0, variance=0.01) for n in range(1, 6)]
    )
    suggestion = policy.suggest()[0]
    assert policy.space.why_illegal(suggestion.settings) is None
