"""Commands that come over a wire: the right ones are carried out once, all others are refused with a reason."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from agent.errors import BadInputError
from agent.status.broker import parse_broker
from agent.status.commands import CommandDesk, new_command
from agent.status.contract import Command

NOW = datetime(2026, 11, 30, 12, 0, tzinfo=UTC)


class Campaign:
    """Remembers what it was asked to do."""

    def __init__(self) -> None:
        self.done: list[str] = []

    async def act(self, verb: str, command: Command, way: str) -> str:
        if command.reason == "impossible":
            raise BadInputError("not now")
        self.done.append(verb)
        return f"{verb} done"


def _payload(age_s: float = 0.0, **fields: object) -> bytes:
    issued = (NOW - timedelta(seconds=age_s)).isoformat()
    return new_command("me", **fields).model_copy(update={"issued_at": issued}).model_dump_json().encode()


@pytest.fixture
def campaign() -> Campaign:
    return Campaign()


@pytest.fixture
def desk(campaign: Campaign) -> CommandDesk:
    return CommandDesk(campaign.act, lambda: NOW)


async def test_a_command_is_carried_out_once_however_often_it_comes(campaign: Campaign, desk: CommandDesk) -> None:
    payload = _payload()
    first, second = [await desk.handle("pause", payload) for _ in range(2)]
    assert first is not None
    assert first.accepted
    assert second == first
    assert campaign.done == ["pause"]


@pytest.mark.parametrize(
    ("verb", "payload", "retained", "code"),
    [
        ("pause", _payload(), True, "RETAINED"),
        ("pause", _payload(age_s=11), False, "EXPIRED"),
        ("pause", _payload(age_s=-3600), False, "EXPIRED"),
        ("unblank", _payload(), False, "NOT_ALLOWED"),
        ("pause", _payload(reason="impossible"), False, "REFUSED"),
        ("pause", _payload()[:-1] + b',"region":"all"}', False, "MALFORMED"),
    ],
)
async def test_what_is_not_carried_out_is_answered(
    campaign: Campaign, desk: CommandDesk, verb: str, payload: bytes, retained: bool, code: str
) -> None:
    reply = await desk.handle(verb, payload, retained=retained)
    assert reply is not None
    assert (reply.accepted, reply.code) == (False, code)
    assert reply.text
    assert campaign.done == []


@pytest.mark.parametrize("payload", [b"", b"\xff", b"[]", b"{}", b'{"id": 7}', b"x" * 100_000])
async def test_rubbish_is_left_alone(campaign: Campaign, desk: CommandDesk, payload: bytes) -> None:
    assert await desk.handle("pause", payload) is None
    assert campaign.done == []


@pytest.mark.parametrize("url", ["http://x", "mqtt://", "mqtt://u:secret@h", "mqtt://h:port"])
def test_an_address_that_is_none_is_refused_without_its_password(url: str) -> None:
    with pytest.raises(BadInputError) as refused:
        parse_broker(url)
    assert "secret" not in str(refused.value)
