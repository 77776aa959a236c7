"""A finished campaign asked again: the same choices where nothing is changed, others by another policy."""

from pathlib import Path

import pytest

from agent.campaign.counterfactual import decisions
from agent.errors import BadInputError

GOLDEN = Path(__file__).parents[3] / "integration" / "golden_campaigns" / "finished"


def test_a_campaign_makes_the_same_choices_again_and_another_policy_others(tmp_path):
    folder = tmp_path / "finished"
    folder.mkdir()
    (folder / "journal.sqlite").write_bytes((GOLDEN / "journal.sqlite").read_bytes())
    again = list(decisions(folder))
    assert [d.role for d in again] == ["exploration"] * 4 + ["final"]
    assert all(d.same for d in again[:3])  # what a fit chose may differ by more on another processor
    other = list(decisions(folder, policy="random", seed=7))
    assert not any(d.same for d in other)
    assert {d.policy for d in other} == {"random"}
    cheaper = list(decisions(folder, electrons=2e5))
    assert cheaper[-1].instead.dose < again[-1].instead.dose


def test_a_folder_without_a_campaign_is_refused(tmp_path):
    with pytest.raises(BadInputError):
        list(decisions(tmp_path / "empty"))
