"""Suggestions: better than chance at the same electrons, always legal, never over budget, reproducible."""

import numpy as np
import pytest
from examples import description

from agent.config import Goal
from agent.errors import BadInputError
from agent.policy import Observation, Problem, SearchSpace, make_policy
from agent.policy.coordinates import as_points
from agent.records import Settings
from agent.search_choice import Search
from instrument.models import Parameter

from .landscapes import FINAL_AREA, TRIAL_AREA, Landscape, explore, problem, scored_policy, spent


def test_bayesian_optimisation_beats_random_and_sobol_with_the_same_electrons():
    final, at_same_dose = {}, {}
    for name in ("botorch", "sobol", "random"):
        task = problem(name, trials=12)
        final[name], at_same_dose[name] = [], []
        for seed in range(10):
            landscape = Landscape(seed)
            policy = make_policy(task, seed)
            left = task.config.electrons - spent(explore(policy, landscape))
            chosen = policy.recommend(left).settings
            final[name].append(landscape.truth(chosen))
            at_same_dose[name].append(landscape.truth(chosen.model_copy(update={"dose": 2000.0})))
    for scores in (final, at_same_dose):
        for name in ("sobol", "random"):
            gain = np.array(scores["botorch"]) - scores[name]
            error = gain.std(ddof=1) / np.sqrt(len(gain))
            assert gain.mean() > 2 * error, f"{name}: {gain.mean():.3f} ± {error:.3f} bit/Å²"


VARIANTS = {
    "plain": {},
    "both signs, high overlap": {"search": Search(step=(0.4, 3.0), overlap=0.8)},
    "saturating detector": {"instrument": description(electrons_per_pattern=(200.0, 1500.0))},
    "dwell times in steps": {
        "instrument": description(
            electrons_per_pattern=(200.0, 20000.0),
            electrons_per_pattern_values=(200.0, 500.0, 1000.0, 2000.0, 5000.0, 20000.0),
        )
    },
    "a single dwell time": {
        "instrument": description(electrons_per_pattern=(900.0, 900.0), electrons_per_pattern_values=(900.0,))
    },
    "cheapest with dwell times in steps": {
        "goal": Goal(kind="cheapest"),
        "target": 1.0,
        "instrument": description(
            electrons_per_pattern=(100.0, 6400.0), electrons_per_pattern_values=tuple(100.0 * 2**n for n in range(7))
        ),
    },
    "discrete, defocus fixed": {
        "instrument": description(
            step=Parameter(kind="discrete", unit="Å", values=(0.5, 1.0, 1.5, 2.0)),
            defocus=Parameter(kind="fixed", unit="Å", values=(300.0,)),
            dose=Parameter(kind="discrete", unit="e/Å²", values=(100.0, 300.0, 1000.0, 3000.0)),
        ),
        "search": Search(),
    },
    "everything fixed but defocus": {
        "instrument": description(
            step=Parameter(kind="fixed", unit="Å", values=(0.8,)),
            dose=Parameter(kind="fixed", unit="e/Å²", values=(800.0,)),
        )
    },
    "cheapest": {"goal": Goal(kind="cheapest"), "target": 1.0},
}


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("name", ["botorch", "sobol", "random"])
def test_suggestions_are_legal_distinct_and_within_the_share_of_exploration(name, variant):
    task = problem(name, trials=7, initial=3, **VARIANTS[variant])
    space = SearchSpace(task.description, task.config)
    policy = make_policy(task, 3)
    overhead = 1.1
    suggestions = explore(policy, Landscape(5), overhead)
    assert len(suggestions) >= 5
    for suggestion in suggestions:
        assert space.why_illegal(suggestion.settings) is None
        assert suggestion.reason
    assert spent(suggestions, overhead) <= task.config.exploration.share * task.config.electrons * (1 + 1e-9)
    recommended = policy.recommend(task.config.electrons - spent(suggestions, overhead)).settings
    assert space.why_illegal(recommended, final=True) is None


@pytest.mark.parametrize("goal", [Goal(), Goal(kind="cheapest", score=0.1)])
@pytest.mark.parametrize("name", ["botorch", "sobol", "random"])
def test_a_search_with_nothing_to_search_ends_when_its_only_settings_have_a_score(name, goal):
    only = Search(step=(0.8, 0.8), defocus=(300.0, 300.0), dose=(500.0, 500.0))
    policy = make_policy(problem(name, trials=9, search=only, goal=goal), 3)
    suggestions = explore(policy, Landscape(5))
    assert 1 <= len(suggestions) <= 2, "the second is suggested while the first has no score yet"
    recommended = policy.recommend(1e7).settings
    assert (recommended.step, recommended.defocus) == (0.8, 300.0)
    assert policy.view(1e7) is None


def test_the_same_observations_give_the_same_suggestion_in_whatever_order_they_came():
    import torch

    landscape = Landscape(1)
    policy = make_policy(problem(), 7)
    explore(policy, landscape)
    observations = [*policy.book.all[:6], Observation(trial=7, settings=policy.book.all[6].settings, state="pending")]
    answers = []
    for order in (observations, observations[::-1]):
        torch.manual_seed(len(answers))
        fresh = make_policy(problem(), 7)
        fresh.suggest()
        fresh.ingest(order)
        answers.append((fresh.suggest(2), fresh.recommend(1e7), fresh.view(1e7)))
    assert answers[0] == answers[1]
    other = make_policy(problem(), 8)
    other.ingest(observations)
    assert other.suggest()[0].settings != answers[0][0][0].settings


