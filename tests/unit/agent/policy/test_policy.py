"""The policies: better than chance at the same electrons, always legal, never over budget, reproducible."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from botorch.exceptions import ModelFittingError

from agent.config import AreaOfInterest, CampaignConfig, Exploration, Goal, Search
from agent.errors import BadInputError
from agent.policy import ExpertPolicy, Observation, Policy, Problem, RandomPolicy, SearchSpace, SobolPolicy, make_policy
from agent.policy.space import as_points
from agent.records import Settings
from instrument.models import Description, Detector, Parameter, Rectangle

TRIAL_AREA, FINAL_AREA = 900.0, 3600.0


def description(**changes):
    values = {
        "name": "test",
        "voltage": 80e3,
        "semiangle": 21.4,
        "beam_current": 10.0,
        "detector": Detector(shape=(128, 128), angular_pixel=0.82, dtype="uint16", saturation=65535),
        "step": Parameter(kind="continuous", unit="Å", minimum=0.2, maximum=5.0),
        "defocus": Parameter(kind="continuous", unit="Å", minimum=-1000.0, maximum=1000.0),
        "dose": Parameter(kind="continuous", unit="e/Å²", minimum=50.0, maximum=1e6),
        "electrons_per_pattern": (10.0, 2e5),
        "area": Rectangle(y=0, x=0, height=400, width=400),
    }
    return Description(**(values | changes))


def problem(policy="botorch", *, trials=10, initial=4, share=0.5, instrument=None, target=None, **changes):
    values = {
        "name": "test",
        "electrons": 2e7,
        "area": AreaOfInterest(height=60, width=60),
        "exploration": Exploration(height=30, width=30, trials=trials, initial=initial, share=share),
        "search": Search(step=(0.4, 3.0), defocus=(0.0, 700.0)),
        "policy": policy,
        "expert": (0.85, 500.0),
    }
    config = CampaignConfig(**(values | changes))
    return Problem(instrument or description(), config, FINAL_AREA, TRIAL_AREA, target)


class Landscape:
    """A smooth optimum in (log step, defocus) that differs from seed to seed; the score grows as log2(1 + D·q/D₀)."""

    def __init__(self, seed, noise=0.04, knee=500.0):
        generator = np.random.default_rng(seed)
        self.step, self.defocus = np.exp(generator.uniform(np.log(0.7), np.log(2.0))), generator.uniform(120, 350)
        self.widths = generator.uniform(0.4, 0.8), generator.uniform(100, 220)
        self.noise, self.knee = noise, knee
        self.generator = generator

    def truth(self, settings):
        a = np.log(settings.step / self.step) / self.widths[0]
        b = (settings.defocus - self.defocus) / self.widths[1]
        return float(np.log2(1 + settings.dose / self.knee * (0.15 + 0.85 / (1 + a**2 + b**2))))

    def observe(self, trial, settings, overhead=1.0):
        return Observation(
            trial=trial,
            settings=settings,
            state="done",
            score=self.truth(settings) + self.noise * float(self.generator.normal()),
            variance=self.noise**2,
            electrons=settings.dose * TRIAL_AREA * overhead,
        )


def explore(policy, landscape, overhead=1.0):
    """A campaign in which each trial is suggested while the one before is still pending. Returns what was suggested."""
    suggestions, under_way = [], []
    while len(suggestions) < policy.problem.config.exploration.trials:
        suggested = policy.suggest()
        if not suggested:
            break
        suggestions += suggested
        under_way.append((len(suggestions), suggested[0].settings))
        policy.ingest([Observation(trial=len(suggestions), settings=suggested[0].settings, state="pending")])
        if len(under_way) == 2:
            policy.ingest([landscape.observe(*under_way.pop(0), overhead)])
    policy.ingest([landscape.observe(number, settings, overhead) for number, settings in under_way])
    return suggestions


def spent(suggestions, overhead=1.0):
    return sum(s.settings.dose for s in suggestions) * TRIAL_AREA * overhead


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


def test_the_same_observations_give_the_same_suggestion_in_whatever_order_they_came():
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
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    threads = torch.get_num_threads()
    policy = make_policy(problem(), 0)
    policy.ingest([Landscape(0).observe(n, Settings(step=n / 2, defocus=100.0 * n, dose=800)) for n in range(1, 5)])
    policy.suggest()
    assert torch.rand(1) == expected
    assert torch.get_num_threads() == threads


def scored_policy(task, seed=0, count=6, landscape=None):
    policy = make_policy(task, seed)
    landscape = landscape or Landscape(2)
    for number in range(1, count + 1):
        policy.ingest([landscape.observe(number, policy.suggest()[0].settings)])
    return policy


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
    def fail(*_args, **_kwargs):
        raise ModelFittingError

    policy = scored_policy(problem())
    monkeypatch.setattr("agent.policy.score_model.fit_gpytorch_mll", fail)
    suggestion = policy.suggest()[0]
    assert "could not be fitted" in suggestion.reason
    assert policy.space.why_illegal(suggestion.settings) is None
    assert "could not be fitted" in policy.recommend(1e7).reason
    assert policy.view(1e7) is None


def test_the_view_covers_the_search_and_marks_what_is_legal():
    view = scored_policy(problem()).view(1e7)
    assert (view.x_name, view.y_name) == ("step", "defocus")
    assert np.shape(view.mean) == (25, 25)
    assert view.fixed == {"dose": pytest.approx(1e7 / FINAL_AREA)}
    legal = np.array(view.legal)
    assert legal[-1, 0]
    assert not legal[0, -1], "a focused probe does not overlap at 3 Å"
    fixed = description(defocus=Parameter(kind="fixed", unit="Å", values=(300.0,)))
    view = scored_policy(problem(instrument=fixed)).view(1e7)
    assert (view.x_name, view.y_name, view.fixed) == ("step", "dose", {"defocus": 300.0})


def test_the_final_dose_is_what_the_electrons_buy_unless_patterns_saturate():
    assert scored_policy(problem()).recommend(1e7).settings.dose == pytest.approx(1e7 / FINAL_AREA)
    saturating = description(electrons_per_pattern=(10.0, 400.0))
    policy = scored_policy(problem(instrument=saturating, search=Search(step=(1.0, 3.0), defocus=(0.0, 700.0))))
    chosen = policy.recommend(1e7)
    assert chosen.settings.dose * chosen.settings.step**2 == pytest.approx(400.0)
    assert "more would exceed what a pattern may hold" in chosen.reason


def test_where_dose_damages_the_final_acquisition_uses_less():
    policy = make_policy(problem(trials=30), 0)
    generator = np.random.default_rng(0)
    for number in range(1, 22):
        dose = float(np.geomspace(200, 12000, 7)[number % 7])
        settings = Settings(
            step=float(generator.uniform(0.6, 2)), defocus=float(generator.uniform(100, 500)), dose=dose
        )
        score = np.log2(1 + dose / 500) * np.exp(-((dose / 4000) ** 2))
        policy.ingest([Observation(trial=number, settings=settings, state="done", score=score, variance=0.01)])
    chosen = policy.recommend(12000 * FINAL_AREA)
    assert 1000 < chosen.settings.dose < 5000
    assert "damage" in chosen.reason


def recording():
    return description(
        voltage=300e3,
        semiangle=1.03,
        detector=Detector(
            shape=(128, 128), angular_pixel=0.0329, dtype="uint8", saturation=255, counts_per_electron=None
        ),
        step=Parameter(kind="discrete", unit="Å", values=(31.25, 62.5, 93.75, 125.0)),
        defocus=Parameter(kind="fixed", unit="Å", values=(135000.0,)),
        dose=Parameter(kind="continuous", unit="counts/Å²", minimum=0.1, maximum=93.0),
        electrons_per_pattern=(50.0, 91000.0),
        area=Rectangle(y=0, x=0, height=2000, width=2000),
        repeatable=True,
    )


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_cheapest_sufficient_dose_of_a_recording_is_found(seed):
    config = CampaignConfig(
        name="virus",
        electrons=3e9,
        area=AreaOfInterest(height=2000, width=2000),
        goal=Goal(kind="cheapest"),
        exploration=Exploration(height=2000, width=2000, trials=9, initial=3, share=0.9),
    )
    noise = 4e-4

    def truth(s):
        return 0.01 * np.log2(1 + s.dose * np.exp(-((s.step / 90) ** 2)) / 3)

    target = 0.9 * truth(Settings(step=31.25, defocus=135000, dose=93.0))
    doses = np.geomspace(0.1, 93, 5000)
    cheapest = min(d for d in doses if truth(Settings(step=31.25, defocus=135000, dose=d)) >= target)
    policy = make_policy(Problem(recording(), config, 4e6, 4e6, target), seed)
    generator = np.random.default_rng(seed)
    for number in range(1, 10):
        suggested = policy.suggest()
        if not suggested:
            break
        s = suggested[0].settings
        score = truth(s) + noise * generator.normal()
        policy.ingest(
            [
                Observation(
                    trial=number, settings=s, state="done", score=score, variance=noise**2, electrons=s.dose * 4e6
                )
            ]
        )
    chosen = policy.recommend(3e9)
    assert "probability of at least 0.9" in chosen.reason
    assert chosen.settings.step == 31.25
    assert cheapest * 0.97 < chosen.settings.dose < cheapest * 1.1


def test_goal_cheapest_explores_before_the_target_is_known_and_recommends_only_then():
    policy = scored_policy(problem(goal=Goal(kind="cheapest")))
    assert "target is not known yet" in policy.suggest()[0].reason
    with pytest.raises(BadInputError, match="target score is not known"):
        policy.recommend(1e7)


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


def test_budgets_that_are_too_small_are_refused_with_the_numbers():
    with pytest.raises(
        BadInputError, match=r"10 trials at the smallest legal dose \(50 e/Å² over 900 Å²\) need 4.5e\+05"
    ):
        make_policy(problem("sobol", electrons=1e5), 0)
    with pytest.raises(BadInputError, match=r"9e\+04 electrons over the area of 3600 Å² are 25 e/Å²"):
        make_policy(problem("random", electrons=9e5, share=0.9), 0)
    policy = scored_policy(problem())
    with pytest.raises(BadInputError, match="smallest legal dose is 50"):
        policy.recommend(1000.0)


def test_a_policy_without_scores_recommends_nothing():
    for name in ("botorch", "sobol"):
        with pytest.raises(BadInputError, match="no scored trial"):
            make_policy(problem(name), 0).recommend(1e7)


OWN_POLICY = """
from agent.policy import SobolPolicy

