"""A Hypothesis state machine of two agents, an operator, a network, a clock, a column and a server that is killed.

Everything between the wire and the microscope is real (requests, commands, guard, ledger, exposures); the clock, the network and
the microscope are in the test's hands. The microscope itself writes down what it has exposed and whether it was allowed to, and
after every step the books are compared with that.
"""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
import tempfile
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
from examples import check, description, detector, plan
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from instrument import AcquisitionPlan, BlankedError, Description, Frame, Health, PlanCheck, wire
from instrument.access import Sender
from instrument.audit import check_all
from instrument.commands import Commands
from instrument.errors import InstrumentError
from instrument.ledger import Ledger
from instrument.models import ELEMENTARY_CHARGE
from instrument.server import _make_guard
from instrument.terms import Terms

BUDGET, DOSE_LIMIT, CURRENT = 2500.0, 250.0, 10e-12
AGENTS = ("ann", "bob")
OPS = ("prepare", "start", "start", "outcome", "cancel", "abort", "lease.renew", "lease.release", "campaign", "resume")
MEMORY = Path("/dev/shm")


class Column:
    """Exposes a frame whenever the test lets it, and remembers what and whether it was allowed to."""

    def __init__(self) -> None:
        self.exposed: dict[str, float] = {}
        self.complaints: list[str] = []
        self.allowed = lambda: "nobody has been asked"
        self.permits = 0
        self.fault = ""
        self._stopped = False
        self._seconds = 0.0
        self._gate = asyncio.Event()

    async def describe(self) -> Description:
        small = detector(8, 12.0)
        return description(detector=small, region_dose_limit=DOSE_LIMIT, electrons_per_pattern=(1.0, 1e4))

    async def check(self, plan: AcquisitionPlan) -> PlanCheck:
        return check(plan, overhead=7.0)

    async def acquire(self, plan: AcquisitionPlan) -> AsyncIterator[Frame]:
        if plan.id in self.exposed:
            self.complaints.append(f"{plan.id} was exposed a second time")
        self.exposed[plan.id] = 0.0
        self._stopped = False
        for index in range(plan.n_positions):
            while not self.permits and not self._stopped:
                self._gate.clear()
                await self._gate.wait()
            if self._stopped:
                raise BlankedError("blanked")
            self.permits -= 1
            if wrong := self.allowed():
                self.complaints.append(f"{plan.id}: {wrong}")
            self.exposed[plan.id] += plan.electrons_per_pattern
            self._seconds += plan.electrons_per_pattern * ELEMENTARY_CHARGE / CURRENT
            fault, self.fault = self.fault, ""
            if fault == "raises":
                raise OSError("the driver has lost its camera")
            yield Frame(0 if fault == "repeats" else index, np.ones((8, 8), np.uint16))

    def let(self, frames: int) -> None:
        self.permits = frames
        self._gate.set()

    def blank(self) -> None:
        self._stopped = True
        self._gate.set()

    async def health(self) -> Health:
        return Health(blanked=self._stopped)

    def beam_time(self) -> float:
        return self._seconds


class Receiver:
    """Stands where the data socket is; takes every frame while there is somebody."""

    def __init__(self) -> None:
        self.count, self.departures = 1, 0

    def receivers(self) -> int:
        return self.count

    async def send(self, message: bytes, give_up: Any) -> bool:
        return bool(self.count) or not give_up()


