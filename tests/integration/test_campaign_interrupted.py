"""Campaigns that are stopped, killed or lose their instrument go on where they were; nothing is exposed twice."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import pytest
from served_small_world import (
    PROCESSING,
    Server,
    agent_process,
    assert_no_region_exposed_twice,
    config,
    ledger,
    outline,
    serving,
)

from agent import load_campaign, resume_campaign, run_campaign
from agent.campaign.stop import Control
from agent.cli.errors import EXIT_CODES
from agent.errors import InstrumentUnavailableError, StoppedError
from agent.events import Event, FramesReceived, InstrumentChanged, PhaseChanged, TrialChanged
from agent.storage.journal import load_history
from instrument import InstrumentClient

pytestmark = pytest.mark.usefixtures("world")


class Stopper:
    """Stops the campaign at the first event that `when` approves of."""

    def __init__(self, control: Control, when: Callable[[Event], bool], *, now: bool = True) -> None:
        self._control, self._when, self._now = control, when, now

    def on_event(self, event: Event) -> None:
        if self._when(event):
            self._control.stop("enough", now=self._now)


class States:
    """Remembers what was told of the instrument."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, str]] = []

    def on_event(self, event: Event) -> None:
        if isinstance(event, InstrumentChanged):
            self.seen.append((event.state, event.reason))


async def test_an_instrument_that_is_blanked_while_it_exposes_raises_an_alarm(tmp_path: Path) -> None:
    states, blanked = States(), []

    with serving(tmp_path, interval=0.005) as server:
        async with InstrumentClient(server.endpoint, timeout=5) as operator:

            class Blanker:
                def on_event(self, event: Event) -> None:
                    if isinstance(event, FramesReceived) and event.trial == 2 and not blanked:
                        blanked.append(asyncio.ensure_future(operator.blank()))

            with pytest.raises(StoppedError, match="SAFE"):
                await run_campaign(
                    config(), server.endpoint, tmp_path / "c", observers=[states, Blanker()], processing=PROCESSING
                )
            await blanked[0]
    assert states.seen == [("safe", "blanked by hand")]


async def test_stop_at_once_aborts_the_exposure_and_resume_finishes(tmp_path: Path, world: Path) -> None:
    folder, control = tmp_path / "campaign", Control()
    stopper = Stopper(control, lambda e: isinstance(e, FramesReceived) and e.trial == 2)
    with serving(tmp_path, interval=0.005) as server:
        with pytest.raises(StoppedError, match="enough"):
            await run_campaign(
                config(expert=None),
                server.endpoint,
                folder,
                observers=[stopper],
                processing=PROCESSING,
                control=control,
            )
        stopped = load_campaign(folder)
        assert stopped.state == "stopped"
        second = stopped.trials[1]
        assert second.state == "failed"
        assert second.plan is not None
        assert 0 < second.electrons < second.plan.electrons, "the partial dose is booked"
        assert not list(folder.rglob("*.part"))
        record = await resume_campaign(folder)
        assert_no_region_exposed_twice(await ledger(server.endpoint), world)
    assert record.state == "done"
    assert record.trials[:2] == (record.trials[0], second)
    assert record.trials[0].state == "done"


async def test_a_time_limit_lets_the_running_acquisition_finish(tmp_path: Path) -> None:
    folder = tmp_path / "campaign"
    with serving(tmp_path, interval=0.004) as server, pytest.raises(StoppedError, match="time limit"):
        await run_campaign(config(time_limit=0.3), server.endpoint, folder, processing=PROCESSING)
    trials = load_campaign(folder).trials
    assert trials
    assert all(t.acquisition_file is not None for t in trials if t.electrons)


async def test_an_instrument_in_safe_stops_the_campaign_and_resume_releases_it(server: Server, tmp_path: Path) -> None:
    folder, states = tmp_path / "campaign", States()
    async with InstrumentClient(server.endpoint, timeout=5) as operator:
        await operator.blank()
        with pytest.raises(StoppedError, match="SAFE"):
            await run_campaign(config(), server.endpoint, folder, observers=[states], processing=PROCESSING)
        assert states.seen[-1] == ("safe", "blanked by hand")
        with pytest.raises(StoppedError, match="SAFE"):
            await resume_campaign(folder, keep_safe=True)
        assert (await operator.status()).phase == "safe", "without a person nobody takes it out of there"
        record = await resume_campaign(folder)
        events = await operator.events()
    assert record.state == "done"
    assert events[-1].kind == "resume"
    assert events[-1].operator == "A. Tester"


async def test_a_killed_instrument_is_waited_for_then_resumed(tmp_path: Path, world: Path) -> None:
    folder = tmp_path / "campaign"
    with serving(tmp_path, interval=0.002) as server:

        class Killer:
            def on_event(self, event: Event) -> None:
                if isinstance(event, FramesReceived) and event.trial == 2 and server.process.poll() is None:
                    server.kill()

        with pytest.raises(InstrumentUnavailableError, match="no instrument answers"):
            await run_campaign(
                config(), server.endpoint, folder, observers=[Killer()], processing=PROCESSING, patience=3
            )
        assert load_campaign(folder).state == "stopped"
        server.start()
        record = await resume_campaign(folder)
        exposures = await ledger(server.endpoint)
    assert record.state == "done"
    second = record.trials[1]
    assert second.state == "failed"
    assert second.electrons == next(e.electrons for e in exposures if second.plan and e.id == second.plan.id) > 0
    assert_no_region_exposed_twice(exposures, world)


