"""Run a campaign, resume one, or find out beforehand what one would cost."""

from __future__ import annotations

import asyncio
import getpass
import importlib.metadata
import platform
import secrets
import time
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Literal

import yaml
import zmq

from agent.campaign.loop import Loop, Session
from agent.campaign.pace import time_left
from agent.campaign.planning import DryRun, first_suggestion, needs_reference, plan_campaign
from agent.campaign.stop import Control, stop_on_signals
from agent.campaign.trials import ENDED, TrialBook
from agent.config import CampaignConfig
from agent.errors import BadInputError, InstrumentUnavailableError, StoppedError
from agent.events import (
    Audience,
    BudgetChanged,
    CampaignEnded,
    CampaignStarted,
    Event,
    Observer,
    PhaseChanged,
    TimeLeft,
    TrialChanged,
)
from agent.plugins import load_attribute
from agent.processing.worker import PROCESSING, ReconstructionWorker
from agent.records import CampaignLayout, CampaignRecord
from agent.status.log import LogObserver, log_file
from agent.storage.atomic import atomic_write
from agent.storage.journal import InstrumentLink, Journal, require_new, utc_now
from instrument import (
    AcquisitionPlan,
    InstrumentClient,
    InstrumentError,
    Rectangle,
    SafeStateError,
    StaleLeaseError,
    UnreachableError,
)
from instrument.background import Background

PATIENCE_S = 60.0
"""How long an instrument that does not answer is waited for."""
_ATTEMPT_S = 2.0
_PACKAGES = ("ptychopilot", "numpy", "scipy", "torch", "botorch", "numba", "h5py", "pyzmq", "cupy")


async def run_campaign(
    config: CampaignConfig,
    endpoint: str,
    folder: Path | str,
    *,
    observers: Iterable[Observer] = (),
    processing: str = PROCESSING,
    command: Sequence[str] | None = None,
    patience: float = PATIENCE_S,
    control: Control | None = None,
) -> CampaignRecord:
    """Run a new campaign to its end.

    Args:
        endpoint: control endpoint of the instrument, tcp://…
        folder: of the campaign; made if missing.
        observers: told what happens as it happens.
        processing: `module:function` that turns an acquisition into a score; see agent.processing.process.
        command: how to start the instrument again, where the caller has started it; kept for `resume`.
        patience: s to wait for an instrument that does not answer.
        control: to stop the campaign from outside.

    Raises:
        BadInputError: something in config or folder is wrong; nothing was exposed, no folder made.
        InstrumentUnavailableError: the instrument cannot be reached or refuses.
        StoppedError: an operator or a limit stopped it; `resume_campaign` goes on.
    """
    folder = _absolute(folder)
    control = control or Control()
    require_new(folder)
    load_attribute(processing)
    async with _connected(endpoint, "ptychopilot", patience, control) as client:
        description = await client.describe()
        exposed = [line.illuminated for line in await client.exposures() if line.dose > 0]
    layout = await asyncio.to_thread(plan_campaign, config, description, exposed)
    facts = {
        "config": config,
        "description": description,
        "campaign": f"{config.name}-{secrets.token_hex(3)}",
        "layout": layout,
        "link": InstrumentLink(endpoint=endpoint, command=None if command is None else tuple(command)),
        "processing": processing,
        "versions": installed_versions(),
        "started": utc_now(),
        "state": "running",
    }
    with Journal.create(folder, **facts) as journal:
        text = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
        atomic_write(folder / "campaign.yaml", text)
        return await _live(journal, observers, patience, control, resumed=False)


async def resume_campaign(
    folder: Path | str,
    *,
    endpoint: str | None = None,
    observers: Iterable[Observer] = (),
    patience: float = PATIENCE_S,
    control: Control | None = None,
) -> CampaignRecord:
    """Continue a campaign that was stopped or killed; one that is done is returned as it is.

    To resume is an operator's command: an instrument in SAFE is released, which it writes down with the operator's name.

    Args:
        endpoint: where the instrument is now; None: where it was.

    Raises: as run_campaign.
    """
    folder = _absolute(folder)
    with Journal.open(folder) as journal:
        record = journal.record()
        if record.state == "done":
            return record
        link = journal.read("link")
        if endpoint is not None and endpoint != link.endpoint:
            journal.write(link=link.model_copy(update={"endpoint": endpoint}))
        journal.write(state="running", reason="", finished="")
        return await _live(journal, observers, patience, control or Control(), resumed=True)


async def dry_run(config: CampaignConfig, endpoint: str, *, patience: float = PATIENCE_S) -> DryRun:
    """What a campaign would do and cost; nothing is reserved or exposed.

    Raises BadInputError where it is not feasible, InstrumentUnavailableError where the instrument is not there.
    """
    async with _connected(endpoint, "ptychopilot", patience, Control()) as client:
        description = await client.describe()
        exposed = [line.illuminated for line in await client.exposures() if line.dose > 0]
        layout = await asyncio.to_thread(plan_campaign, config, description, exposed)
        first = await asyncio.to_thread(first_suggestion, config, description, layout)
        left = config.electrons * (1 - config.exploration.share)

        async def duration(field: Rectangle, dose: float) -> float:
            settings = first.settings
            plan = AcquisitionPlan(
                id="dry-run",
                campaign="dry-run",
                region="dry-run",
                field=field,
                step=settings.step,
                defocus=settings.defocus,
                dose=min(dose, description.electrons_per_pattern[1] / settings.step**2),
            )
            return (await client.check(plan)).duration

        large = await duration(layout.final, left / layout.final.area)
        small = await duration(layout.exploration[0], first.settings.dose)
    return DryRun(
        trials=config.exploration.trials,
        acquisitions=_planned(config),
        electrons=config.electrons,
        exploration_electrons=config.exploration.share * config.electrons,
        final_dose=left / layout.final.area,
        duration=small * (config.exploration.trials + needs_reference(config))
        + large * (1 + (config.expert is not None)),
        first=first,
        layout=layout,
        description=description,
    )


