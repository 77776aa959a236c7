"""The least dose that reaches a score or a resolution, and what a goal may say."""

from __future__ import annotations

import math

import numpy as np
import pytest
from examples import description

from agent.campaign.planning import plan_campaign
from agent.config import CampaignConfig, load_config
from agent.errors import BadInputError
from agent.policy import make_policy
from agent.policy.target import target_of
from agent.records import Recommendation
from tests.unit.agent.policy.landscapes import FINAL_AREA, Landscape, problem


def explored(goal: dict[str, float], seed: int, policy: str = "botorch", resolves: float = 4.5) -> Recommendation:
    """What is recommended after ten trials of a made-up column in which score times resolution squared is `resolves`."""
    land = Landscape(seed)
    target = goal.get("score")
    asked = problem(policy, target=target, goal={"kind": "cheapest", **goal})
    wanted = make_policy(asked, seed)
    for number in range(1, 11):
        if not (suggested := wanted.suggest()):
            break
        told = land.observe(number, suggested[0].settings)
        score = max(told.score or 0.0, 0.05)
        wanted.ingest([told.model_copy(update={"resolution": math.sqrt(resolves / score)})])
    return wanted.recommend(0.5 * asked.config.electrons)


def cheapest_possible(land: Landscape, score: float) -> float:
    """The least dose in truth, e/Å², at the landscape's best step and defocus."""
    return land.knee * (2**score - 1)


@pytest.mark.parametrize("seed", [1, 2])
def test_the_least_dose_for_a_resolution_is_found_by_way_of_what_trials_resolve(seed: int) -> None:
    found = explored({"resolution": 1.8}, seed, resolves=6.0)  # not what the table of earlier campaigns says
    land, needed = Landscape(seed), 6.0 / 1.8**2
    assert "a resolution of 1.8 Å" in found.reason
    assert land.truth(found.settings) > 0.9 * needed
    assert found.settings.dose < 6 * cheapest_possible(land, needed)


def test_more_confidence_costs_more_dose() -> None:
    doubtful, sure = (explored({"score": 2.5, "confidence": c}, 3).settings.dose for c in (0.55, 0.99))
    assert doubtful < sure


def test_the_front_tells_what_more_and_less_dose_would_give() -> None:
    found = explored({"score": 2.0}, 4)
    doses = [each.settings.dose for each in found.front]
    assert doses == sorted(doses, reverse=True)
    assert doses[0] > found.settings.dose > doses[-1]
    assert [each.predicted for each in found.front] == sorted((each.predicted for each in found.front), reverse=True)


def test_a_policy_without_model_takes_the_cheapest_trial_that_resolves_it() -> None:
    found = explored({"resolution": 2.0}, 5, policy="sobol")
    assert Landscape(5).truth(found.settings) > 0.8 * 4.5 / 2.0**2
    assert "is the cheapest that reached the target of a resolution of 2 Å" in found.reason


def test_trials_near_the_resolution_say_most_of_what_score_it_takes() -> None:
    asked = problem(goal={"kind": "cheapest", "resolution": 2.0})
    blind = target_of(asked, ())
    seen = [
        Landscape(0)
        .observe(n, make_policy(problem("sobol"), 0).suggest()[0].settings)
        .model_copy(update={"score": score, "resolution": resolution})
        for n, (score, resolution) in enumerate([(2.0, 2.0), (2.1, 2.0), (1.9, 2.0), (40.0, 1.0)])
    ]
    told = target_of(asked, seen)
    assert blind is not None
    assert told is not None
    assert told.score == pytest.approx(2.2, rel=0.25)
    assert told.sd / told.score < blind.sd / blind.score


@pytest.mark.parametrize(
    ("written", "kind", "more"),
    [
        ("goal: picture", "best_picture", {}),
        ("goal: {least_dose: {score: 3}}", "cheapest", {"score": 3.0}),
        ("goal: {least_dose: {resolution: 1.2, confidence: 0.8}}", "cheapest", {"resolution": 1.2, "confidence": 0.8}),
        ("goal: {kind: cheapest, score: 3}", "cheapest", {"score": 3.0}),
    ],
)
def test_a_goal_is_written_as_people_say_it(written: str, kind: str, more: dict[str, float], tmp_path) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / "campaign.yaml"
    path.write_text(
        f"name: c\nelectrons: 1e6\narea: {{height: 9, width: 9}}\nexploration: {{height: 9, width: 9}}\n{written}\n"
    )
    goal = load_config(path).goal
    assert goal.kind == kind
    assert {name: getattr(goal, name) for name in more} == more


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("goal: beauty", "'beauty' is unknown; legal: picture, or least_dose with a score or a resolution"),
        ("goal: {least_dose: {score: yes}}", "least_dose.score: .* is not a number"),
        ("goal: {least_dose: {score: 3, resolution: 1}}", "score and resolution are both given; leave one of them out"),
        ("goal: {least_dose: 3}", r"least_dose takes a score \(bit/Å²\) or a resolution \(Å\)"),
        ("goal: {resolution: 1.2}", "a resolution is a goal of least_dose"),
    ],
)
def test_a_goal_that_cannot_be_meant_is_refused_in_a_sentence(written: str, said: str, tmp_path) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / "campaign.yaml"
    path.write_text(
        f"name: c\nelectrons: 1e6\narea: {{height: 9, width: 9}}\nexploration: {{height: 9, width: 9}}\n{written}\n"
    )
    with pytest.raises(BadInputError, match=said):
        load_config(path)


def asked_for(**changes: object) -> CampaignConfig:
    values = {
        "name": "t",
        "electrons": 2e7,
        "area": {"height": 60, "width": 60},
        "exploration": {"trials": 4, "height": 30, "width": 30},
        "search": {"step": (0.4, 3.0), "defocus": (0.0, 250.0)},
        "prior": "none",
    }
    return CampaignConfig.model_validate(values | changes)


def test_a_resolution_that_the_score_cannot_show_is_refused_before_the_first_electron() -> None:
    wanted = asked_for(goal={"least_dose": {"resolution": 0.5}})
    with pytest.raises(
        BadInputError, match=r"goal\.resolution of 0\.5 Å cannot be judged; legal: 0\.8 Å \(score\.k_max\)"
    ):
        plan_campaign(wanted, description(), [])


@pytest.mark.parametrize("goal", ["picture", {"least_dose": {"score": 2}}, {"least_dose": {"resolution": 1.5}}])
@pytest.mark.parametrize(
    "budget",
    [{"electrons": 2e7}, {"electrons": 0, "budget": {"dose": 3e3}}, {"electrons": 0, "budget": {"minutes": 0.01}}],
)
def test_every_goal_goes_with_every_budget(goal: object, budget: dict[str, object]) -> None:
    from agent.campaign.planning import first_policy, with_electrons

    offered = description()
    wanted = with_electrons(asked_for(goal=goal, policy="random", **budget), offered)
    assert wanted.electrons > 0
    layout = plan_campaign(wanted, offered, [])
    policy = first_policy(wanted, offered, layout)
    settings = policy.suggest(1)[0].settings
    assert settings.dose <= (wanted.budget.dose or math.inf)
    assert settings.dose * 900 <= wanted.electrons
    assert np.isfinite(settings.dose * FINAL_AREA)
