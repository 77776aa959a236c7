"""An operator at a running campaign: vetoes one, pauses, goes on, approves the rest; nothing vetoed is ever exposed."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from served_small_world import PROCESSING, Server, config, ledger, serving

from agent import run_campaign
from agent.campaign.steering import Steering
from agent.campaign.stop import Control
from agent.dashboard.commanding import Commander
from agent.dashboard.roles import Visitor
from agent.dashboard.sources import FolderSource
from agent.errors import BadInputError, StoppedError
from agent.events import Event, FramesReceived, SteeringChanged, TrialChanged
from agent.records import Settings
from agent.status.commands import CommandDesk, Way, new_command
from agent.status.contract import Command, Reply
from agent.status.local import CONTROL, listening, send
from agent.status.record_file import STATUS, recording
from instrument import InstrumentClient

pytestmark = pytest.mark.usefixtures("world")


class Operator:
    """Vetoes the first trial, pauses before the second, approves everything else."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.replies: list[Reply] = []
        self.work: list[asyncio.Task[None]] = []

    def on_event(self, event: Event) -> None:
        if isinstance(event, SteeringChanged) and event.code == "NEEDS_APPROVAL":
            assert event.needs_approval is not None
            self.work.append(asyncio.ensure_future(self._answer(event.needs_approval)))

    async def _answer(self, trial: int) -> None:
        if trial == 1:
            await self._send("veto", trial=trial, reason="bubbles")
        else:
            if trial == 2:
                await self._send("pause")
                await self._send("resume")
            await self._send("approve", trial=trial)

    async def _send(self, verb: str, **fields: object) -> None:
        self.replies.append(await send(self.folder, verb, new_command("ann", **fields)))


async def test_an_operator_vetoes_one_pauses_and_approves_the_rest(server: Server, tmp_path: Path) -> None:
    folder = tmp_path / "campaign"
    control = Control()
    steering = Steering(control, "confirm")
    operator, desk = Operator(folder), CommandDesk(steering.act)
    async with recording(folder) as recorder, listening(folder, desk) as door:
        record = await run_campaign(
            config(),
            server.endpoint,
            folder,
            observers=[recorder, door, operator],
            processing=PROCESSING,
            control=control,
            steering=steering,
        )
        assert (folder / CONTROL).stat().st_mode & 0o077 == 0, "others must not be able to read the secret"
        await asyncio.gather(*operator.work)
    assert not (folder / CONTROL).exists()
    assert all(reply.accepted for reply in operator.replies), operator.replies

    first, *others = record.trials
    assert (first.state, first.reason, first.electrons) == ("vetoed", "vetoed by ann: bubbles", 0.0)
    assert [t.role for t in others] == ["exploration"] * 3 + ["final", "expert"]
    assert {t.state for t in others} == {"done"}
    assert others[0].settings != first.settings, "a veto asks for something else"
    assert len(await ledger(server.endpoint)) == len(others)

    source = FolderSource(folder)
    view = source.views[folder.name]
    source.read(view)
    assert view.garbled == 0
    assert view.finished
    assert [view.trials[n].state for n in sorted(view.trials)] == [str(t.state) for t in record.trials]
    assert view.dose is not None
    assert (view.dose.spent, view.dose.reserved) == (pytest.approx(record.electrons_spent), 0.0)
    said = [json.loads(line)["payload"] for line in (folder / STATUS).read_text().splitlines()]
    codes = [each["code"] for each in said if each and "code" in each]
    assert [code for code in codes if code in ("VETO", "PAUSED", "RESUMED")] == ["VETO", "PAUSED", "RESUMED"]


