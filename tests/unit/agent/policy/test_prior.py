"""A prior from simulated columns: good from the first trial on, overruled by data, dropped where it does not fit."""

import json
from dataclasses import replace

import numpy as np
import pytest
from examples import description

from agent.config import Goal
from agent.errors import BadInputError
from agent.policy import Observation, make_policy
from agent.policy.ensemble import DOSES, PARTS, STEPS, Member
from agent.records import Settings
from agent.search_choice import Search
from instrument import optics
from instrument.models import Parameter

from .landscapes import FINAL_AREA, TRIAL_AREA, problem

PLACES = [(1.0, 400), (0.6, 150), (2.0, 600), (1.3, 250), (0.8, 550), (1.6, 450)]
"""Step and defocus, Å, of trials."""


class Hill:
    """Scores with one optimum over ln step and part of the window, the latter's place drawn by seed."""

    def __init__(self, seed, wrong=False):
        rng = np.random.default_rng(seed)
        self.part = rng.normal(0.05 if wrong else 0.35, 0.1)
        self.step = np.log(3.0 if wrong else 1.0) + rng.normal(0, 0.2)
        self.gain, self.knee = rng.uniform(0.8, 1.4), rng.uniform(400, 600)
        self.whole = None

    def value(self, step, part, dose):
        hill = 1 / (1 + ((part - self.part) / 0.4) ** 2 + ((np.log(step) - self.step) / 0.9) ** 2)
        return float(self.gain * hill * np.log2(1 + dose / self.knee))

    def truth(self, settings, task):
        beam = task.description
        whole = optics.largest_defocus(beam.semiangle, beam.detector.angular_pixel, beam.voltage)
        return self.value(settings.step, settings.defocus / whole, settings.dose)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Ensemble files by whether they are wrong."""
    found = {}
    for wrong in (False, True):
        found[wrong] = tmp_path_factory.mktemp("prior") / "columns.jsonl"
        members = []
        for seed in range(12):
            hill = Hill(seed, wrong)
            values = [[[hill.value(s, p, d) for d in DOSES] for p in PARTS] for s in STEPS]
            members.append(json.dumps({"name": f"hill-{seed}", "seed": seed, "values": values}))
        found[wrong].write_text("\n".join(members) + "\n")
    return found


def campaign(file, trials, hill, noise=0.03, **options):
    """(share of the best truth that the recommendation reaches, suggestions)."""
    task = problem(prior=str(file), trials=max(trials, 1), **options)
    policy = make_policy(task, 0)
    rng = np.random.default_rng(3)
    suggestions = []
    for number in range(1, trials + 1):
        suggestions += policy.suggest()
        settings = suggestions[-1].settings
        score = hill.truth(settings, task) + noise * rng.normal()
        policy.ingest(
            [
                Observation(
                    trial=number,
                    settings=settings,
                    state="done",
                    score=score,
                    variance=noise**2,
                    electrons=settings.dose * TRIAL_AREA,
                )
            ]
        )
    found = policy.recommend(1e7).settings
    steps, defoci = np.geomspace(0.4, 3, 40), np.linspace(0, 700, 71)
    points = (Settings(step=s, defocus=d, dose=found.dose) for s in steps for d in defoci)
    best = max(hill.truth(p, task) for p in points if policy.space.why_illegal(p, final=True) is None)
    return hill.truth(found, task) / best, suggestions


def test_with_a_prior_the_first_settings_are_good_before_any_trial(files):
    assert campaign(files[False], 0, Hill(53))[0] > 0.85


def test_suggestions_from_a_prior_say_how_much_is_prior_and_how_much_is_data(files):
    share, suggestions = campaign(files[False], 2, Hill(53))
    assert share > 0.85
    assert [s.source for s in suggestions] == ["botorch", "botorch"]
    assert "prior of 12 simulated columns" in suggestions[0].model
    assert suggestions[0].data_share == pytest.approx(0, abs=1e-9)
    assert suggestions[1].data_share > 0.2
    assert suggestions[1].nearest_trial == 1
    assert 0 <= suggestions[1].explore_share <= 1
    assert suggestions[1].alternatives
    assert "from data" in suggestions[1].shares_text()


def test_a_prior_that_does_not_fit_is_dropped_and_said_to_be(files):
    task = problem(prior=str(files[True]))
    policy, hill = make_policy(task, 0), Hill(52)
    for number, (step, defocus) in enumerate(PLACES, 1):
        settings = Settings(step=step, defocus=defocus, dose=1000.0)
        score = hill.truth(settings, task)
        policy.ingest([Observation(trial=number, settings=settings, state="done", score=score, variance=0.02**2)])
    assert "does not fit" in policy.suggest()[0].model


def twins(hill, count=6):
    """Columns like that of a hill."""
    values = [[[hill.value(s, p, d) for d in DOSES] for p in PARTS] for s in STEPS]
    return tuple(Member(name="twin", seed=n, values=values) for n in range(count))


def test_columns_like_this_one_refine_the_prior_and_say_so(files):
    hill = Hill(53)
    hill.part, hill.step = -0.5, np.log(2.4)
    search = Search(step=(0.4, 3.0), defocus=(-700.0, 700.0))
    plain = problem(prior=str(files[False]), search=search)
    found = {}
    for name, task in (("plain", plain), ("refined", replace(plain, twins=twins(hill, 30)))):
        policy = make_policy(task, 0)
        found[name] = policy.recommend(1e7).settings
        (suggestion,) = policy.suggest()
    assert found["plain"].defocus > 0 > found["refined"].defocus
    assert suggestion.model == "the prior of 12 simulated columns and 30 simulated as this one was measured"


def test_columns_that_foretell_the_trials_worse_are_left_out_and_said_to_be(files):
    wrong = Hill(53)
    wrong.part, wrong.step = 0.0, 0.0
    plain = problem(prior=str(files[False]))
    hill, suggested = Hill(5), {}
    for name, task in (("plain", plain), ("wrong", replace(plain, twins=twins(wrong, 40)))):
        policy = make_policy(task, 0)
        for number, (step, defocus) in enumerate(PLACES, 1):
            made = Settings(step=step, defocus=defocus, dose=1000.0)
            score = hill.truth(made, task)
            policy.ingest([Observation(trial=number, settings=made, state="done", score=score, variance=0.02**2)])
        (suggested[name],) = policy.suggest()
    assert suggested["wrong"].settings == suggested["plain"].settings
    assert (
        "40 simulated as this one was measured foretell the trials worse and were left out" in suggested["wrong"].model
    )


def test_exploration_ends_once_trials_cost_more_than_they_promise(files):
    endings = {}
    for stop in ("trials", "cost"):
        search = Search(step=(0.4, 3.0), defocus=(0.0, 700.0), dose=(4000.0, 6000.0))
        task = problem(prior=str(files[False]), electrons=1e8, search=search)
        exploration = task.config.exploration.model_copy(update={"stop": stop})
        task = replace(task, config=task.config.model_copy(update={"exploration": exploration}))
        policy, hill = make_policy(task, 0), Hill(53)
        settings = [(1.0, 400), (0.8, 350), (1.2, 450), (1.0, 300), (1.1, 380), (0.9, 420), (0.5, 150)]
        for number, (step, defocus) in enumerate(settings, 1):
            made = Settings(step=step, defocus=defocus, dose=4000.0)
            told = {"score": hill.truth(made, task), "variance": 0.01**2, "electrons": 4000.0 * TRIAL_AREA}
            policy.ingest([Observation(trial=number, settings=made, state="done", **told)])
        endings[stop] = (len(policy.suggest()), policy.stop_reason)
    assert endings["trials"] == (1, None)
    assert endings["cost"][0] == 0
    assert "no trial is worth its electrons" in endings["cost"][1]


def test_an_earlier_campaign_on_the_column_is_where_a_later_one_starts(files):
    hill, found = Hill(60), {}
    task = problem(prior=str(files[False]))
    places = [(1.0, 300), (0.8, 450), (1.5, 200), (0.6, 350), (1.2, 600), (2.0, 400)]
    made = [Settings(step=step, defocus=defocus, dose=1500.0) for step, defocus in places]
    earlier = tuple(
        Observation(trial=n, settings=s, state="done", score=hill.truth(s, task), variance=0.03**2)
        for n, s in enumerate(made, 1)
    )
    for name, known in (("none", ()), ("earlier", earlier)):
        policy = make_policy(replace(task, earlier=known), 0)
        suggestion = policy.suggest()[0]
        found[name] = abs(suggestion.predicted - hill.truth(suggestion.settings, task)) / suggestion.predicted
    assert suggestion.model == "6 trials of an earlier campaign on this column"
    assert suggestion.predicted_sd > 0
    assert found["earlier"] < max(found["none"], 0.1)


def test_the_cheapest_sufficient_dose_is_found_from_a_prior(files):
    task = replace(problem(prior=str(files[False]), goal=Goal(kind="cheapest", score=1.5)), target=1.5)
    policy, hill = make_policy(task, 0), Hill(53)
    assert policy.suggest()[0].source == "botorch"
    for number, (step, defocus) in enumerate([(1.0, 400), (0.8, 300)], 1):
        settings = Settings(step=step, defocus=defocus, dose=1500.0)
        told = {"score": hill.truth(settings, task), "variance": 0.03**2}
        policy.ingest([Observation(trial=number, settings=settings, state="done", **told)])
    found = policy.recommend(1e7)
    assert hill.truth(found.settings, task) > 1.4
    assert found.settings.dose < 1e7 / FINAL_AREA


def test_where_steps_are_far_coarser_than_an_ensembles_there_is_no_prior(files):
    from agent.policy.prior import load_prior

    coarse = description(step=Parameter(kind="continuous", unit="Å", minimum=50.0, maximum=5000.0))
    task = problem(prior=str(files[False]))
    assert load_prior(task) is not None
    assert load_prior(replace(task, description=coarse)) is None


def test_identical_points_with_certain_scores_do_not_end_a_campaign(files):
    policy = make_policy(problem(prior=str(files[False])), 0)
    settings = policy.suggest()[0].settings
    policy.ingest(Observation(trial=n, settings=settings, state="done", score=1.0, variance=0.0) for n in range(1, 6))
    suggestion = policy.suggest()[0]
    assert np.isfinite(suggestion.predicted)
    assert np.isfinite(policy.recommend(1e7).predicted)


def test_a_file_that_holds_no_ensemble_is_refused_with_its_line(tmp_path):
    file = tmp_path / "other.jsonl"
    file.write_text('{"name": "x"}\n')
    with pytest.raises(BadInputError, match="line 1 is no simulated column; `ptychopilot twin build`"):
        make_policy(problem(prior=str(file)), 0)
