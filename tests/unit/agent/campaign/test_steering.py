"""Steering a campaign: what an operator may do, from where, and what the campaign then does."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from examples import description, square

from agent.campaign.requests import Refusal
from agent.campaign.steering import Steering
from agent.campaign.stop import Control
from agent.campaign.trials import TrialBook
from agent.config import CampaignConfig
from agent.errors import BadInputError, StoppedError
from agent.events import Audience, Event, SteeringChanged
from agent.records import CampaignLayout, Settings, Suggestion, Trial, TrialState
from agent.status.commands import new_command
from agent.steering_choice import SteeringChoice
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


async def asked(steered: Steering, watcher: Watcher) -> asyncio.Task[Refusal | None]:
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
        await steered.act("approve", new_command("ann", trial=4), "mqtt")
    await steered.act("approve", new_command("ann", trial=3), "mqtt")
    assert await task is None
    assert any("approved by ann" in str(entry.value) for entry in load_history(journal.folder))


async def test_a_veto_says_who_and_why(journal: Journal, watcher: Watcher) -> None:
    steered = steering(journal, watcher, "confirm")
    task = await asked(steered, watcher)
    await steered.act("veto", new_command("ann", trial=3, reason="drifting"), "mqtt")
    assert await task == Refusal(TrialState.VETOED, "vetoed by ann: drifting")


async def test_a_pause_holds_back_the_next_trial_until_it_ends(journal: Journal, watcher: Watcher) -> None:
    steered = steering(journal, watcher, "auto")
    await steered.act("pause", new_command("ann"), "mqtt")
    task = asyncio.ensure_future(steered.permission(TRIAL))
    for _ in range(5):
        await asyncio.sleep(0)
    assert not task.done()
    await steered.act("resume", new_command("ann"), "mqtt")
    assert await task is None
    assert watcher.codes == ["PAUSED", "RESUMED"]


async def test_autonomy_is_raised_by_this_machines_user_only(journal: Journal, watcher: Watcher) -> None:
    steered = steering(journal, watcher, "auto")
    await steered.act("autonomy", new_command("afar", level="confirm"), "mqtt")
    with pytest.raises(BadInputError, match="only be lowered"):
        await steered.act("autonomy", new_command("afar", level="auto"), "mqtt")
    task = await asked(steered, watcher)
    await steered.act("autonomy", new_command("here", level="auto"), "local")
    assert await task is None


async def test_who_waits_is_told_of_a_stop(journal: Journal, watcher: Watcher) -> None:
    steered = steering(journal, watcher, "advise")
    task = asyncio.ensure_future(steered.permission(TRIAL))
    await asyncio.sleep(0)
    await steered.act("stop", new_command("ann", reason="tea"), "mqtt")
    with pytest.raises(StoppedError, match="stopped by ann: tea"):
        await task


async def test_blank_reaches_the_instrument_or_says_that_it_cannot(journal: Journal, watcher: Watcher) -> None:
    steered, blanked = steering(journal, watcher, "auto"), []
    with pytest.raises(BadInputError, match="blank at the microscope"):
        await steered.act("blank", new_command("ann"), "mqtt")

    async def blank() -> None:
        blanked.append(True)

    with steered.able_to_blank(blank):
        await steered.act("blank", new_command("ann"), "mqtt")
    assert blanked == [True]
    assert watcher.codes == ["BLANKED"]


def judged_by(steered: Steering, cost: float = 100.0) -> AbstractContextManager[None]:
    """Whoever looks at a person's settings: a dose above 50 is not legal; electrons are in proportion to the dose."""

    async def judge(settings: Settings, role: str, replaced: Trial | None) -> float:
        if settings.dose > 50:
            raise BadInputError("not legal: dose: 60 e/Å², must be 1 … 50 e/Å²")
        return cost * settings.dose

    return steered.able_to_judge(judge)


async def test_an_edit_abandons_the_suggestion_and_comes_next(journal: Journal, watcher: Watcher) -> None:
    steered, book = steering(journal, watcher, "confirm"), TrialBook(journal, Audience())
    with judged_by(steered):
        task = await asked(steered, watcher)
        with pytest.raises(BadInputError, match="must be 1 … 50"):
            await steered.act("edit", new_command("ann", trial=3, dose=60), "local")
        with pytest.raises(BadInputError, match="nothing is changed"):
            await steered.act("edit", new_command("ann", trial=3, dose=1.0), "local")
        await steered.act("edit", new_command("ann", trial=3, step_a=2.0, reason="finer is drift"), "local")
    refusal = await task
    assert refusal is not None
    assert (refusal.state, "edited by ann: 2 Å, +100 Å, 1 e/Å²: finer is drift" in refusal.reason) == (
        "abandoned",
        True,
    )
    instead = steered.begin_request("exploration", book)
    assert instead is not None
    assert instead.settings == Settings(step=2.0, defocus=100, dose=1.0)
    assert (instead.suggestion.source, instead.suggestion.origin) == ("operator", "edited")
    assert await steered.permission(instead) is None, "who has edited it has approved of it"