def test_the_callers_torch_is_left_alone():
    import torch

    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    threads = torch.get_num_threads()
    policy = make_policy(problem(), 0)
    policy.ingest([Landscape(0).observe(n, Settings(step=n / 2, defocus=100.0 * n, dose=800)) for n in range(1, 5)])
    policy.suggest()
    assert torch.rand(1) == expected
    assert torch.get_num_threads() == threads


def test_trials_under_way_are_not_repeated():
    policy = scored_policy(problem(trials=14))
    together = policy.suggest(4)
    unit = policy.space.normalize(as_points(s.settings for s in together))
    distances = np.linalg.norm(unit[:, None] - unit[None], axis=-1)[np.triu_indices(4, 1)]
    assert distances.min() > 0.02
    one_by_one = []
    for number in range(7, 11):
        one_by_one += policy.suggest()
        policy.ingest([Observation(trial=number, settings=one_by_one[-1].settings, state="pending")])
    assert one_by_one == together


def test_a_suggestion_explains_itself():
    policy = scored_policy(problem())
    suggestion = policy.suggest()[0]
    assert "expected to improve the final picture by" in suggestion.reason
    assert suggestion.predicted_sd > Landscape(2).noise
    assert suggestion.nearest_trial in range(1, 7)
    assert len(suggestion.alternatives) == 2
    assert all("less than chosen" in a.reason for a in suggestion.alternatives)
    start = make_policy(problem(), 0).suggest()[0]
    assert "Sobol trial: 1 of 4" in start.reason
    assert start.predicted is None


def test_predictions_are_calibrated():
    surprise = []
    for seed in range(2):
        landscape = Landscape(seed)
        policy = make_policy(problem(trials=9, initial=5), seed)
        for number, suggestion in enumerate(explore(policy, landscape), 1):
            if suggestion.predicted is not None and number > 6:
                observed = policy.book.all[number - 1].score
                surprise.append((observed - suggestion.predicted) / suggestion.predicted_sd)
    assert np.sqrt(np.mean(np.square(surprise))) < 3.0


def test_failed_trials_cost_what_was_booked_and_are_not_tried_again():
    task = problem()
    policy = scored_policy(task)
    wanted = policy.suggest()[0].settings
    before = policy.budget.spent(policy.book)
    policy.ingest([Observation(trial=7, settings=wanted, state="failed")])
    assert policy.budget.spent(policy.book) == pytest.approx(before)
    following = policy.suggest()[0].settings
    unit = policy.space.normalize(as_points([wanted, following]))
    assert np.linalg.norm(unit[0] - unit[1]) > 0.02
    policy.ingest([Observation(trial=7, settings=wanted, state="failed", electrons=1e5)])
    assert policy.budget.spent(policy.book) == pytest.approx(before + 1e5)


def test_reference_trials_inform_the_model_and_cost_exploration_nothing():
    policy = scored_policy(problem())
    before = policy.budget.spent(policy.book)
    reference = Landscape(2).observe(7, Settings(step=1.0, defocus=200.0, dose=5e3))
    policy.ingest([reference.model_copy(update={"role": "reference"})])
    assert policy.budget.spent(policy.book) == pytest.approx(before)
    assert policy.suggest()[0].nearest_trial is not None


def test_a_tight_budget_is_explored_with_the_most_frugal_trials():
    task = problem(
        trials=4,
        initial=2,
        electrons=2 * 4 * 112.0 * TRIAL_AREA,
        instrument=description(electrons_per_pattern=(1000.0, 1e5)),
    )
    for name in ("botorch", "sobol", "random"):
        policy = make_policy(Problem(task.description, task.config, 500.0, TRIAL_AREA), 0)
        suggestions = explore(policy, Landscape(0))
        assert len(suggestions) == 4, name
        assert spent(suggestions) <= task.config.electrons / 2


def test_exploration_ends_when_its_share_is_spent():
    policy = make_policy(problem("sobol"), 0)
    settings = policy.suggest()[0].settings
    policy.ingest([Observation(trial=1, settings=settings, state="failed", electrons=0.999999e7)])
    assert policy.suggest() == []


def test_a_fit_that_fails_falls_back_to_sobol_and_says_so(monkeypatch):
    from botorch.exceptions import ModelFittingError

    def fail(*_args, **_kwargs):
        raise ModelFittingError

    policy = scored_policy(problem())
    monkeypatch.setattr("agent.policy.score_model.fit_gpytorch_mll", fail)
    suggestion = policy.suggest()[0]
    assert "could not be fitted" in suggestion.reason
    assert policy.space.why_illegal(suggestion.settings) is None
    assert "could not be fitted" in policy.recommend(1e7).reason
    assert policy.view(1e7) is None


def test_the_expert_repeats_himself():
    policy = make_policy(problem("expert"), 0)
    suggestions = explore(policy, Landscape(0))
    assert {(s.settings.step, s.settings.defocus) for s in suggestions} == {(0.85, 500.0)}
    chosen = policy.recommend(1e7).settings
    assert (chosen.step, chosen.defocus, chosen.dose) == (0.85, 500.0, pytest.approx(1e7 / FINAL_AREA))
    with pytest.raises(BadInputError, match="needs the key expert"):
        make_policy(problem("expert", expert=None), 0)
    with pytest.raises(BadInputError, match=r"not legal: .*overlap"):
        make_policy(problem("expert", expert=(2.5, 0.0)), 0)
