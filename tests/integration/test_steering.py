"""An operator at a running campaign: vetoes one, pauses, goes on, approves the rest; nothing vetoed is ever exposed."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from served_small_world import PROCESSING, Server, config, ledger

from agent import run_campaign
from agent.campaign.steering import Steering
from agent.campaign.stop import Control
from agent.dashboard.sources import FolderSource
from agent.events import Event, SteeringChanged
from agent.status.commands import CommandDesk, new_command
from agent.status.contract import Reply
from agent.status.local import CONTROL, listening, send
from agent.status.record_file import STATUS, recording

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
    source.want(view)
    assert view.garbled == 0
    assert view.finished
    assert [view.trials[n].state for n in sorted(view.trials)] == [str(t.state) for t in record.trials]
    assert view.dose is not None
    assert (view.dose.spent, view.dose.reserved) == (pytest.approx(record.electrons_spent), 0.0)
    said = [json.loads(line)["payload"] for line in (folder / STATUS).read_text().splitlines()]
    codes = [each["code"] for each in said if each and "code" in each]
    assert [code for code in codes if code in ("VETO", "PAUSED", "RESUMED")] == ["VETO", "PAUSED", "RESUMED"]