def installed_versions() -> dict[str, str]:
    """Python and the packages whose versions a result may depend on."""
    versions = {"python": platform.python_version(), "platform": platform.platform()}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def _absolute(folder: Path | str) -> Path:
    return Path(folder).absolute()


async def _live(
    journal: Journal, observers: Iterable[Observer], patience: float, control: Control, *, resumed: bool
) -> CampaignRecord:
    """From the journal as it stands to the end of the campaign, or to a stop that is written down."""
    config: CampaignConfig = journal.read("config")
    layout: CampaignLayout = journal.read("layout")
    with log_file(journal.folder):
        audience = Audience([LogObserver(), *observers])
        book = TrialBook(journal, audience, config.electrons)
        audience.add(_PaceSetter(audience, book, config, layout))
        _announce(journal, audience, book, resumed=resumed)
        try:
            with stop_on_signals(control), _time_limit(control, config):
                await _until_done(journal, audience, book, patience, control, release=resumed)
        except BaseException as raised:
            error = _first_cause(raised)
            stopped = isinstance(error, StoppedError | InstrumentUnavailableError | asyncio.CancelledError)
            state: Literal["stopped", "failed"] = "stopped" if stopped else "failed"
            reason = str(error) or type(error).__name__
            with suppress(StoppedError):  # a full disk takes no note of itself
                journal.write(state=state, reason=reason, finished=utc_now())
            audience.tell(CampaignEnded(state=state, reason=reason, electrons_spent=book.spent))
            if error is raised:
                raise
            raise error from None
        journal.write(state="done", reason="", finished=utc_now())
        audience.tell(CampaignEnded(state="done", electrons_spent=book.spent))
    return journal.record()


async def _until_done(
    journal: Journal, audience: Audience, book: TrialBook, patience: float, control: Control, *, release: bool
) -> None:
    """Connect and work, again after every lost connection, until everything is done."""
    campaign: str = journal.read("campaign")
    async with ReconstructionWorker(journal.read("processing")) as worker:
        session = Session(journal, audience, control, worker, book, failures_after=book.next_number - 1)
        while True:
            link: InstrumentLink = journal.read("link")
            audience.tell(PhaseChanged(phase="connecting", message=link.endpoint))
            try:
                async with _connected(link.endpoint, campaign, patience, control) as client:
                    if release:
                        await _release(client, journal)
                        release = False
                    async with client.lease(), Background() as tasks:
                        await Loop(session, client, tasks).run()
                return
            except SafeStateError as error:
                msg = f"{error}; `ptychopilot resume {journal.folder}` does that"
                raise StoppedError(msg) from error
            except (UnreachableError, StaleLeaseError) as error:
                journal.note("connection lost", reason=str(error))
                control.check()
            except InstrumentError as error:
                msg = f"the instrument refuses: {error}"
                raise InstrumentUnavailableError(msg) from error


@asynccontextmanager
async def _connected(endpoint: str, holder: str, patience: float, control: Control) -> AsyncIterator[InstrumentClient]:
    """A client of the instrument, waited for up to `patience` s or until the campaign is to stop."""
    give_up = time.monotonic() + patience
    async with AsyncExitStack() as stack:
        while True:
            control.check()
            left = give_up - time.monotonic()
            client = InstrumentClient(
                endpoint, holder=holder, timeout=max(min(_ATTEMPT_S, left), 0.1), request_timeout=max(patience / 3, 1.0)
            )
            try:
                await stack.enter_async_context(client)
                break
            except UnreachableError as error:
                if isinstance(error.__cause__, zmq.ZMQError):
                    raise BadInputError(str(error)) from error
                if left <= 0:
                    msg = f"no instrument answers at {endpoint} (tried for {patience:g} s); is it running there?"
                    raise InstrumentUnavailableError(msg) from error
        yield client


async def _release(client: InstrumentClient, journal: Journal) -> None:
    """Take the instrument out of SAFE in the operator's name."""
    status = await client.status()
    if status.phase != "safe":
        return
    config: CampaignConfig = journal.read("config")
    operator = config.metadata.operator or getpass.getuser()
    journal.note("released from SAFE", operator=operator, reason=status.reason)
    await client.resume(operator, f"campaign {journal.read('campaign')} is resumed")


def _announce(journal: Journal, audience: Audience, book: TrialBook, *, resumed: bool) -> None:
    config: CampaignConfig = journal.read("config")
    audience.tell(
        CampaignStarted(
            campaign=journal.read("campaign"),
            folder=str(journal.folder),
            config=config,
            description=journal.read("description"),
            trials_planned=_planned(config),
            resumed=resumed,
        )
    )
    if resumed:
        for trial in book:
            audience.tell(TrialChanged(trial=trial))
        audience.tell(BudgetChanged(spent=book.spent, budget=config.electrons))


def _planned(config: CampaignConfig) -> int:
    return config.exploration.trials + needs_reference(config) + 1 + (config.expert is not None)


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


class _PaceSetter:
    """Estimates the time left whenever a trial has ended."""

    def __init__(self, audience: Audience, book: TrialBook, config: CampaignConfig, layout: CampaignLayout) -> None:
        self._audience = audience
        self._book = book
        self._config = config
        self._layout = layout

    def on_event(self, event: Event) -> None:
        """Tell the estimate where there is a new one."""
        if isinstance(event, TrialChanged) and event.trial.state in ENDED:
            seconds = time_left(self._book, self._config, self._layout)
            if seconds is not None:
                self._audience.tell(TimeLeft(seconds=seconds))
