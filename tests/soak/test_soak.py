"""What takes too long for `make test`: `make soak` tries the instrument's word on more faults, and for longer."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path

import psutil
import pytest
from damaged_ledgers import open_damaged, use
from hypothesis.stateful import run_state_machine_as_test
from safety_machine import SafetyMachine, thorough
from served_process import server as process_of
from served_stripes import Frames, make_plan

from instrument import InstrumentClient
from instrument.ledger import Ledger

pytestmark = pytest.mark.timeout(7200)
STEPS, DAMAGED, ACQUISITIONS, WARM = 100_000, 2000, 1000, 100
MOST_GROWTH = 0.05


def test_a_hundred_thousand_steps_of_faults_harm_no_specimen():
    run_state_machine_as_test(SafetyMachine, settings=thorough(STEPS))


def test_two_thousand_damaged_ledgers_never_open_with_fewer_electrons_booked(tmp_path: Path):
    closed, killed, scratch = tmp_path / "closed", tmp_path / "killed", tmp_path / "scratch"
    scratch.mkdir()
    books = Ledger(closed)
    use(books)
    shutil.copytree(closed, killed)
    books.close()
    print(f"\n{open_damaged([closed, killed], scratch, DAMAGED, 21)} of {DAMAGED} damaged ledgers refused")


class Held:
    """Memory, threads and files of some processes."""

    def __init__(self, *processes: psutil.Process) -> None:
        self.memory = [each.memory_info().rss for each in processes]
        self.threads = [each.num_threads() for each in processes]
        self.files = [each.num_fds() for each in processes]


async def test_a_thousand_acquisitions_leave_nothing_behind(tmp_path: Path):
    with process_of(tmp_path, adapter="striped_microscope:make_quick") as (server, ready):
        processes = psutil.Process(server.pid), psutil.Process()
        async with InstrumentClient(ready["control"], timeout=20, request_timeout=20) as client:
            await client.open_campaign("c", 1e12)
            async with client.lease():
                for number in range(ACQUISITIONS + 1):
                    if number == WARM:
                        before = Held(*processes)
                    plan = make_plan(f"a{number}", size=8)
                    await client.prepare(plan)
                    outcome = await client.acquire(plan.id, Frames())
                    assert (outcome.state, outcome.frames) == ("done", plan.n_positions)
                after = Held(*processes)
    growth = [now / then - 1 for now, then in zip(after.memory, before.memory, strict=True)]
    print(
        f"\n{ACQUISITIONS} acquisitions: memory of server and client {growth[0]:+.1%} {growth[1]:+.1%} since the {WARM}th "
        f"({after.memory[0] >> 20} and {after.memory[1] >> 20} MB), threads {before.threads} -> {after.threads}, "
        f"files and sockets {before.files} -> {after.files}"
    )
    assert max(growth) < MOST_GROWTH
    assert all(now <= then for now, then in zip(after.threads, before.threads, strict=True))
    assert all(now <= then for now, then in zip(after.files, before.files, strict=True))
    assert threading.active_count() < 20
