"""A campaign that names an earlier one on the same column starts from what that one found."""

import pytest
from examples import description

from agent.campaign.layout import plan_layout
from agent.campaign.memory import earlier_column, earlier_observations
from agent.campaign.planning import make_problem
from agent.config import parse_config
from agent.errors import BadInputError
from agent.records import ElectronBudget

CAMPAIGN = {
    "name": "later",
    "electrons": 1.2e7,
    "area": {"height": 32, "width": 32},
    "exploration": {"height": 24, "width": 24, "trials": 4},
}


def later(folder):
    return parse_config(CAMPAIGN | {"earlier": str(folder)}, "test")


def test_the_policy_is_told_the_earlier_trials_and_the_column_is_the_last_that_was_measured(finished_campaign):
    (finished_campaign / "columns").mkdir(exist_ok=True)
    for number in (1, 5):
        (finished_campaign / "columns" / f"{number:03d}.json").write_text("{}")
    config = later(finished_campaign)
    told = earlier_observations(config)
    assert {o.trial for o in told} >= {1, 3, 4, 5}
    assert all(o.score is not None for o in told)
    assert earlier_column(config) == finished_campaign / "columns" / "005.json"
    assert earlier_column(parse_config(CAMPAIGN, "test")) is None
    layout = plan_layout(description(), config)
    budget = ElectronBudget(total=config.electrons, share=0.5)
    assert make_problem(description(), config, layout, None, budget).earlier == told


def test_a_folder_without_a_campaign_is_refused(tmp_path):
    with pytest.raises(BadInputError, match=r"empty"):
        earlier_observations(later(tmp_path / "empty"))
