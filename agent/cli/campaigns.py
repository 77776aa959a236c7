"""The verbs that run campaigns: watch one, end it in order, say what came out."""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import webbrowser
from collections.abc import Awaitable
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from importlib.resources import as_file, files
from pathlib import Path
from typing import Protocol

from rich.console import Console

from agent.campaign.dry_run import dry_run as plan_only
from agent.campaign.grades import grade
from agent.campaign.pictures import drawing
from agent.campaign.rehearsal import preflight
from agent.campaign.run import resume_campaign, run_campaign
from agent.campaign.steering import Steering
from agent.campaign.stop import Control
from agent.cli.dashboard import dashboard_process
from agent.cli.results import RESULT, results, say, show_grades, show_plan, show_results, write_json
from agent.cli.simulator import again, instrument_process, simulator_command
from agent.cli.terminal import Terminal, has_display
from agent.config import CampaignConfig, load_config
from agent.errors import BadInputError
from agent.events import Observer
from agent.records import CampaignRecord
from agent.report import write_report
from agent.status.commands import CommandDesk
from agent.status.console import ConsoleProgress
from agent.status.contract import Autonomy
from agent.status.local import listening
from agent.status.metrics import measuring
from agent.status.mqtt import publishing
from agent.status.record_file import recording
from agent.storage.journal import INSTRUMENT, JOURNAL, load_campaign, load_link, require_new
from instrument import Description, InstrumentClient

MORE_ELECTRONS = (1.0, 1.4, 2.0, 2.8, 4.0, 5.6, 8.0, 11.0)
"""Factors of the demo's budget and largest dose, of which the first that allows and pays for its trials is taken."""


class Start(Protocol):
    """Begins a campaign, or goes on with one."""

    def __call__(self, *, observers: list[Observer], control: Control, steering: Steering) -> Awaitable[CampaignRecord]:
        """The campaign, when it has ended."""
        ...


@dataclass(frozen=True)
class Watched:
    """How a campaign is watched and steered, and who computes for it.

    Attributes:
        autonomy: to begin with.
        metrics: PORT of this machine or ADDRESS:PORT for Prometheus; None: no metrics.
        pool: folder of a facility whose reconstruction processes are used; None: one of its own.
        keep_safe: resumed without a person, who alone may take an instrument out of SAFE.
    """

    autonomy: Autonomy = "auto"
    metrics: str | None = None
    pool: Path | None = None
    keep_safe: bool = False


def run(
    path: Path,
    endpoint: str,
    *,
    dry_run: bool,
    out: Path | None,
    json_file: Path | None,
    keys: Path | None,
    patience: float,
    debug: bool,
    watched: Watched,
    twin: bool = True,
) -> None:
    """Run the campaign of a file.

    Args:
        path: campaign file.
        endpoint: control endpoint of the instrument, tcp://HOST:PORT.
        dry_run: only say what it would do and cost.
        out: campaign folder; None: a new one below `campaigns/`.
        json_file: where the result goes as JSON besides.
        keys: folder of CURVE keys; None: that of the file, or the default.
        patience: s to wait for an instrument that does not answer.
        debug: log to the terminal.
        watched: how it is watched and steered.
        twin: False simulates no columns meanwhile, whatever the file says.

    Raises:
        BadInputError: the file, the folder or `json_file` cannot be used; nothing was exposed.
        InstrumentUnavailableError: the instrument cannot be reached or refuses.
        StoppedError: an operator or a limit stopped the campaign; `resume` continues it.
    """
    _log_to_terminal(debug)
    config = load_config(path)
    if not twin:
        config = config.model_copy(update={"exploration": config.exploration.model_copy(update={"twin": False})})
    _check_json(json_file)
    if dry_run:
        console = Terminal()
        with ConsoleProgress(console) as progress:
            plan = asyncio.run(plan_only(config, endpoint, observers=[progress], keys=keys, patience=patience))
        show_plan(console, plan)
        if json_file is not None:
            write_json(json_file, plan.model_dump(mode="json"))
        return
    folder = out or _new_folder(config)
    require_new(folder)

    start = partial(run_campaign, config, endpoint, folder, keys=keys, patience=patience, pool=watched.pool)
    _conduct(start, config, folder, json_file, watched)