class Mine(SobolPolicy):
    name = "mine"

def broken(problem, seed):
    return 42

number = 3
"""


def test_a_users_own_policy_is_found_by_module_and_attribute(tmp_path, monkeypatch):
    (tmp_path / "own_policy_for_test.py").write_text(OWN_POLICY)
    monkeypatch.syspath_prepend(tmp_path)
    policy = make_policy(problem("own_policy_for_test:Mine"), 0)
    assert isinstance(policy, Policy)
    assert policy.suggest()[0].source == "mine"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("botorhc", "unknown; legal: botorch, sobol, random, expert, or module:attribute"),
        ("no_such_module:x", "module 'no_such_module' cannot be imported"),
        ("own_policy_for_test:absent", "has no 'absent'"),
        ("own_policy_for_test:number", "not callable"),
        ("own_policy_for_test:broken", "returned int, which lacks"),
    ],
)
def test_a_policy_that_is_none_is_refused(tmp_path, monkeypatch, name, message):
    (tmp_path / "own_policy_for_test.py").write_text(OWN_POLICY)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(BadInputError, match=message):
        make_policy(problem(name), 0)


def test_importing_the_policies_does_not_import_torch():
    code = "import sys, agent.policy; assert 'torch' not in sys.modules and 'scipy' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_built_in_policy_is_one():
    for kind in (ExpertPolicy, RandomPolicy, SobolPolicy):
        assert isinstance(kind(problem(), 0), Policy)
