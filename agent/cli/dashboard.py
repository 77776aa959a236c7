"""`ptychopilot dashboard` and `ptychopilot ctl`: watch and steer a campaign, from a browser or a shell."""

from __future__ import annotations

import asyncio
import importlib.util
import logging
import os
import selectors
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from agent.cli.terminal import has_display
from agent.errors import BadInputError
from agent.facility.queue import QUEUE, running_campaign
from agent.status.broker import parse_broker
from agent.status.contract import Reply

START_TIMEOUT = 20.0
"""s until a dashboard must have said where it is."""
DISCOVERY_S = 3.0
"""s in which an agent on a broker must have been seen."""


def show(
    mqtt: str | None,
    campaign: Path | None,
    host: str,
    port: int,
    *,
    browser: bool,
    passwords: tuple[Path | None, Path | None],
    proxy: tuple[list[str], str, str],
    broker: dict[str, Path | None],
    debug: bool = False,
) -> None:
    """Serve the page until Ctrl-C.

    Args:
        mqtt: address of a broker; None: a folder is shown.
        campaign: a campaign's folder, or one that holds some; None: `campaigns`.
        host, port: where; port 0: a free one.
        browser: whether to open it in one.
        passwords: files of the viewers' and the operators' password.
        proxy: addresses of one that knows who somebody is, its header with groups, the group of operators.
        broker: files for `parse_broker`.
        debug: log to the terminal.

    Raises:
        BadInputError: what to show, where, or for whom cannot be used.
    """
    _require_nicegui()
    from agent.dashboard.proxy import Proxy
    from agent.dashboard.roles import Passwords
    from agent.dashboard.server import Address, serve
    from agent.dashboard.sources import BrokerSource, FolderSource, Source

    logging.basicConfig(level=logging.INFO if debug else logging.WARNING, format="%(asctime)s %(name)s: %(message)s")
    if mqtt is not None and campaign is not None:
        raise BadInputError("--mqtt and --campaign: give one of the two")
    address = Address(host, port)
    keys = Passwords.from_files(*passwords, loopback=address.loopback, proxied=bool(proxy[0]))
    behind = Proxy.at(*proxy) if proxy[0] else None
    source: Source
    source = (
        BrokerSource(parse_broker(mqtt, **broker)) if mqtt is not None else FolderSource(campaign or Path("campaigns"))
    )
    serve(source, keys, address, browser=browser and has_display(), proxy=behind)


def control(
    verb: str,
    mqtt: str | None,
    campaign: Path | None,
    broker: dict[str, Path | None],
    job: int | None = None,
    **fields: Any,
) -> None:
    """Give a command to a running campaign and print what became of it.

    Args:
        verb: see agent.status.contract.Verb.
        mqtt: address of a broker; None: a folder's agent is asked directly.
        campaign: its folder, or that of the facility which runs it; over MQTT a part of its topic, where there are several.
        broker: files for `parse_broker`.
        job: which of a facility's.
        fields: of agent.status.contract.Command.

    Raises:
        BadInputError: there is nobody to command, or it is refused.
    """
    if mqtt is None and campaign is not None and (campaign / QUEUE).is_file():
        campaign = running_campaign(campaign, job)
    from agent.status.local import NoAnswerError

    try:
        reply = asyncio.run(_control(verb, mqtt, campaign, broker, fields))
    except NoAnswerError as error:
        if verb != "pause" or campaign is None:
            raise
        from agent.dashboard.commanding import blank_instead

        raise BadInputError(asyncio.run(blank_instead(campaign, error))) from error
    if not reply.accepted:
        raise BadInputError(f"{verb} was refused: {reply.text}")
    print(reply.text)


def advise(campaign: Path | None) -> None:
    """Serve one language model until it goes.

    Args:
        campaign: the campaign's folder.

    Raises:
        BadInputError: it is none, or the protocol is not installed.
    """
    if campaign is None:
        raise BadInputError("which campaign? give --campaign DIR")
    if importlib.util.find_spec("mcp") is None:
        msg = "the Model Context Protocol is not installed; pip install 'ptychopilot[mcp]' adds it"
        raise BadInputError(msg)
    from agent.advisor.server import serve

    serve(campaign)


@contextmanager
def dashboard_process(folder: Path) -> Iterator[str | None]:
    """A dashboard of a campaign folder in a process of its own while the block lasts; yields its address.

    Args:
        folder: of the campaign, which need not have begun.

    Yields:
        The address; None where there can be no dashboard.
    """
    if importlib.util.find_spec("nicegui") is None:
        yield None
        return
    code = "import sys; from agent.cli import main; main(sys.argv[1:])"
    command = [sys.executable, "-c", code, "dashboard", "--campaign", str(folder), "--port", "0", "--no-browser"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        yield _address(process)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdout is not None:
            process.stdout.close()


def _address(process: subprocess.Popen[bytes]) -> str | None:
    assert process.stdout is not None
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        if not selector.select(START_TIMEOUT):
            return None
    line = process.stdout.readline().decode()
    return line.partition(": ")[2].strip() or None


async def _control(
    verb: str, mqtt: str | None, campaign: Path | None, broker: dict[str, Path | None], fields: dict[str, Any]
) -> Reply:
    from agent.status.commands import new_command
    from agent.status.local import send

    by = f"{os.environ.get('USER', 'an operator')} (ctl)"
    if mqtt is None:
        if campaign is None:
            raise BadInputError("whom to command? give --campaign DIR, or --mqtt URL")
        return await send(campaign, verb, new_command(by, **fields))
    from agent.dashboard.sources import BrokerSource

    source = BrokerSource(parse_broker(mqtt, **broker))
    listening = asyncio.create_task(source.run())
    try:
        loop = asyncio.get_running_loop()
        give_up = loop.time() + DISCOVERY_S
        while True:
            found = [view for key, view in source.views.items() if campaign is None or str(campaign) in key]
            if found and found[0].online is not None:
                break
            if loop.time() > give_up:
                raise BadInputError(f"{mqtt}: no agent is seen there")
            await asyncio.sleep(0.05)
        if len(found) > 1:
            roots = ", ".join(view.key for view in found)
            raise BadInputError(f"several agents are there: {roots}; name one with --campaign PART-OF-ITS-TOPIC")
        return await source.command(found[0], verb, by, **fields)
    finally:
        listening.cancel()
        await asyncio.wait([listening])


def _require_nicegui() -> None:
    if importlib.util.find_spec("nicegui") is None:
        msg = "the dashboard is not installed; pip install 'ptychopilot[dashboard]' adds it"
        raise BadInputError(msg)