class SafetyMachine(RuleBasedStateMachine):
    """The steps; each holds the invariants."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.folder = Path(tempfile.mkdtemp(dir=MEMORY if MEMORY.is_dir() else None))
        self.now = 100.0
        self.column = Column()
        self.tokens: dict[str, wire.LeaseToken] = {}
        self.late: list[tuple[str, bytes]] = []
        self.safe = False
        self.ledger: Ledger | None = None
        self.running: list[asyncio.Task[Any]] = []

    @initialize(name=st.sampled_from(AGENTS))
    def start(self, name: str) -> None:
        self._start_server()
        self.begin_in_order(name)

    def _start_server(self) -> None:
        self.receiver = Receiver()
        self.loop.run_until_complete(self._start())

    async def _start(self) -> None:
        self.ledger = Ledger(self.folder)
        terms = Terms(self.column)
        self.guard = _make_guard(terms, self.ledger, lambda: self.now)
        self.column.allowed = self._wrong
        self.commands = Commands(
            terms,
            self.ledger,
            self.guard,
            self.receiver,  # type: ignore[arg-type]
            self,  # type: ignore[arg-type]
            greeting={},
            stall_timeout=2.0,
            clock=lambda: self.now,
        )

    def create_task(self, coroutine: Any) -> asyncio.Task[Any]:
        """What `Commands` wants of a home of tasks."""
        self.running.append(self.loop.create_task(coroutine))
        return self.running[-1]

    async def _cancel(self) -> None:
        for task in self.running:
            task.cancel()
        await asyncio.gather(*self.running, return_exceptions=True)
        self.running.clear()

    def _wrong(self) -> str:
        status = self.guard.status()
        if not status.holder or status.lease_left <= 0:
            return "the beam is on and nobody has a lease"
        return "" if status.phase == "exposing" and not status.suspended else f"the beam is on in {status.phase}"

    def _settle(self, *requests: asyncio.Task[Any]) -> None:
        async def turn() -> None:
            if requests:
                await asyncio.wait(requests, timeout=10)
            for _ in range(12):
                await asyncio.sleep(0)

        self.loop.run_until_complete(turn())
        self.guard.tick()

    def _deliver(self, name: str, message: bytes) -> Any:
        request, buffers = wire.decode_request([b"", wire.MAGIC + bytes([wire.MAJOR]), message])
        sender = Sender(name, "operator" if name == "olga" else "agent")

        async def handle() -> Any:
            sender.require(request.op)
            return await self.commands.carry_out(request, buffers, sender)

        task = self.loop.create_task(handle())
        self._settle(task)
        try:
            result = task.result()
        except InstrumentError:
            return None
        if request.op == "resume":
            assert name == "olga", "only an operator may release from SAFE"
            self.safe = False
        return result

    def _send(self, name: str, op: str, fate: str, **arguments: Any) -> None:
        request = wire.Request(id="q", op=op, args=arguments, lease=self.tokens.get(name), deadline=self.now + 5)
        message = wire.encode(request)[2]
        if fate == "late":
            self.late.append((name, message))
        if fate in ("lost", "late"):
            return
        for _ in range(2 if fate == "twice" else 1):
            result = self._deliver(name, message)
            if op == "lease.acquire" and result and fate != "no reply":
                self.tokens[name] = wire.LeaseToken(holder=name, fence=result["fence"])

    fates = st.sampled_from(("well", "well", "well", "well", "well", "twice", "lost", "late", "no reply"))
    names = st.sampled_from(AGENTS)

    @rule(name=names, fate=fates, ttl=st.sampled_from((1.0, 10.0)))
    def take_lease(self, name: str, fate: str, ttl: float) -> None:
        self.tokens.pop(name, None) if fate == "well" else None
        self._send(name, "lease.acquire", fate, holder=name, ttl=ttl)

    @rule(name=names)
    def begin_in_order(self, name: str) -> None:
        """What an agent does first, so that most runs come to expose something."""
        self.tokens.pop(name, None)
        self._deliver("olga", wire.encode(wire.Request(id="q", op="resume", args=_RELEASE))[2])
        self._send(name, "lease.acquire", "well", holder=name, ttl=10.0)
        self._send(name, "campaign", "well", campaign="c", electrons=BUDGET)

    numbers = st.integers(0, 9)

    @rule(name=names, number=numbers, frames=st.integers(0, 4))
    def expose(self, name: str, number: int, frames: int) -> None:
        """Whoever has the lease, and otherwise somebody after an operator's release, exposes all or a part."""
        holder = self.guard.status().holder
        if not holder:
            self.begin_in_order(name)
        for op in ("prepare", "start"):
            self._send(holder or name, op, "well", **_arguments(op, number, 100.0))
        self.let_frames_come(frames)

    @rule(number=numbers, frames=st.integers(1, 4), fate=fates)
    def expose_more(self, number: int, frames: int, fate: str) -> None:
        """The holder of the lease does; its start may come twice, late or never."""
        if name := self.guard.status().holder:
            self._send(name, "prepare", "well", **_arguments("prepare", number, 60.0))
            self._send(name, "start", fate, **_arguments("start", number, 60.0))
            self.let_frames_come(frames)

    @rule(
        name=names, op=st.sampled_from(OPS), fate=fates, number=st.integers(0, 9), dose=st.sampled_from((100.0, 60.0))
    )
    def ask(self, name: str, op: str, fate: str, number: int, dose: float) -> None:
        self._send(name, op, fate, **_arguments(op, number, dose))

    @rule(fate=fates)
    def release(self, fate: str) -> None:
        self.tokens.pop("olga", None)
        self._send("olga", "resume", fate, **_RELEASE)

    @precondition(lambda self: self.late)
    @rule(which=st.integers(0, 50))
    def something_late_arrives(self, which: int) -> None:
        self._deliver(*self.late.pop(which % len(self.late)))

    @rule(frames=st.integers(1, 5))
    def let_frames_come(self, frames: int) -> None:
        self.column.let(frames)
        self._settle()
        self.column.permits = 0

    @rule(seconds=st.sampled_from((0.01, 0.4, 3.0, 11.0)))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        self.guard.tick()
        self.commands.supervise()
        self._settle()

    @rule(op=st.sampled_from(("blank", "stop")))
    def by_hand(self, op: str) -> None:
        self.guard.go_safe("blanked by hand") if op == "blank" else self.guard.stop("stopped by hand")
        self._settle()

    @rule(reason=st.sampled_from(("vacuum", "")))
    def the_column_trips_or_recovers(self, reason: str) -> None:
        self.guard.suspend(reason)
        self._settle()

    @rule(fault=st.sampled_from(("raises", "repeats")))
    def the_driver_fails_at_its_next_frame(self, fault: str) -> None:
        self.column.fault = fault

    @rule()
    def the_receiver_goes_and_another_comes(self) -> None:
        self.receiver.departures += 1
        self.commands.supervise()
        self._settle()

    @rule(full=st.booleans())
    def the_disk_fills_or_is_freed(self, full: bool) -> None:
        assert self.ledger is not None
        pages = self.ledger._db.execute("PRAGMA page_count").fetchone()[0] if full else 1 << 30
        self.ledger._db.execute(f"PRAGMA max_page_count={pages}")
        self.commands.supervise()
        self._settle()

    @rule()
    def the_server_is_killed_and_starts_again(self) -> None:
        assert self.ledger is not None
        exposing = self.guard.exposing
        self.loop.run_until_complete(self._cancel())
        self.ledger.close()
        self.column.fault = ""
        self._start_server()
        assert not exposing or self.guard.status().phase == "safe", "what ran when it was killed asks for a person"

    @invariant()
    def the_beam_is_on_only_where_it_may_be_and_for_everything_once(self) -> None:
        assert not self.column.complaints

    @invariant()
    def safe_is_left_only_by_an_operator(self) -> None:
        if self.ledger is not None:
            in_safe = self.guard.status().phase == "safe"
            assert in_safe or not self.safe
            self.safe = in_safe

    @invariant()
    def the_books_hold_what_was_exposed_and_no_more_than_the_budget(self) -> None:
        if self.ledger is None or not self.ledger._db.execute("SELECT 1 FROM campaigns").fetchone():
            return
        account = self.ledger.account("c")
        exposed = sum(self.column.exposed.values())
        unbooked = sum(each.electrons for each in self.commands._ends._unbooked.values())
        assert account.spent + account.reserved >= exposed * (1 - 1e-9) - unbooked
        assert account.spent + account.reserved <= BUDGET
        for number in range(3):
            assert self.ledger.accumulated_dose(_plan(number, 1.0).field) <= DOSE_LIMIT * (1 + 1e-9)

    def teardown(self) -> None:
        self.loop.run_until_complete(self._cancel())
        self.loop.run_until_complete(self.loop.shutdown_default_executor())
        self.loop.close()
        if self.ledger is not None:
            self.ledger.close()
            with closing(sqlite3.connect(self.ledger.path)) as database:
                *_, (_, wrong) = check_all(database, self.ledger.path)
            assert not wrong
        shutil.rmtree(self.folder)


_RELEASE = {"operator": "Olga", "reason": "looked at it"}


def _plan(number: int, dose: float) -> AcquisitionPlan:
    """One of three places, so that they get more than is good for them."""
    return plan(f"a{number}", 2.0, 10.0 * (number % 3), 0.0, dose=dose)


def _arguments(op: str, number: int, dose: float) -> dict[str, Any]:
    match op:
        case "prepare":
            return {"plan": _plan(number, dose).model_dump(mode="json")}
        case "start" | "outcome" | "cancel" | "abort":
            return {"id": f"a{number}"}
        case "campaign":
            return {"campaign": "c", "electrons": BUDGET}
        case "resume":
            return _RELEASE
    return {}


def thorough(steps: int) -> settings:
    """As many steps as that, in runs of fifty."""
    quiet = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]
    return settings(
        max_examples=max(1, steps // 50),
        stateful_step_count=50,
        deadline=None,
        derandomize=True,
        suppress_health_check=quiet,
        database=None,
    )
