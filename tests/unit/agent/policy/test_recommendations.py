"""Recommendations and views: the final acquisition for either goal, and what the model shows of its beliefs."""

import numpy as np
import pytest
from examples import description

from agent.aims import Goal
from agent.config import AreaOfInterest, CampaignConfig, Exploration
from agent.errors import BadInputError
from agent.policy import Observation, Problem, make_policy
from agent.records import Settings
from agent.search_choice import Search
from instrument.models import Detector, Parameter, Rectangle

from .landscapes import FINAL_AREA, problem, scored_policy


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


def test_a_policy_without_scores_recommends_nothing():
    for name in ("botorch", "sobol"):
        with pytest.raises(BadInputError, match="no scored trial"):
            make_policy(problem(name), 0).recommend(1e7)


def test_a_recommendation_says_what_less_dose_would_give():
    policy = scored_policy(problem(), count=6)
    found = policy.recommend(1e7)
    doses = [found.settings.dose, *(each.settings.dose for each in found.front)]
    assert len(found.front) == 4
    assert doses == sorted(doses, reverse=True)
    assert found.front[0].predicted < found.predicted
    assert all(policy.space.why_illegal(each.settings, final=True) is None for each in found.front)
