"""Who may do what: roles by key, changed and taken away while the server runs; what is the lease holder's; forged names."""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from served_stripes import Frames, make_plan, serving, under_way
from striped_microscope import StripedMicroscope

from instrument import (
    AccessError,
    ClientKeys,
    ConflictError,
    InstrumentClient,
    InstrumentError,
    InstrumentServer,
    MalformedRequestError,
    ServerKeys,
    access,
    generate_keys,
)

MAKERS = ("viewer", "agent", "operator")


class KeyedServer:
    """A server with CURVE keys, and clients of it by the name of their key."""

    def __init__(self, folder: Path, server: InstrumentServer) -> None:
        self.folder, self.server = folder, server
        self.clients = folder / "server" / "clients"

    @asynccontextmanager
    async def client(self, name: str) -> AsyncIterator[InstrumentClient]:
        keys = ClientKeys.load(self.folder / f"{name}.key_secret", self.folder / "server" / "scope.key")
        async with InstrumentClient(
            self.server.control, holder=name, keys=keys, timeout=5, request_timeout=5
        ) as client:
            yield client


@asynccontextmanager
async def keyed(folder: Path) -> AsyncIterator[KeyedServer]:
    clients = folder / "server" / "clients"
    clients.mkdir(parents=True)
    generate_keys(folder / "server", "scope")
    for name in MAKERS:
        public, _ = generate_keys(folder, name, name)
        (clients / public.name).write_text(public.read_text())
    keys = ServerKeys.load(None, None, folder / "server")
    async with InstrumentServer(StripedMicroscope(), state_dir=folder / "state", keys=keys) as server:
        yield KeyedServer(folder, server)


async def test_a_key_may_do_what_its_role_may(tmp_path: Path):
    async with keyed(tmp_path) as world, world.client("viewer") as viewer, world.client("operator") as operator:
        assert (await viewer.describe()).name == "striped"
        with pytest.raises(AccessError, match=r"the key viewer has the role viewer, campaign needs agent"):
            await viewer.open_campaign("c", 1e6)
        with pytest.raises(AccessError, match=r"lease\.acquire needs agent"):
            async with viewer.lease():
                pass
        async with world.client("agent") as agent:
            await agent.open_campaign("c", 1e6)
            async with agent.lease():
                await agent.prepare(make_plan())
                assert (await agent.acquire("a1", Frames())).state == "done"
                await agent.prepare(make_plan("a2"))
                assert (await operator.cancel("a2")).state == "aborted", "an operator may, without the lease"
            await agent.blank()
            with pytest.raises(AccessError, match="resume needs operator"):
                await agent.resume("agent", "I say so")
        assert (await operator.resume("Ada", "looked at it")).phase == "idle"
        assert (await operator.events())[-1].operator == "Ada (key operator)"


async def test_a_key_is_taken_away_or_lowered_while_the_server_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(access, "LOOK_INTERVAL", 0.0)
    async with keyed(tmp_path) as world, world.client("operator") as operator, world.client("agent") as agent:
        await operator.describe()
        public = world.clients / "operator.key"
        public.write_text(public.read_text().replace("role = operator", "role = viewer"))
        with pytest.raises(AccessError, match="campaign needs agent"):
            await operator.open_campaign("c", 1.0)
        public.write_text(public.read_text().replace("role = viewer", "role = emperor"))
        with pytest.raises(AccessError, match="has the role viewer"):
            await operator.open_campaign("c", 1.0)
        public.write_text(public.read_text().replace("    role = emperor\n", ""))
        await operator.open_campaign("c", 1.0)  # as every key before there were roles
        (world.clients / "agent.key").unlink()
        with pytest.raises(AccessError, match="has been taken from the admitted clients"):
            await agent.describe()


async def test_what_runs_and_what_is_reserved_is_the_lease_holders(tmp_path: Path):
    async with (
        under_way(tmp_path) as (microscope, server, client, running),
        InstrumentClient(server.control, holder="other", timeout=5, request_timeout=5) as other,
    ):
        for attempt in (other.abort("a1"), other.cancel("a1"), other.open_campaign("theirs", 1.0)):
            with pytest.raises(ConflictError, match="ptychopilot holds the lease"):
                await attempt
        assert microscope.beam_on
        assert (await client.abort("a1")).state == "aborted"
        await running


@pytest.mark.parametrize("name", ["Ada\n2026-11-30 12:00:00 WARNING released", "\x1b[2JAda", "Ada\u202e", "a" * 129])
async def test_a_name_that_would_forge_a_line_is_refused(tmp_path: Path, name: str):
    async with serving(tmp_path, StripedMicroscope()) as (server, client):
        with pytest.raises(InstrumentError, match="operator: "):
            await client.resume(name, "because")
        async with InstrumentClient(server.control, holder=name, timeout=5, request_timeout=5) as forger:
            with pytest.raises(InstrumentError, match="holder: "):
                async with forger.lease():
                    pass


async def test_the_name_of_an_instrument_cannot_move_the_cursor(tmp_path: Path):
    async with serving(tmp_path, StripedMicroscope(name="scope\x1b[2J\nERROR all is lost Å")) as (_, client):
        assert (await client.describe()).name == r"scope\x1b[2J\nERROR all is lost Å"


@pytest.mark.skipif(sys.platform == "win32", reason="modes of Unix")
def test_a_secret_key_that_others_can_read_is_refused(tmp_path: Path):
    _, secret = generate_keys(tmp_path, "mine")
    os.chmod(secret, 0o644)
    with pytest.raises(MalformedRequestError, match=r"can be read by others \(mode 644\).*chmod 600"):
        ClientKeys.load(secret, tmp_path / "mine.key")
    with pytest.raises(MalformedRequestError, match="is no name for a key"):
        generate_keys(tmp_path, "../../mine")
