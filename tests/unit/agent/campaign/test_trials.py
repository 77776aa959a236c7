"""The trials of a campaign: their life, and the electrons they cost."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from examples import description, square

from agent.campaign.trials import IllegalTransitionError, TrialBook
from agent.config import CampaignConfig
from agent.events import Audience
from agent.records import CampaignLayout, ElectronBudget, Settings, Suggestion, Trial, TrialState
from agent.storage.facts import CampaignFacts, InstrumentLink
from agent.storage.journal import Journal

CONFIG = CampaignConfig.model_validate(
    {
        "name": "t",
        "electrons": 1000.0,
        "area": {"height": 30, "width": 30},
        "exploration": {"height": 10, "width": 10, "share": 0.4},
    }
)
SUGGESTION = Suggestion(settings=Settings(step=1.0, defocus=100, dose=1.0), source="sobol", reason="")


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    field = square(10)
    facts = CampaignFacts(
        config=CONFIG,
        description=description(),
        campaign="t-1",
        layout=CampaignLayout(final=field, expert=None, exploration=(field,), margin=0),
        link=InstrumentLink(endpoint="tcp://127.0.0.1:1"),
        processing="none:needed",
    )
    with Journal.create(tmp_path / "c", facts) as journal:
        yield journal


def test_a_trial_lives_from_suggestion_to_score(journal: Journal) -> None:
    book = TrialBook(journal, Audience())
    trial = book.add("exploration", SUGGESTION, 0.1)
    for state in ("reserved", "acquiring", "acquired", "reconstructing", "done"):
        trial = book.update(trial, state=TrialState(state))
    assert [t.state for t in journal.trials()] == ["done"]


@pytest.mark.parametrize(
    ("states", "illegal"),
    [
        ("", "acquiring"),
        ("", "reconstructing"),
        ("", "done"),
        ("reserved", "done"),
        ("reserved acquiring acquired", "acquiring"),
        ("reserved acquiring acquired", "suggested"),
        ("reserved acquiring acquired reconstructing done", "reconstructing"),
        ("reserved acquiring failed", "acquiring"),
        ("vetoed", "reserved"),
    ],
)
def test_an_illegal_transition_is_an_internal_error_and_changes_nothing(
    journal: Journal, states: str, illegal: str
) -> None:
    book = TrialBook(journal, Audience())
    trial = book.add("exploration", SUGGESTION, 0.1)
    for state in states.split():
        trial = book.update(trial, state=TrialState(state))
    with pytest.raises(IllegalTransitionError, match=f"trial 1 is {trial.state} and cannot become {illegal}"):
        book.update(trial, state=TrialState(illegal), electrons=5.0)
    assert journal.trials() == [trial] == list(book)


@pytest.mark.parametrize("interrupted", ["", "reserved", "reserved acquiring"])
@pytest.mark.parametrize("settled", ["suggested", "acquired", "failed"])
def test_what_an_interruption_left_open_is_settled_as_the_instrument_says(
    journal: Journal, interrupted: str, settled: str
) -> None:
    book = TrialBook(journal, Audience())
    trial = book.add("exploration", SUGGESTION, 0.1)
    for state in interrupted.split():
        trial = book.update(trial, state=TrialState(state))
    assert book.update(trial, state=TrialState(settled)).state == settled


def test_what_cannot_be_acquired_again_may_be_reconstructed_again(journal: Journal) -> None:
    book = TrialBook(journal, Audience())
    trial = book.add("final", SUGGESTION, 0.1)
    for state in ("reserved", "acquiring", "acquired", "reconstructing", "failed", "reconstructing", "done"):
        trial = book.update(trial, state=TrialState(state))


def trial(number: int, role: str, electrons: float) -> Trial:
    return Trial.model_validate(
        {"number": number, "role": role, "state": "done", "suggestion": SUGGESTION, "electrons": electrons}
    )


def test_the_reference_comes_off_first_and_the_expert_pays_for_itself() -> None:
    trials = [trial(1, "reference", 200), trial(2, "exploration", 100), trial(3, "exploration", 150)]
    budget = ElectronBudget.of_campaign(CONFIG, trials)
    assert budget.exploration_share == pytest.approx(0.4 * 800)
    assert budget.exploration_left == pytest.approx(0.4 * 800 - 250)
    assert budget.final_share == pytest.approx(0.6 * 800)
    assert (budget.spent, budget.left) == (450, 550)
    later = ElectronBudget.of_campaign(CONFIG, [*trials, trial(4, "final", 551), trial(5, "expert", 551)])
    assert (later.spent, later.left) == (1001, 0), "what was overspent is nobody's to spend"


def test_trials_whose_frames_were_lost_are_made_up_for_but_not_for_ever(journal: Journal) -> None:
    book = TrialBook(journal, Audience())
    planned = CONFIG.exploration.trials
    for number in range(2 * planned):
        assert book.explored() == max(0, number - planned)
        lost = book.add("exploration", SUGGESTION, 0.0)
        for state in ("reserved", "acquiring"):
            lost = book.update(lost, state=TrialState(state))
        book.update(lost, state=TrialState.FAILED, electrons=1.0, reason="interrupted, the frames are lost")
    assert book.explored() == planned
