"""Commands from this machine's own user, without a broker: a loopback socket, its port and secret in the campaign's folder.

`control.json` can be read by the user alone who runs the campaign, so whoever knows the secret may command like that user. One
command is one line of JSON, `{"secret", "verb", "command"}`; the answer is one line, a Reply. Beside it lies the secret of
advisors, programs that may propose and nothing else.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
import os
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from pydantic import ValidationError

from agent.errors import BadInputError
from agent.events import CampaignStarted, Event
from agent.status.commands import CommandDesk, Way
from agent.status.contract import LARGEST_COMMAND, Command, Reply
from agent.storage.atomic import write_private

CONTROL = "control.json"
_KEYS: dict[Way, str] = {"local": "secret", "advisor": "advisor_secret"}
ANSWER_TIMEOUT = 10.0
"""s that an agent may take to answer."""
logger = logging.getLogger(__name__)


class NoAnswerError(BadInputError):
    """The agent's process is there and does not answer: it hangs."""


@asynccontextmanager
async def listening(folder: Path, desk: CommandDesk) -> AsyncIterator[Door]:
    """Take commands at `desk` while the block lasts.

    Args:
        folder: of the campaign; need not exist before the campaign starts.
        desk: where they are carried out.

    Yields:
        An observer, which writes `control.json` when the campaign starts.
    """
    ways: dict[str, Way] = {secrets.token_urlsafe(32): "local", secrets.token_urlsafe(32): "advisor"}

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT):
                reply = await _answer(await reader.readline(), ways, desk)
                if reply is not None:
                    writer.write(reply.model_dump_json().encode() + b"\n")
                    await writer.drain()
        except (OSError, TimeoutError, ValueError) as error:
            logger.info("a command was not answered: %s", error)
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, limit=2 * LARGEST_COMMAND)
    known = {_KEYS[way]: secret for secret, way in ways.items()}
    door = Door(folder / CONTROL, {"port": server.sockets[0].getsockname()[1], **known, "pid": os.getpid()})
    try:
        yield door
    finally:
        door.close()
        server.close()
        await server.wait_closed()


class Door:
    """Says in the campaign's folder how it is reached.

    Args:
        path: of `control.json`.
        content: port and secret.
    """

    def __init__(self, path: Path, content: dict[str, object]) -> None:
        self._path = path
        self._content: dict[str, object] | None = content

    def on_event(self, event: Event) -> None:
        """The folder is there, and ours, when the campaign starts."""
        if isinstance(event, CampaignStarted) and self._content is not None:
            write_private(self._path, json.dumps(self._content))
            self._content = None

    def close(self) -> None:
        """Nobody is to come any more."""
        if self._content is None:
            self._path.unlink(missing_ok=True)


async def send(folder: Path, verb: str, command: Command | dict[str, object], way: Way = "local") -> Reply:
    """Give a command to the agent that runs a campaign.

    Args:
        folder: of the campaign.
        verb: see contract.Verb.
        command: of now; one that was not looked at yet as a dictionary.
        way: as whom: `local`, the user, or `advisor`.

    Raises:
        NoAnswerError: the agent is there and does not answer.
        BadInputError: no agent runs it, or it does not answer.
    """
    try:
        control = json.loads((folder / CONTROL).read_text(encoding="utf-8"))
        async with asyncio.timeout(ANSWER_TIMEOUT):
            reader, writer = await asyncio.open_connection("127.0.0.1", int(control["port"]))
            try:
                told = command if isinstance(command, dict) else command.model_dump(mode="json")
                line = {"secret": control[_KEYS[way]], "verb": verb, "command": told}
                writer.write(json.dumps(line).encode() + b"\n")
                await writer.drain()
                return Reply.model_validate_json(await reader.readline())
            finally:
                writer.close()
    except PermissionError as error:
        msg = f"{folder / CONTROL} belongs to another user; only whoever runs the campaign may command it from here"
        raise BadInputError(msg) from error
    except FileNotFoundError as error:
        msg = f"{folder}: no agent runs this campaign now; `ptychopilot resume {folder}` goes on with it"
        raise BadInputError(msg) from error
    except TimeoutError as error:
        raise NoAnswerError(f"{folder}: the agent has not answered for {ANSWER_TIMEOUT:g} s; it hangs") from error
    except (OSError, ValueError, KeyError, ValidationError) as error:
        msg = f"{folder}: the agent does not answer ({type(error).__name__}); has it been killed?"
        raise BadInputError(msg) from error


async def _answer(line: bytes, ways: dict[str, Way], desk: CommandDesk) -> Reply | None:
    told = json.loads(line)
    given = str(told.get("secret")).encode() if isinstance(told, dict) else b""
    way = next((way for secret, way in ways.items() if hmac.compare_digest(given, secret.encode())), None)
    if way is None:
        return None
    payload = json.dumps(told.get("command")).encode()
    return await desk.handle(str(told.get("verb")), payload, way=way)
