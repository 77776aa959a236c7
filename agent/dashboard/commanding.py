"""Commands from the page: what a role may do, and the shortest way to a beam that is off."""

from __future__ import annotations

import logging
from typing import Any

from agent.campaign.connection import load_keys
from agent.dashboard.roles import Role
from agent.dashboard.sources import FolderSource, Source
from agent.dashboard.view import View
from agent.errors import BadInputError
from agent.storage.journal import load_link
from instrument import InstrumentClient, InstrumentError

logger = logging.getLogger(__name__)
BLANK_TIMEOUT = 2.0
"""s that the instrument may take to answer before the agent is asked as well."""


class Commander:
    """What one browser may do.

    Args:
        source: knows the way to the agent.
        role: of the browser.
    """

    def __init__(self, source: Source, role: Role) -> None:
        self.role = role
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
        reply = await self._source.command(view, verb, "an operator on the dashboard", **fields)
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
                link = load_link(self._source.folder(view))
                client = InstrumentClient(
                    link.endpoint,
                    holder="dashboard",
                    keys=load_keys(link.keys, link.endpoint),
                    timeout=BLANK_TIMEOUT,
                    request_timeout=BLANK_TIMEOUT,
                )
                async with client:
                    await client.blank()
                logger.warning("beam off and SAFE at %s, by an operator on the dashboard", link.endpoint)
                return "beam off, the instrument is in SAFE; `ptychopilot resume` releases it"
            except (InstrumentError, BadInputError) as error:
                logger.warning("the instrument did not answer: %s", error)
        return await self.command(view, "blank")

    def _require_operator(self, verb: str) -> None:
        if self.role != "operator":
            logger.warning("a viewer has tried to %s", verb)
            msg = f"you are a viewer here and cannot {verb}; log in as operator at /login"
            raise BadInputError(msg)
