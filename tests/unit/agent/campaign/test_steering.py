"""Steering a campaign: what an operator may do, from where, and what the campaign then does."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from examples import description, square

from agent.campaign.steering import Steering
from agent.campaign.stop import Control
from agent.config import CampaignConfig
from agent.errors import BadInputError, StoppedError
from agent.events import Audience, Event, SteeringChanged
from agent.records import CampaignLayout, Settings, Suggestion, Trial, TrialState
from agent.status.commands import new_command
from agent.storage.facts import CampaignFacts, InstrumentLink
from agent.storage.journal import Journal, load_history

TRIAL = Trial(
    number=3,
    role="exploration",
    state=TrialState.SUGGESTED,
    suggestion=Suggestion(settings=Settings(step=1.0, defocus=100, dose=1.0), source="sobol", reason="to begin with"),
)


class Watcher:
    def __init__(self) -> None:
        self.codes: list[str] = []

    def on_event(self, event: Event) -> None:
        if isinstance(event, SteeringChanged) and event.code:
            self.codes.append(event.code)


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    config = {
        "name": "t",
        "electrons": 1000.0,
        "area": {"height": 30, "width": 30},
        "exploration": {"height": 10, "width": 10},
    }
    facts = CampaignFacts(
        config=CampaignConfig.model_validate(config),
        description=description(),
        campaign="t-1",
        layout=CampaignLayout(final=square(10), expert=None, exploration=(square(10),), margin=0),
        link=InstrumentLink(endpoint="tcp://127.0.0.1:1"),
        processing="none:needed",
    )
    with Journal.create(tmp_path / "c", facts) as journal:
        yield journal


@pytest.fixture
def watcher() -> Watcher:
    return Watcher()


def steering(journal: Journal, watcher: Watcher, autonomy: str, control: Control | None = None) -> Steering:
    steered = Steering(control or Control(), autonomy)  # type: ignore[arg-type]
    steered.attach(journal, Audience([watcher]))
    return steered


async def asked(steered: Steering, watcher: Watcher) -> asyncio.Task[str | None]:
    """Ask for permission; return when somebody has to give it."""
    task = asyncio.ensure_future(steered.permission(TRIAL))
    while "NEEDS_APPROVAL" not in watcher.codes:
        await asyncio.sleep(0)
    assert not task.done()
    return task


async def test_a_trial_waits_for_approval(journal: Journal, watcher: Watcher) -> None:
    steered = steering(journal, watcher, "confirm")
    task = await asked(steered, watcher)
    with pytest.raises(BadInputError, match="trial 4 does not wait"):
        await steered.act("approve", new_command("ann", trial=4), False)
    await steered.act("approve", new_command("ann", trial=3), False)
    assert await task is None
    assert any("approved by ann" in str(entry.value) for entry in load_history(journal.folder))


async def test_a_veto_says_who_and_why(journal: Journal, watcher: Watcher) -> None:
    steered = steering(journal, watcher, "confirm")
    task = await asked(steered, watcher)
    await steered.act("veto", new_command("ann", trial=3, reason="drifting"), False)
    assert await task == "vetoed by ann: drifting"


async def test_a_pause_holds_back_the_next_trial_until_it_ends(journal: Journal, watcher: Watcher) -> None:
    steered = steering(journal, watcher, "auto")
    await steered.act("pause", new_command("ann"), False)
    task = asyncio.ensure_future(steered.permission(TRIAL))
    for _ in range(5):
        await asyncio.sleep(0)
    assert not task.done()
    await steered.act("resume", new_command("ann"), False)
    assert await task is None
    assert watcher.codes == ["PAUSED", "RESUMED"]


async def test_autonomy_is_raised_by_this_machines_user_only(journal: Journal, watcher: Watcher) -> None:
    steered = steering(journal, watcher, "auto")
    await steered.act("autonomy", new_command("afar", level="confirm"), False)
    with pytest.raises(BadInputError, match="only be lowered"):
        await steered.act("autonomy", new_command("afar", level="auto"), False)
    task = await asked(steered, watcher)
    await steered.act("autonomy", new_command("here", level="auto"), True)
    assert await task is None


async def test_who_waits_is_told_of_a_stop(journal: Journal, watcher: Watcher) -> None:
    steered = steering(journal, watcher, "advise")
    task = asyncio.ensure_future(steered.permission(TRIAL))
    await asyncio.sleep(0)
    await steered.act("stop", new_command("ann", reason="tea"), False)
    with pytest.raises(StoppedError, match="stopped by ann: tea"):
        await task


async def test_blank_reaches_the_instrument_or_says_that_it_cannot(journal: Journal, watcher: Watcher) -> None:
    steered, blanked = steering(journal, watcher, "auto"), []
    with pytest.raises(BadInputError, match="blank at the microscope"):
        await steered.act("blank", new_command("ann"), False)

    async def blank() -> None:
        blanked.append(True)

    with steered.able_to_blank(blank):
        await steered.act("blank", new_command("ann"), False)
    assert blanked == [True]
    assert watcher.codes == ["BLANKED"]
