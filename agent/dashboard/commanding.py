"""Commands from the page: what a role may do, and the shortest way to a beam that is off."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from agent.campaign.connection import load_keys
from agent.dashboard.roles import Visitor
from agent.dashboard.sources import FolderSource, Source
from agent.dashboard.view import View
from agent.errors import BadInputError
from agent.status.local import NoAnswerError
from agent.storage.journal import load_link
from instrument import InstrumentClient, InstrumentError

logger = logging.getLogger(__name__)
BLANK_TIMEOUT = 2.0
"""s that the instrument may take to answer before the agent is asked as well."""


async def blank_at_instrument(folder: Path) -> str:
    """Turn the beam off over the instrument's own safe socket, whatever the agent does.

    Args:
        folder: of the campaign, which knows the instrument.

    Returns:
        What was done.

    Raises:
        BadInputError: the folder does not say where the instrument is.
        InstrumentError: it did not confirm.
    """
    link = load_link(folder)
    client = InstrumentClient(
        link.endpoint,
        holder="dashboard",
        keys=load_keys(link.keys, link.endpoint),
        timeout=BLANK_TIMEOUT,
        request_timeout=BLANK_TIMEOUT,
    )
    async with client:
        await client.blank()
    logger.warning("beam off and SAFE at %s, by an operator", link.endpoint)
    return "beam off, the instrument is in SAFE; `ptychopilot resume` releases it"


async def blank_instead(folder: Path, error: BadInputError) -> str:
    """A pause that a hanging agent has not acknowledged: blank, and say what became of that.

    Args:
        folder: of the campaign.
        error: what became of the pause.
    """
    try:
        return f"pause was not acknowledged ({error}): {await blank_at_instrument(folder)}"
    except (InstrumentError, BadInputError) as failed:
        return f"pause was not acknowledged ({error}), and the beam could not be turned off: {failed}; blank at the microscope"


class Commander:
    """What one browser may do.

    Args:
        source: knows the way to the agent.
        visitor: who looks.
    """

    def __init__(self, source: Source, visitor: Visitor) -> None:
        self.role, self.name = visitor.role, visitor.name
        self._source = source

    async def command(self, view: View, verb: str, **fields: Any) -> str:
        """Give a command and wait until it is answered.

        Args:
            view: of the campaign.
            verb: see agent.status.contract.Verb.
            fields: of agent.status.contract.Command.

        Returns:
            What was done.

        Raises:
            BadInputError: refused, by us or by the agent, or not answered.
        """
        self._require_operator(verb)
        try:
            reply = await self._source.command(view, verb, self._by, **fields)
        except NoAnswerError as error:
            if verb != "pause" or not isinstance(self._source, FolderSource):
                raise
            raise BadInputError(await blank_instead(self._source.folder(view), error)) from error
        if not reply.accepted:
            raise BadInputError(f"{verb} was refused: {reply.text}")
        return reply.text

    async def blank(self, view: View) -> str:
        """Turn the beam off: at the instrument itself where it is within reach, otherwise through the agent.

        Args:
            view: of the campaign.

        Raises:
            BadInputError: nobody has confirmed that the beam is off.
        """
        self._require_operator("blank")
        if isinstance(self._source, FolderSource):
            try:
                return await blank_at_instrument(self._source.folder(view))
            except (InstrumentError, BadInputError) as error:
                logger.warning("the instrument did not answer: %s", error)
        return await self.command(view, "blank")

    @property
    def _by(self) -> str:
        return f"{self.name} (dashboard)" if self.name else "an operator on the dashboard"

    def _require_operator(self, verb: str) -> None:
        if self.role != "operator":
            logger.warning("a viewer %shas tried to %s", f"({self.name}) " if self.name else "", verb)
            msg = f"you are a viewer here and cannot {verb}; log in as operator at /login"
            raise BadInputError(msg)