def plan(path: Path, endpoint: str, json_file: Path | None, keys: Path | None, patience: float) -> bool:
    """Grade what a campaign would do, and print it; nothing is reserved or exposed.

    Args:
        path: campaign file.
        endpoint: control endpoint of the instrument.
        json_file: where plan and grades go as JSON besides.
        keys: folder of CURVE keys; None: that of the file, or the default.
        patience: s to wait for an instrument that does not answer.

    Returns:
        Whether nothing is bad.

    Raises:
        BadInputError: the file is wrong, or the campaign not feasible.
        InstrumentUnavailableError: the instrument cannot be reached or refuses.
    """
    _log_to_terminal(False)
    config = load_config(path)
    _check_json(json_file)
    console = Terminal()
    with ConsoleProgress(console) as progress:
        found = asyncio.run(plan_only(config, endpoint, observers=[progress], keys=keys, patience=patience))
    grades = grade(found, config, shutil.disk_usage(Path.cwd()).free)
    show_plan(console, found)
    show_grades(console, grades)
    if json_file is not None:
        told = found.model_dump(mode="json") | {"grades": [each.model_dump(mode="json") for each in grades]}
        write_json(json_file, told)
    return all(each.verdict != "bad" for each in grades)


def resume(
    folder: Path,
    endpoint: str | None,
    *,
    json_file: Path | None,
    keys: Path | None,
    patience: float,
    debug: bool,
    watched: Watched,
) -> None:
    """Continue a campaign; an instrument that the agent had started itself is started again.

    Args:
        folder: of the campaign.
        endpoint: control endpoint of the instrument; None: where it was.
        json_file: where the result goes as JSON besides.
        keys: folder of CURVE keys; None: the one that was given before.
        patience: s to wait for an instrument that does not answer.
        debug: log to the terminal.
        watched: how it is watched and steered.

    Raises:
        BadInputError: `folder` is no campaign folder, or `json_file` cannot be written.
        InstrumentUnavailableError: the instrument cannot be reached or refuses.
        StoppedError: an operator or a limit stopped it again.
    """
    _log_to_terminal(debug)
    record, link = load_campaign(folder), load_link(folder)
    _check_json(json_file)

    def conduct(where: str | None) -> None:
        start = partial(
            resume_campaign,
            folder,
            endpoint=where,
            keys=keys,
            patience=patience,
            pool=watched.pool,
            keep_safe=watched.keep_safe,
        )
        _conduct(start, record.config, folder, json_file, watched)

    if record.state == "done" or endpoint is not None or link.command is None:
        conduct(endpoint)
    else:
        command = again(link.command, (folder / INSTRUMENT).resolve())
        with instrument_process(command, folder / INSTRUMENT / "log.txt") as own:
            conduct(own)


def demo(*, seed: int, out: Path | None, json_file: Path | None, browser: bool, debug: bool) -> None:
    """Run the example campaign against a simulated microscope in a process of its own.

    Args:
        seed: of the column that is drawn, of its noise and of the campaign.
        out: campaign folder; None: a new one below `campaigns/`.
        json_file: where the result goes as JSON besides.
        browser: whether to open the dashboard, and the report at the end.
        debug: log to the terminal.

    Raises:
        BadInputError: `out` or `json_file` cannot be used.
        InstrumentUnavailableError: the simulated microscope does not start.
        StoppedError: an operator stopped it; `resume` continues.
    """
    _log_to_terminal(debug)
    with as_file(files("agent.cli").joinpath("mos2.yaml")) as path:
        config = load_config(path).model_copy(update={"seed": seed})
    _check_json(json_file)
    folder = out or _new_folder(config)
    require_new(folder)
    state = folder / INSTRUMENT
    try:
        state.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        msg = f"--out {folder}: cannot be used as a campaign folder ({error.strerror})"
        raise BadInputError(msg) from error
    command = simulator_command(state.resolve(), "--column", f"random-{seed}", "--seed", str(seed))
    with instrument_process(command, state / "log.txt") as endpoint:
        config = asyncio.run(_for_this_column(config, endpoint))
        start = partial(run_campaign, config, endpoint, folder, command=command)
        with dashboard_process(folder) as url:
            if url is not None:
                print(f"dashboard: {url}  (later: ptychopilot dashboard --campaign {folder})", flush=True)
                if browser and has_display():
                    webbrowser.open(url)
            report = _conduct(start, config, folder, json_file, Watched())
    if browser and has_display():
        webbrowser.open(report.resolve().as_uri())


async def _for_this_column(config: CampaignConfig, endpoint: str) -> CampaignConfig:
    """The example with an expert and a budget that the column drawn by the seed can have; a change is said."""
    async with InstrumentClient(endpoint) as client:
        return await _with_possible_budget(_with_possible_expert(config, await client.describe()), client)


def _with_possible_expert(config: CampaignConfig, description: Description) -> CampaignConfig:
    if config.expert is None:
        return config
    step, defocus = config.expert
    largest = min(description.defocus.bounds[1], config.search.largest_defocus(description))
    if defocus <= largest:
        return config
    why = f"this column does not reach {defocus:g} Å, or its detector would not hold the probe"
    print(f"the expert's defocus is {largest:.4g} Å: {why}", flush=True)
    return config.model_copy(update={"expert": (step, largest)})


