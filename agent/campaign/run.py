"""Run a campaign, or resume one."""

from __future__ import annotations

import asyncio
import importlib.metadata
import platform
import secrets
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Literal, overload

import yaml

from agent.campaign.connection import PATIENCE_S, connected, release, waiting
from agent.campaign.digital_twin import DigitalTwin
from agent.campaign.instrument_watch import InstrumentWatch
from agent.campaign.live import LivePictures
from agent.campaign.loop import Loop
from agent.campaign.pace import PaceSetter
from agent.campaign.planning import acquisitions_planned
from agent.campaign.rehearsal import preflight, rehearse
from agent.campaign.session import Session
from agent.campaign.steering import Steering
from agent.campaign.stop import Control, stop_on_signals
from agent.campaign.trials import TrialBook
from agent.config import CampaignConfig
from agent.errors import InstrumentUnavailableError, StoppedError
from agent.events import (
    Audience,
    BudgetChanged,
    CampaignEnded,
    CampaignStarted,
    Observer,
    PhaseChanged,
    TrialChanged,
)
from agent.plugins import load_attribute
from agent.processing.child import JobRunner, ReconstructionProcess
from agent.processing.pool import LeasedProcess
from agent.records import CampaignRecord
from agent.status.log import LogObserver, log_file
from agent.storage.atomic import atomic_write
from agent.storage.facts import CampaignFacts, InstrumentLink
from agent.storage.journal import Journal, require_new, utc_now
from instrument import InstrumentError, SafeStateError, StaleLeaseError, UnreachableError
from instrument.background import Background

_PACKAGES = ("ptychopilot", "numpy", "scipy", "torch", "botorch", "numba", "h5py", "pyzmq", "cupy")


@dataclass(frozen=True)
class _Ways:
    """How a campaign goes to instrument and reconstruction; see resume_campaign."""

    patience: float
    pool: Path | None
    release_safe: bool = False


async def run_campaign(
    config: CampaignConfig,
    endpoint: str,
    folder: Path | str,
    *,
    observers: Iterable[Observer] = (),
    processing: str | None = None,
    command: Sequence[str] | None = None,
    keys: Path | None = None,
    patience: float = PATIENCE_S,
    control: Control | None = None,
    steering: Steering | None = None,
    pool: Path | None = None,
) -> CampaignRecord:
    """Run a new campaign to its end.

    Args:
        config: what the campaign is told.
        endpoint: control endpoint of the instrument, tcp://…
        folder: of the campaign; made if missing.
        observers: told what happens as it happens.
        processing: `module:function` that turns an acquisition into a score; None: that of config.
        command: starts the instrument again, where the caller has started it; kept for `resume`.
        keys: folder of CURVE keys (`instrument.ClientKeys.in_folder`), kept for `resume`; None: that of the configuration, or
            else, for an instrument on another machine, ~/.config/ptychopilot/keys where it exists.
        patience: s to wait for an instrument that does not answer.
        control, steering: to stop and to steer the campaign from outside; the second is made with the first.
        pool: folder of a facility whose reconstruction processes are used; None: one of its own.

    Returns:
        The campaign as its journal tells it.

    Raises:
        BadInputError: something in config or folder is wrong; nothing was exposed, no folder made.
        InstrumentUnavailableError: the instrument cannot be reached or refuses.
        StoppedError: an operator or a limit stopped it; `resume_campaign` goes on.
    """
    folder = _absolute(folder)
    control, observers = control or Control(), list(observers)
    require_new(folder)
    load_attribute(processing := processing or config.processing)
    command = None if command is None else tuple(command)
    link = InstrumentLink(endpoint=endpoint, command=command, keys=_absolute(keys or config.keys))
    async with connected(link, "ptychopilot", patience, control, waiting(Audience(observers))) as client:
        ready = await preflight(client, config)
    facts = CampaignFacts(
        config=ready.config,
        description=ready.description,
        campaign=f"{config.name}-{secrets.token_hex(3)}",
        layout=ready.layout,
        prices=ready.prices,
        link=link,
        processing=processing,
        versions=installed_versions(),
        started=utc_now(),
        state="running",
    )
    with Journal.create(folder, facts) as journal:
        _write_campaign_file(folder, ready.config)
        return await _live(journal, observers, _Ways(patience, pool), control, steering, resumed=False)


async def resume_campaign(
    folder: Path | str,
    *,
    endpoint: str | None = None,
    observers: Iterable[Observer] = (),
    keys: Path | None = None,
    patience: float = PATIENCE_S,
    control: Control | None = None,
    steering: Steering | None = None,
    pool: Path | None = None,
    keep_safe: bool = False,
) -> CampaignRecord:
    """Continue a campaign that was stopped or killed; one that is done is returned as it is.

    To resume is an operator's command: an instrument in SAFE is released, which it writes down with the operator's name.

    Args:
        folder: of the campaign.
        endpoint: where the instrument is now; None: where it was.
        observers: see run_campaign.
        keys: folder of CURVE keys; None: the one that was given before.
        patience: see run_campaign.
        control, steering, pool: see run_campaign.
        keep_safe: leave an instrument in SAFE that is there, and stop; for whoever resumes without a person.

    Returns:
        The campaign as its journal tells it.

    Raises:
        BadInputError: the folder holds no campaign, or another agent runs it.
        InstrumentUnavailableError: the instrument cannot be reached or refuses.
        StoppedError: an operator or a limit stopped it again.
    """
    folder = _absolute(folder)
    with Journal.open(folder) as journal:
        if journal.facts.state == "done":
            return journal.record()
        facts, link = journal.facts, journal.facts.link
        await asyncio.to_thread(rehearse, facts.config, facts.description, facts.layout)
        now = link.model_copy(update={"endpoint": endpoint or link.endpoint, "keys": _absolute(keys) or link.keys})
        if now != link:
            journal.write(link=now)
        journal.write(state="running", reason="", finished="")
        ways = _Ways(patience, pool, release_safe=not keep_safe)
        return await _live(journal, observers, ways, control or Control(), steering, resumed=True)