async def test_from_afar_an_edit_lowers_the_dose_and_asks_for_no_trial(journal: Journal, watcher: Watcher) -> None:
    steered = steering(journal, watcher, "confirm")
    with judged_by(steered):
        task = await asked(steered, watcher)
        with pytest.raises(BadInputError, match="only lower dose"):
            await steered.act("edit", new_command("afar", trial=3, dose=2.0), "mqtt")
        with pytest.raises(BadInputError, match="not from elsewhere"):
            await steered.act("trial", new_command("afar", step_a=1, defocus_a=0, dose=1), "mqtt")
        await steered.act("edit", new_command("afar", trial=3, dose=0.5), "mqtt")
    assert (await task) is not None


async def test_what_a_person_asks_for_outlives_a_kill_but_its_approval_does_not(
    journal: Journal, watcher: Watcher
) -> None:
    steered, book = steering(journal, watcher, "observe"), TrialBook(journal, Audience())
    with judged_by(steered):
        await steered.act("trial", new_command("ann", step_a=1, defocus_a=0, dose=2), "local")
    await steered.may_suggest()  # does not wait: there is something to do, whatever the autonomy

    later = steering(journal, watcher, "auto")
    mine = later.begin_request("exploration", book)
    assert mine is not None
    assert mine.suggestion.origin == "manual"
    task = asyncio.ensure_future(later.permission(mine))
    while "NEEDS_APPROVAL" not in watcher.codes:
        await asyncio.sleep(0)
    await later.act("approve", new_command("ann", trial=mine.number), "local")
    assert await task is None
    assert steering(journal, watcher, "auto").begin_request("exploration", book) is None, "it is asked for once"


async def test_an_approval_that_was_not_used_in_time_is_asked_for_again(journal: Journal, watcher: Watcher) -> None:
    now = 0.0
    steered = Steering(Control(), "confirm", clock=lambda: now)
    steered.attach(journal, Audience([watcher]))
    task = await asked(steered, watcher)
    await steered.act("approve", new_command("ann", trial=3), "mqtt")
    assert await task is None
    now = journal.facts.config.steering.approval_expires - 1
    assert await steered.permission(TRIAL) is None, "after a wait for the vacuum, say"
    now += 2
    watcher.codes.clear()
    task = await asked(steered, watcher)
    await steered.act("veto", new_command("ann", trial=3), "mqtt")
    assert (await task) is not None


@pytest.mark.parametrize(("defocus", "waits"), [(100.0, False), (120.0, True)])
async def test_a_setting_that_is_to_be_confirmed_is_asked_for_when_it_changes(
    journal: Journal, watcher: Watcher, defocus: float, waits: bool
) -> None:
    steered = steering(journal, watcher, "auto")
    await steered.act("autonomy", new_command("ann", parameter="defocus", level="confirm"), "mqtt")
    with pytest.raises(BadInputError, match="only be lowered"):
        await steered.act("autonomy", new_command("ann", parameter="defocus", level="auto"), "mqtt")
    last = Settings(step=3.0, defocus=defocus, dose=7.0)
    task = asyncio.ensure_future(steered.permission(TRIAL, last))
    for _ in range(5):
        await asyncio.sleep(0)
    assert task.done() is not waits
    await steered.act("autonomy", new_command("ann", parameter="defocus", level="auto"), "local")
    assert await task is None


async def test_a_proposal_waits_for_the_person_at_the_agent(journal: Journal, watcher: Watcher) -> None:
    steered, book = steering(journal, watcher, "auto"), TrialBook(journal, Audience())
    wish = {"step_a": 1, "defocus_a": 50, "dose": 5, "reason": "closer to focus"}
    with judged_by(steered):
        await steered.act("propose", new_command("a model", **wish), "advisor")
        with pytest.raises(BadInputError, match="one at a time"):
            await steered.act("propose", new_command("a model", **wish), "advisor")
        assert steered.begin_request("exploration", book) is None
        with pytest.raises(BadInputError, match="not from elsewhere"):
            await steered.act("approve", new_command("afar", proposal=1), "mqtt")
        await steered.act("approve", new_command("ann", proposal=1), "local")
    trial = steered.begin_request("exploration", book)
    assert trial is not None
    assert (trial.suggestion.origin, trial.settings.defocus) == ("proposed", 50)
    assert trial.suggestion.reason == "proposed by a model: closer to focus; approved by ann"


async def test_a_part_that_does_not_acknowledge_a_pause_turns_the_beam_off(journal: Journal, watcher: Watcher) -> None:
    blanked, missing = asyncio.Event(), []
    choice = SteeringChoice().model_copy(update={"pause_within": 0.05})
    journal.write(config=journal.facts.config.model_copy(update={"steering": choice}))
    steered = steering(journal, watcher, "auto")

    class Page:
        def on_event(self, event: Event) -> None:
            if isinstance(event, SteeringChanged):
                missing.append(event.unacknowledged)

    async def blank() -> None:
        blanked.set()

    async def at_once() -> None: ...

    async def never() -> None:
        await asyncio.Event().wait()

    steered.attach(journal, Audience([watcher, Page()]))
    with steered.able_to_blank(blank), steered.parts.taking_part(loop=at_once, acquisition=never, worker=at_once):
        await steered.act("pause", new_command("ann"), "local")
        async with asyncio.timeout(5):
            await blanked.wait()
    assert ("loop", "acquisition", "worker") in missing
    assert missing[-1] == ("acquisition",)
    assert watcher.codes == ["PAUSED", "BLANKED"]
    assert any("not acknowledged within 0.05 s by acquisition" in str(e.value) for e in load_history(journal.folder))
    await steered.act("resume", new_command("ann"), "local")
    assert missing[-1] == ()