class Editor:
    """Edits the second trial, asks for one more while the final picture waits, and approves everything else."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.refused: list[str] = []
        self.roles: dict[int, str] = {}
        self.asked = False
        self.work: list[asyncio.Task[None]] = []

    def on_event(self, event: Event) -> None:
        if isinstance(event, TrialChanged):
            self.roles[event.trial.number] = event.trial.role
        if isinstance(event, SteeringChanged) and event.code == "NEEDS_APPROVAL":
            assert event.needs_approval is not None
            self.work.append(asyncio.ensure_future(self._answer(event.needs_approval)))

    async def _answer(self, trial: int) -> None:
        if trial == 2:
            too_much = await send(self.folder, "edit", new_command("ann", trial=trial, dose=1e6))
            self.refused.append(too_much.text)
            await send(self.folder, "edit", new_command("ann", trial=trial, step_a=1.5, defocus_a=80, dose=100))
        elif self.roles[trial] == "final" and not self.asked:
            self.asked = True
            dear = await send(self.folder, "trial", new_command("ann", step_a=1.5, defocus_a=80, dose=1000))
            self.refused.append(dear.text)
            await send(self.folder, "trial", new_command("ann", step_a=1.2, defocus_a=90, dose=60))
        else:
            await send(self.folder, "approve", new_command("ann", trial=trial))


async def test_an_operator_edits_one_and_asks_for_one_more_before_the_final_picture(
    server: Server, tmp_path: Path
) -> None:
    folder, control = tmp_path / "campaign", Control()
    steering = Steering(control, "confirm")
    editor = Editor(folder)
    async with listening(folder, CommandDesk(steering.act)) as door:
        record = await run_campaign(
            config(expert=None, electrons=6e5),
            server.endpoint,
            folder,
            observers=[door, editor],
            processing=PROCESSING,
            control=control,
            steering=steering,
        )
        await asyncio.gather(*editor.work)

    assert "dose: 1e+06 e/Å², must be 50 … 1000 e/Å²" in editor.refused[0]
    assert "exploration has" in editor.refused[1]
    told = [(t.role, str(t.state), t.suggestion.origin) for t in record.trials]
    assert told == [
        ("exploration", "done", "policy"),
        ("exploration", "abandoned", "policy"),
        ("exploration", "done", "edited"),
        ("exploration", "done", "policy"),
        ("final", "abandoned", "policy"),
        ("exploration", "done", "manual"),
        ("final", "done", "policy"),
    ]
    edited, manual = record.trials[2], record.trials[5]
    assert edited.settings == Settings(step=1.5, defocus=80, dose=100)
    assert record.trials[1].reason.startswith("edited by ann: 1.5 Å, +80 Å, 100 e/Å²")
    assert manual.electrons > 0
    assert record.electrons_spent == pytest.approx(sum(t.electrons for t in record.trials))
    assert len(await ledger(server.endpoint)) == 5, "what was abandoned was never reserved"


async def test_a_pause_that_a_hanging_agent_does_not_answer_turns_the_beam_off_at_the_instrument(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, started = tmp_path / "campaign", asyncio.Event()
    control = Control()
    steering = Steering(control, "advise")

    class Hangs(Steering):
        async def act(self, verb: str, command: Command, way: Way) -> str:
            await asyncio.Event().wait()
            return ""

    class Waiter:
        def on_event(self, event: Event) -> None:
            if isinstance(event, SteeringChanged) and event.held is not None:
                started.set()

    monkeypatch.setattr("agent.status.local.ANSWER_TIMEOUT", 0.3)
    async with listening(folder, CommandDesk(Hangs(control).act)) as door:
        campaign = asyncio.ensure_future(
            run_campaign(
                config(),
                server.endpoint,
                folder,
                observers=[door, Waiter()],
                processing=PROCESSING,
                control=control,
                steering=steering,
            )
        )
        await started.wait()
        source = FolderSource(folder)
        commander = Commander(source, Visitor("operator"))
        with pytest.raises(BadInputError, match=r"pause was not acknowledged.*beam off, the instrument is in SAFE"):
            await commander.command(source.views[folder.name], "pause")
        control.stop("enough seen", now=True)
        with pytest.raises(StoppedError):
            await campaign
    async with InstrumentClient(server.endpoint, timeout=5) as client:
        assert (await client.status()).phase == "safe"


async def test_an_acquisition_that_does_not_acknowledge_a_pause_ends_in_safe(tmp_path: Path, world: Path) -> None:
    folder, control = tmp_path / "campaign", Control()
    steering, exposing, blanked = Steering(control), asyncio.Event(), asyncio.Event()
    said: list[SteeringChanged] = []

    class Watcher:
        def on_event(self, event: Event) -> None:
            if isinstance(event, FramesReceived) and event.received:
                exposing.set()
            if isinstance(event, SteeringChanged):
                said.append(event)
                if event.code == "BLANKED":
                    blanked.set()

    with serving(tmp_path, interval=1.8) as slow:
        campaign = asyncio.ensure_future(
            run_campaign(
                config(steering={"pause_within": 1.0}),
                slow.endpoint,
                folder,
                observers=[Watcher()],
                processing=PROCESSING,
                control=control,
                steering=steering,
            )
        )
        await exposing.wait()
        await steering.act("pause", new_command("ann"), "local")
        await asyncio.wait_for(blanked.wait(), 20)
        async with InstrumentClient(slow.endpoint, timeout=5) as client:
            assert (await client.status()).phase == "safe"
        await steering.act("resume", new_command("ann"), "local")  # ends the pause, and releases nothing
        with pytest.raises(StoppedError, match="SAFE"):
            await asyncio.wait_for(campaign, 20)
    assert ("loop", "acquisition", "worker") in [event.unacknowledged for event in said]
    assert any("pause not acknowledged within 1 s by acquisition" in event.text for event in said)