def installed_versions() -> dict[str, str]:
    """Python and the packages whose versions a result may depend on."""
    versions = {"python": platform.python_version(), "platform": platform.platform()}
    return versions | {package: version for package in _PACKAGES if (version := _installed(package)) is not None}


@cache
def _installed(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


@overload
def _absolute(folder: Path | str) -> Path: ...
@overload
def _absolute(folder: Path | str | None) -> Path | None: ...
def _absolute(folder: Path | str | None) -> Path | None:
    return None if folder is None else Path(folder).absolute()


def _write_campaign_file(folder: Path, config: CampaignConfig) -> None:
    text = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
    atomic_write(folder / "campaign.yaml", text)


async def _live(
    journal: Journal,
    observers: Iterable[Observer],
    ways: _Ways,
    control: Control,
    steering: Steering | None,
    *,
    resumed: bool,
) -> CampaignRecord:
    """From the journal as it stands to the end of the campaign, or to a stop that is written down."""
    with log_file(journal.folder):
        audience = Audience([LogObserver(), *observers])
        book = TrialBook(journal, audience)
        steering = steering or Steering(control)
        session = Session(journal, audience, control, book, steering, failures_after=book.next_number - 1)
        audience.add(PaceSetter(session))
        _announce(session, resumed=resumed)
        steering.attach(journal, audience)
        try:
            with stop_on_signals(control), _time_limit(control, session.config):
                await _until_done(session, ways)
            steering.detach()
        except BaseException as raised:
            steering.detach()
            error = _first_cause(raised)
            stopped = isinstance(error, StoppedError | InstrumentUnavailableError | asyncio.CancelledError)
            state: Literal["stopped", "failed"] = "stopped" if stopped else "failed"
            reason = str(error) or type(error).__name__
            with suppress(StoppedError):  # a full disk takes no note of itself
                journal.write(state=state, reason=reason, finished=utc_now())
            audience.tell(CampaignEnded(state=state, reason=reason, electrons_spent=book.budget.spent))
            if error is raised:
                raise
            raise error from None
        journal.write(state="done", reason="", finished=utc_now())
        audience.tell(CampaignEnded(state="done", electrons_spent=book.budget.spent))
    return journal.record()


async def _until_done(session: Session, ways: _Ways) -> None:
    """Connect and work, again after every lost connection, until everything is done."""
    journal, control = session.journal, session.control
    link, processing, release_safe = journal.facts.link, journal.facts.processing, ways.release_safe
    watch = InstrumentWatch(session.audience)
    async with AsyncExitStack() as stack:
        child: JobRunner
        if ways.pool is not None:
            child = LeasedProcess(ways.pool, processing)
        else:
            child = await stack.enter_async_context(ReconstructionProcess(processing))
        live = await stack.enter_async_context(LivePictures(session, shared=ways.pool is not None))
        twin = await stack.enter_async_context(DigitalTwin(session, shared=ways.pool is not None))
        while True:
            session.audience.tell(PhaseChanged(phase="connecting", message=link.endpoint))
            try:
                async with connected(
                    link, journal.facts.campaign, ways.patience, control, waiting(session.audience)
                ) as client:
                    if release_safe:
                        await release(client, journal)
                        release_safe = False
                    async with client.lease(), Background() as tasks:
                        tasks.create_task(watch.run(client))
                        with session.steering.able_to_blank(client.blank):
                            try:
                                await Loop(session, child, client, tasks, live, twin).run()
                            except StoppedError:
                                await watch.look_once_more(client)
                                raise
                return
            except SafeStateError as error:
                watch.tell("safe", str(error.detail.get("reason", error)))
                msg = f"{error}; `ptychopilot resume {journal.folder}` does that"
                raise StoppedError(msg) from error
            except (UnreachableError, StaleLeaseError) as error:
                journal.note("connection lost", reason=str(error))
                if isinstance(error, UnreachableError):
                    watch.tell("unreachable", str(error))
                control.check()
            except InstrumentError as error:
                msg = f"the instrument refuses: {error}"
                raise InstrumentUnavailableError(msg) from error


def _announce(session: Session, *, resumed: bool) -> None:
    facts, audience = session.journal.facts, session.audience
    audience.tell(
        CampaignStarted(
            campaign=facts.campaign,
            folder=str(session.folder),
            config=facts.config,
            description=facts.description,
            trials_planned=acquisitions_planned(facts.config),
            resumed=resumed,
        )
    )
    if resumed:
        for trial in session.book:
            audience.tell(TrialChanged(trial=trial))
        budget = session.book.budget
        audience.tell(BudgetChanged(spent=budget.spent, budget=budget.total))


@contextmanager
def _time_limit(control: Control, config: CampaignConfig) -> Iterator[None]:
    """After `time_limit` seconds of this session the running acquisition is the last one."""
    if config.time_limit is None:
        yield
        return
    reason = f"the time limit of {config.time_limit:g} s is over"
    timer = asyncio.get_running_loop().call_later(config.time_limit, partial(control.stop, reason, now=False))
    try:
        yield
    finally:
        timer.cancel()


def _first_cause(error: BaseException) -> BaseException:
    """The first error of a group of tasks that fell together."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
