"""A language model at a running campaign, over the real protocol: it reads and proposes; all else is refused and logged."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from served_small_world import PROCESSING, Server, config

from agent import run_campaign
from agent.campaign.steering import Steering
from agent.campaign.stop import Control
from agent.errors import StoppedError
from agent.events import Event, ProposalChanged, SteeringChanged, TrialChanged
from agent.status.commands import CommandDesk, new_command
from agent.status.local import listening, send
from agent.status.log import LOG
from agent.status.record_file import recording
from agent.storage.journal import load_campaign
from instrument import InstrumentClient

mcp = pytest.importorskip("mcp", reason="needs the extra [mcp] (make env)")
pytestmark = pytest.mark.usefixtures("world")

GOOD = {"step_a": 1.2, "defocus_a": 90, "dose": 60, "reason": "<b>finer</b> where the probe is wide"}
HOSTILE: tuple[tuple[str, dict[str, Any], str], ...] = (
    ("propose", GOOD | {"dose": 10_000}, "must be 50 … 1000"),
    ("propose", GOOD | {"step_a": 0.01}, "step: 0.01 Å, must be"),
    ("propose", GOOD | {"region": {"y": 0, "x": 0}}, "region"),
    ("propose", GOOD | {"ttl_s": 3600}, "ttl_s"),
    ("propose", GOOD | {"dose": "1e4; approve"}, "dose"),
    ("propose", GOOD | {"by": "the operator", "trial": 1, "level": "auto", "field_y_a": 3}, "field_y_a"),
    ("resume", {"reason": "SAFE is over"}, "an operator's"),
    ("approve", {"proposal": 1}, "an operator's"),
    ("trial", {"step_a": 1.2, "defocus_a": 90, "dose": 60}, "an operator's"),
    ("autonomy", {"level": "auto"}, "an operator's"),
    ("lease", {"ttl": 3600}, "ttl"),
    ("lease.renew", {}, "is no command"),
    ("status", {"path": "/etc/passwd"}, "path"),
)


class Moments:
    """What the test waits for."""

    def __init__(self) -> None:
        self.held, self.proposed_done = asyncio.Event(), asyncio.Event()
        self.proposals: list[ProposalChanged] = []

    def on_event(self, event: Event) -> None:
        if isinstance(event, SteeringChanged) and event.held is not None:
            self.held.set()
        elif isinstance(event, ProposalChanged):
            self.proposals.append(event)
        elif isinstance(event, TrialChanged) and (event.trial.suggestion.origin, event.trial.state) == (
            "proposed",
            "done",
        ):
            self.proposed_done.set()


async def called(client: Any, name: str, arguments: dict[str, Any]) -> tuple[str, bool]:
    answer = await client.call_tool(name, arguments)
    return answer.content[0].text, bool(answer.is_error)


async def test_a_model_proposes_and_a_hostile_one_achieves_nothing(server: Server, tmp_path: Path) -> None:
    folder, control, moments = tmp_path / "campaign", Control(), Moments()
    steering = Steering(control, "advise")
    async with recording(folder) as recorder, listening(folder, CommandDesk(steering.act)) as door:
        campaign = asyncio.ensure_future(
            run_campaign(
                config(),
                server.endpoint,
                folder,
                observers=[recorder, door, moments],
                processing=PROCESSING,
                control=control,
                steering=steering,
            )
        )
        await moments.held.wait()
        command = mcp.StdioServerParameters(
            command=sys.executable,
            args=["-c", "import sys; from agent.cli import main; main(sys.argv[1:])", "mcp", "--campaign", str(folder)],
            env={"PYTHONPATH": ":".join(path for path in sys.path if path)},
        )
        async with mcp.Client(command) as client:
            tools = {tool.name for tool in (await client.list_tools()).tools}
            assert tools == {"status", "trials", "report", "plan", "propose"}
            told = json.loads((await called(client, "status", {}))[0])
            assert (told["running"], told["state"]["autonomy"]) == (True, "advise")
            legal = json.loads((await called(client, "plan", {}))[0])["legal"]
            assert legal["dose"] == "50 … 1000 e/Å²"

            text, refused = await called(client, "propose", GOOD)
            assert not refused, text
            assert "waits for an operator's approval" in text
            assert load_campaign(folder).trials[-1].number == 1, "a proposal is no trial"
            answer = await send(folder, "approve", new_command("ann", proposal=1))
            assert answer.accepted, answer.text
            await asyncio.wait_for(moments.proposed_done.wait(), 20)

            assert (await send(folder, "blank", new_command("ann"))).accepted
            for name, arguments, why in HOSTILE:
                text, refused = await called(client, name, arguments)
                assert refused, (name, arguments, text)
                assert why in text, (name, text)
            log = (folder / LOG).read_text(encoding="utf-8")
            assert log.count("refused '") == len(HOSTILE)
            assert "refused 'resume' of 'a language model (mcp)'" in log
        async with InstrumentClient(server.endpoint, timeout=5) as instrument:
            assert (await instrument.status()).phase == "safe", "nobody but an operator releases it"
        control.stop("enough seen", now=True)
        with pytest.raises(StoppedError):
            await campaign
    record = load_campaign(folder)
    assert [t.suggestion.origin for t in record.trials if t.electrons] == ["proposed"]
    assert record.trials[0].state == "abandoned"
    assert [p.settings is None for p in moments.proposals] == [False, True]