async def _with_possible_budget(config: CampaignConfig, client: InstrumentClient) -> CampaignConfig:
    """With more electrons and larger doses where a scan of this column cannot do with fewer."""
    low, high = config.search.dose or (None, None)
    for factor in MORE_ELECTRONS:
        larger = config.search.dose if high is None else (low, factor * high)
        search = config.search.model_copy(update={"dose": larger})
        tried = config.model_copy(update={"electrons": factor * config.electrons, "search": search})
        with suppress(BadInputError):
            await preflight(client, tried)
            if factor > 1:
                why = "the beam of this column stays on between lines, or its detector is slow"
                print(
                    f"the budget is {tried.electrons:.2g} electrons instead of {config.electrons:.2g}: {why}",
                    flush=True,
                )
            return tried
    return config  # the campaign says what is wrong


def make_report(folder: Path, out: Path | None, json_file: Path | None) -> None:
    """Write the report of a campaign in whatever state, and its result as JSON where that is wanted.

    Args:
        folder: of the campaign.
        out: folder for the report; None: the campaign's.
        json_file: where the result goes as JSON.

    Raises:
        BadInputError: `folder` is no campaign folder, or `json_file` cannot be written.
    """
    _check_json(json_file)
    record = load_campaign(folder)
    report = write_report(record, folder, out)
    print(f"report: {report.resolve()}")
    if json_file is not None:
        write_json(json_file, results(record, report))
        print(f"result (JSON): {json_file.resolve()}")


def _conduct(start: Start, config: CampaignConfig, folder: Path, json_file: Path | None, watched: Watched) -> Path:
    """Run a campaign under the eyes of console and broker; write report and JSON however it ended."""
    return asyncio.run(_watched(start, config, folder, json_file, watched))


def _has_ended(folder: Path) -> bool:
    """Whether a campaign was begun there, and nobody runs it now."""
    try:
        return (folder / JOURNAL).exists() and load_campaign(folder).state != "running"
    except BadInputError:
        return False


async def _watched(
    start: Start, config: CampaignConfig, folder: Path, json_file: Path | None, watched: Watched
) -> Path:
    console, control = Terminal(), Control()
    steering = Steering(control, watched.autonomy)
    desk = CommandDesk(steering.act)
    async with AsyncExitStack() as stack:
        observers: list[Observer] = []
        if config.mqtt is not None:
            # Left last: a broker that hangs must not keep the report from being written.
            publisher = await stack.enter_async_context(publishing(config.mqtt, desk))
            observers += [publisher, await stack.enter_async_context(drawing(folder, publisher.on_event))]
        if watched.metrics is not None:
            observers.append(await stack.enter_async_context(measuring(watched.metrics)))
        observers.append(await stack.enter_async_context(recording(folder)))
        observers.append(await stack.enter_async_context(listening(folder, desk)))
        try:
            with ConsoleProgress(console) as progress:
                await start(observers=[*observers, progress], control=control, steering=steering)
        except Exception:
            # stopped or failed halfway: what there is gets its report, then the error is told
            if _has_ended(folder):
                try:
                    _conclude(console, folder, json_file)
                except Exception as second:  # a full disk has no room for a report; the first error counts
                    say(console, f"no report: {second}")
                say(console, f"`ptychopilot resume {folder}` continues")
            raise
        return _conclude(console, folder, json_file)


def _conclude(console: Console, folder: Path, json_file: Path | None) -> Path:
    record = load_campaign(folder)
    report = write_report(record, folder)
    show_results(console, record, report)
    outcome = results(record, report)
    write_json(folder / RESULT, outcome)
    if json_file is not None:
        write_json(json_file, outcome)
        say(console, f"result (JSON):   {json_file.resolve()}")
    return report


def _new_folder(config: CampaignConfig) -> Path:
    return Path("campaigns") / f"{config.name}-{datetime.now():%Y%m%d-%H%M%S}"


def _check_json(path: Path | None) -> None:
    """A result that cannot be written is found out before the first electron."""
    if path is not None and (path.is_dir() or not os.access(path.absolute().parent, os.W_OK)):
        msg = f"--json {path}: cannot be written; name a file in a folder that exists and is yours"
        raise BadInputError(msg)


def _log_to_terminal(debug: bool) -> None:
    """What goes wrong on the way is in the folder's log; with --debug it is shown as well."""
    if debug:
        logging.basicConfig(level=logging.DEBUG, format="%(asctime)s %(name)s %(levelname)s: %(message)s")
        for chatty in ("matplotlib", "numba", "asyncio", "PIL"):
            logging.getLogger(chatty).setLevel(logging.WARNING)
    else:
        logging.getLogger().addHandler(logging.NullHandler())
