"""What takes too long for `make test`: `make soak` tries the instrument's word on more faults, and for longer."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from damaged_ledgers import open_damaged, use
from fail_points import VARIABLE
from hypothesis.stateful import run_state_machine_as_test
from safety_machine import SafetyMachine, thorough
from served_process import server as process_of
from served_small_world import (
    PROCESSING,
    agent_process,
    assert_no_region_exposed_twice,
    config,
    ledger,
    serving,
)
from served_stripes import Frames, make_plan

from agent import load_campaign, resume_campaign, run_campaign
from agent.errors import AgentError
from agent.storage.journal import JOURNAL, load_history
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


@pytest.fixture
def fatal(monkeypatch: pytest.MonkeyPatch) -> Callable[[int | None], None]:
    """Sets the fail point of the processes that are started next."""

    def choose(number: int | None) -> None:
        monkeypatch.setenv(VARIABLE, str(number or ""))

    return choose


async def test_an_agent_killed_at_every_boundary_goes_on_as_if_nothing_had_been(
    tmp_path: Path, world: Path, fatal: Callable[[int | None], None]
):
    file, number, code = tmp_path / "config.json", 0, -9
    file.write_text(config(expert=None).model_dump_json())
    while code == -9:
        number += 1
        folder = tmp_path / f"campaign-{number}"
        with serving(tmp_path / f"server-{number}") as server:
            fatal(number)
            code = await agent_process("run", folder, server.endpoint, file, "")
            fatal(None)
            written = len(load_history(folder)) if (folder / JOURNAL).exists() and number > 1 else 0
            verb = "resume" if written else "run"
            if verb == "run":
                shutil.rmtree(folder, ignore_errors=True)
            assert await agent_process(verb, folder, server.endpoint, file, "") == 0, number
            assert len(load_history(folder)) >= written
            assert load_campaign(folder).state == "done"
            exposures = await ledger(server.endpoint)
            assert_no_region_exposed_twice(exposures, world)
            (world / "exposures.jsonl").unlink()
        assert code in (0, -9), (number, code)
    print(f"\n{number - 1} boundaries of the agent")
    assert number > 40


async def test_a_server_killed_at_every_boundary_is_started_again_and_the_campaign_goes_on(
    tmp_path: Path, world: Path, fatal: Callable[[int | None], None]
):
    number, died = 0, True
    while died:
        number += 1
        folder = tmp_path / f"campaign-{number}"
        fatal(number)
        try:
            with serving(tmp_path / f"server-{number}") as server:
                fatal(None)
                try:
                    await run_campaign(config(expert=None), server.endpoint, folder, processing=PROCESSING, patience=1)
                except AgentError:
                    assert server.process.wait() == -9, number
                died = server.process.poll() is not None
                if died:
                    server.start()
                while not (folder / JOURNAL).exists() or load_campaign(folder).state != "done":
                    if (folder / JOURNAL).exists():
                        await resume_campaign(folder, endpoint=server.endpoint)
                    else:
                        await run_campaign(config(expert=None), server.endpoint, folder, processing=PROCESSING)
                exposures = await ledger(server.endpoint)
                spent = sum(line.electrons for line in exposures)
                assert spent >= sum(trial.electrons for trial in load_campaign(folder).trials)
                assert_no_region_exposed_twice(exposures, world)
                (world / "exposures.jsonl").unlink()
        except ValueError:  # it died before it could say where it is
            continue
    print(f"\n{number - 1} boundaries of the server")
    assert number > 25
