"""The page's other source, a real broker with passwords and the access rules of deploy/: who sees what, who may command."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import aiomqtt
import pytest
from access_broker import ROOT, Broker, agent

from agent.dashboard.sources import BrokerSource
from agent.dashboard.view import View
from agent.errors import BadInputError
from agent.events import PhaseChanged, PicturesDrawn
from agent.status.commands import new_command

LIMIT = 20.0


@asynccontextmanager
async def looking(broker: Broker, user: str) -> AsyncIterator[BrokerSource]:
    source = BrokerSource(broker.as_user(user), patience=1.0, retry=0.05)
    work = asyncio.create_task(source.run())
    try:
        yield source
    finally:
        work.cancel()
        await asyncio.wait([work])


def session_of(view: View) -> str:
    """Which process of the agent's it is."""
    return view.session.session if view.session is not None else ""


async def seen(source: BrokerSource, enough: Callable[[View], bool]) -> View:
    """The agent's view, as soon as it shows enough."""
    async with asyncio.timeout(LIMIT):
        while ROOT not in source.views or not enough(source.views[ROOT]):
            await asyncio.sleep(0.01)
    return source.views[ROOT]


async def test_a_viewer_sees_all_and_commands_nothing_an_operator_pauses(tmp_path: Path) -> None:
    broker, verbs = Broker(tmp_path), []
    with broker.running():
        async with agent(broker, "one", verbs) as publisher:
            publisher.on_event(PhaseChanged(phase="acquiring", trial=2, role="exploration"))
            png = b"\x89PNG" + bytes(1000)
            common = {"extent": (9.0, 9.0), "levels": (0.0, 1.0), "k_edge": 1.0, "resolution": None}
            publisher.on_event(PicturesDrawn(trial=1, role="exploration", phase=png, spectrum=png, **common))
            async with looking(broker, "viewer") as viewer, looking(broker, "operator") as operator:
                view = await seen(viewer, lambda v: v.state is not None and v.images.get("spectrum") == png)
                assert view.session is not None
                assert view.session.campaign == "one"
                with pytest.raises(BadInputError, match="may not let this user command"):
                    await viewer.command(view, "pause", "a viewer")
                assert verbs == []
                reply = await operator.command(await seen(operator, lambda v: bool(v.online)), "pause", "an operator")
                assert (reply.accepted, reply.text, verbs) == (True, "pause done", ["pause"])


async def test_a_retained_command_is_refused_and_the_next_agent_is_not_moved_by_it(tmp_path: Path) -> None:
    broker, verbs = Broker(tmp_path), []
    with broker.running():
        async with looking(broker, "operator") as operator:
            async with asyncio.timeout(LIMIT):
                while not operator.connected:
                    await asyncio.sleep(0.01)
            client = aiomqtt.Client("127.0.0.1", broker.port, username="operator", password="operator-password")
            command = new_command("somebody")
            async with client:
                await client.publish(f"{ROOT}/command/stop", command.model_dump_json(), qos=1, retain=True)
            async with agent(broker, "two", verbs):
                view = await seen(operator, lambda v: command.id in v.replies)
                assert view.replies[command.id].code == "RETAINED"
                assert verbs == []


async def test_broker_and_agent_restart_and_the_page_shows_what_is_true(tmp_path: Path) -> None:
    broker = Broker(tmp_path)
    now = asyncio.get_running_loop().time
    async with looking(broker, "viewer") as viewer:
        async with agent(broker, "three", []):
            with broker.running():
                view = await seen(viewer, lambda v: v.state is not None and not v.stale(now()))
            async with asyncio.timeout(LIMIT):
                while viewer.connected:
                    await asyncio.sleep(0.01)
            assert view.stale(now() + 6), "after 5 s of silence nothing counts as true"
            with broker.running():
                heard, first = view.heard, session_of(view)
                await seen(viewer, lambda v: v.heard != heard and not v.stale(now()))
        with broker.running():
            async with agent(broker, "three", []):
                await seen(viewer, lambda v: session_of(v) != first and v.online is True and not v.stale(now()))
            await seen(viewer, lambda v: v.online is False and v.stale(now()))
            async with agent(broker, "four", []):
                after = await seen(viewer, lambda v: v.title == "four" and not v.stale(now()))
                assert after.trials == {}
