"""The MCP server: tools to read, one to propose, and everything else refused by the agent that runs the campaign."""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import mcp_types as types
from mcp.server import Server
from mcp.server.stdio import stdio_server

from agent.advisor import reading
from agent.advisor.reading import Told
from agent.errors import BadInputError
from agent.status.commands import new_command
from agent.status.local import send

logger = logging.getLogger(__name__)
INSTRUCTIONS = (
    "ptychopilot runs an electron ptychography campaign under an electron budget: it chooses scan step, defocus and dose. "
    "Read status, trials, report and plan. You may propose the settings of one more trial; a person decides, and may "
    "decline. Nothing else is yours: you cannot expose, pause, resume, or change budget, region or limits."
)
NAME = "a language model (mcp)"
READ: dict[str, tuple[Callable[[Path], Told], str]] = {
    "status": (reading.status, "What the campaign does now: phase, trial, electrons, suggestion, proposal that waits."),
    "trials": (reading.trials, "All trials so far: settings, scores with their standard deviation, reasons."),
    "report": (reading.report, "What the campaign has found so far, in sentences, and what it recommends."),
    "plan": (reading.plan, "Goal, area, legal ranges of the settings, electrons left."),
}
NOTHING = {"type": "object", "properties": {}, "additionalProperties": False}
PROPOSAL = {
    "type": "object",
    "properties": {
        "step_a": {"type": "number", "exclusiveMinimum": 0, "description": "scan step, Å"},
        "defocus_a": {"type": "number", "description": "nominal defocus, Å, positive for underfocus"},
        "dose": {"type": "number", "exclusiveMinimum": 0, "description": "e/Å², or counts/Å²; see plan"},
        "semiangle_mrad": {
            "type": "number",
            "exclusiveMinimum": 0,
            "description": "which aperture, where plan names several",
        },
        "reason": {"type": "string", "maxLength": 400, "description": "why, for the operator who decides"},
    },
    "required": ["step_a", "defocus_a", "dose", "reason"],
    "additionalProperties": False,
}


class Advisor:
    """One campaign for one language model.

    Args:
        folder: of the campaign.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def tools(self) -> list[types.Tool]:
        """What there is to call."""
        read = [types.Tool(name=name, description=about, input_schema=NOTHING) for name, (_, about) in READ.items()]
        about = (
            "Propose the settings of one more trial. It is judged at once, and does nothing until an operator approves."
        )
        return [*read, types.Tool(name="propose", description=about, input_schema=PROPOSAL)]

    async def call(self, name: str, arguments: dict[str, Any]) -> tuple[str, bool]:
        """Answer a call.

        Args:
            name: of the tool. One that there is not is handed to the agent as a command, which refuses it and logs that.
            arguments: as they came.

        Returns:
            The answer, and whether it is a refusal.
        """
        try:
            if name in READ and not arguments:
                told = await asyncio.to_thread(READ[name][0], self._folder)
                return json.dumps(told, ensure_ascii=False), False
            verb = name if name not in READ else f"{name} with arguments"
            # what names the command is ours, whatever was sent; all else is for the agent to judge
            command = {**arguments, **new_command(NAME).model_dump(include={"id", "issued_at", "by"})}
            reply = await send(self._folder, verb, command, "advisor")
        except BadInputError as error:
            logger.warning("%s was not done: %s", name, error)
            return str(error), True
        if not reply.accepted:
            logger.warning("%s was refused: %s", name, reply.text)
        return reply.text, not reply.accepted


def make_server(folder: Path) -> Server[Any]:
    """The server of a campaign.

    Args:
        folder: of the campaign.
    """
    advisor = Advisor(folder)

    async def list_tools(context: Any, params: types.PaginatedRequestParams | None) -> types.ListToolsResult:
        return types.ListToolsResult(tools=advisor.tools())

    async def call_tool(context: Any, params: types.CallToolRequestParams) -> types.CallToolResult:
        text, refused = await advisor.call(params.name, dict(params.arguments or {}))
        return types.CallToolResult(content=[types.TextContent(type="text", text=text)], is_error=refused)

    return Server(
        "ptychopilot",
        version=version("ptychopilot"),
        instructions=INSTRUCTIONS,
        on_list_tools=list_tools,
        on_call_tool=call_tool,
    )


def serve(folder: Path) -> None:
    """Serve one client over standard input and output until it goes.

    Args:
        folder: of the campaign.

    Raises:
        BadInputError: it is none.
    """
    reading.status(folder)
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="%(asctime)s %(name)s: %(message)s")

    async def work() -> None:
        server = make_server(folder)
        async with stdio_server() as (incoming, outgoing):
            await server.run(incoming, outgoing, server.create_initialization_options())

    asyncio.run(work())