async def test_an_instrument_that_comes_back_in_time_is_not_noticed(tmp_path: Path, world: Path) -> None:
    folder = tmp_path / "campaign"
    with serving(tmp_path) as server:

        class Restarter:
            def on_event(self, event: Event) -> None:
                if isinstance(event, TrialChanged) and event.trial.number == 2 and event.trial.plan is None:
                    server.kill()
                    server.start()

        record = await run_campaign(
            config(), server.endpoint, folder, observers=[Restarter()], processing=PROCESSING, patience=6
        )
        assert_no_region_exposed_twice(await ledger(server.endpoint), world)
    assert [t.state for t in record.trials] == ["done"] * 5


KILLS = (
    "suggested:1",
    "reserved:1",
    "acquiring:2",
    "acquired:2",
    "reconstructing:3",
    "done:3",
    "acquired:4",
    "suggested:5",
)


@pytest.mark.slow
async def test_killed_at_every_step_the_campaign_is_the_same_as_undisturbed(
    server: Server, tmp_path: Path, world: Path
) -> None:
    folder, file = tmp_path / "campaign", tmp_path / "config.json"
    file.write_text(config().model_dump_json())
    entries = 0
    for moment in (*KILLS, ""):
        verb = "resume" if folder.exists() else "run"
        code = await agent_process(verb, folder, server.endpoint, file, moment)
        assert code == (-9 if moment else 0), moment
        history = load_history(folder)
        assert len(history) > entries, "what was journalled is still there"
        entries = len(history)
    exposures = await ledger(server.endpoint)
    assert_no_region_exposed_twice(exposures, world)
    assert all(e.state == "done" for e in exposures)
    with serving(tmp_path / "second") as other:
        undisturbed = await run_campaign(config(), other.endpoint, tmp_path / "undisturbed", processing=PROCESSING)
    assert outline(load_campaign(folder)) == outline(undisturbed)


async def test_killed_while_frames_arrive_the_trial_is_lost_and_its_region_left_alone(
    tmp_path: Path, world: Path
) -> None:
    folder, file = tmp_path / "campaign", tmp_path / "config.json"
    file.write_text(config(expert=None).model_dump_json())
    with serving(tmp_path, interval=0.004) as server:
        assert await agent_process("run", folder, server.endpoint, file, "frames:2") == -9
        assert load_campaign(folder).trials[1].state == "acquiring"
        record = await resume_campaign(folder, endpoint=server.endpoint)
        exposures = await ledger(server.endpoint)
    lost = record.trials[1]
    assert record.state == "done"
    assert lost.state == "failed"
    assert "frames are lost" in lost.reason
    assert lost.electrons == exposures[1].electrons > 0
    assert_no_region_exposed_twice(exposures, world)
    assert not list(folder.rglob("*.part"))


async def test_ctrl_c_ends_in_order(tmp_path: Path, world: Path) -> None:
    folder, file = tmp_path / "campaign", tmp_path / "config.json"
    file.write_text(config(expert=None).model_dump_json())
    with serving(tmp_path, interval=0.004) as server:
        assert await agent_process("run", folder, server.endpoint, file, "interrupt:2") == EXIT_CODES[StoppedError]
        stopped = load_campaign(folder)
        async with InstrumentClient(server.endpoint, timeout=5) as client:
            status = await client.status()
    assert (stopped.state, stopped.reason) == ("stopped", "stopped by SIGINT")
    assert stopped.trials[1].state == "failed"
    assert (status.phase, status.blanked, status.holder) == ("idle", True, ""), (
        "beam off, lease given back, not in SAFE"
    )


async def test_a_leak_holds_the_campaign_and_it_goes_on_by_itself(server: Server, tmp_path: Path, world: Path) -> None:
    leak = world / "leak"

    class Plumber:
        """Breaks the vacuum before the second trial, and mends it when the campaign waits for that."""

        waited: ClassVar[list[str]] = []

        def on_event(self, event: Event) -> None:
            if isinstance(event, PhaseChanged) and event.phase == "preparing" and event.trial == 2 and not self.waited:
                leak.touch()
                while not (world / "leak-told").exists():  # the server asks once a second
                    time.sleep(0.01)
            if isinstance(event, PhaseChanged) and event.phase == "waiting" and "vacuum" in event.message:
                self.waited.append(event.message)
                leak.unlink(missing_ok=True)

    states = States()
    record = await run_campaign(
        config(expert=None), server.endpoint, tmp_path / "c", observers=[Plumber(), states], processing=PROCESSING
    )
    assert record.state == "done"
    assert Plumber.waited
    if states.seen:  # it is asked once a second, and the leak may have been mended before
        assert states.seen[0][0] == "suspended"
