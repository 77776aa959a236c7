"""A whole campaign whose agent, then whose server, is killed at each boundary of what it writes: `make kills` prints a table.

A boundary is the moment before or after a commit of journal or ledger, or before or after a finished file gets its name
(`fail_points`). After each kill the campaign goes on: nothing is lost, nothing exposed twice, and the ledger has booked at
least what the beam gave, pattern by pattern.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from fail_points import NOTE, VARIABLE
from served_small_world import (
    PROCESSING,
    Server,
    agent_process,
    assert_no_region_exposed_twice,
    config,
    ledger,
    serving,
)

from agent import load_campaign, resume_campaign, run_campaign
from agent.config import CampaignConfig
from agent.errors import AgentError
from agent.storage.journal import is_begun, load_history

pytestmark = pytest.mark.timeout(7200)
TRIALS = {"trials": 1, "height": 16, "width": 16, "initial": 1}
CAMPAIGN = {"expert": None, "exploration": TRIALS, "electrons": 5e5}
"""Two acquisitions: an exploratory one and the final one."""


@dataclass
class Boundaries:
    """One kill after the other.

    Attributes:
        world: folder of the small world.
        number: of the boundary, from 1.
    """

    world: Path
    number: int = 0
    rows: list[str] = field(default_factory=list)

    @property
    def note(self) -> Path:
        return self.world / "boundary"

    def begin(self) -> None:
        self.number += 1
        self.note.unlink(missing_ok=True)
        (self.world / "exposures.jsonl").unlink(missing_ok=True)
        shutil.rmtree(self.world / "light", ignore_errors=True)
        (self.world / "light").mkdir()

    async def end(self, server: Server, folder: Path, then: str) -> None:
        """Look at what there is after all, and note it."""
        record, exposures = load_campaign(folder), await ledger(server.endpoint)
        assert record.state == "done", self.number
        assert_no_region_exposed_twice(exposures, self.world)
        booked = {line.id: line.electrons for line in exposures}
        shone = {}
        for line in exposures:
            light = self.world / "light" / line.id
            shone[line.id] = line.plan.electrons_per_pattern * (light.stat().st_size if light.exists() else 0)
            assert booked[line.id] >= shone[line.id] * (1 - 1e-9), (self.number, line.id)
        assert {path.name for path in (self.world / "light").iterdir()} <= set(booked), "all that shone is booked"
        assert sum(booked.values()) >= sum(trial.electrons for trial in record.trials) * (1 - 1e-9)
        for trial in record.trials:
            if trial.state == "done":
                assert trial.acquisition_file is not None
                assert (folder / trial.acquisition_file).is_file()
        boundary = self.note.read_text() if self.note.exists() else "it came to its end"
        lost = sum(trial.state == "failed" for trial in record.trials)
        self.rows.append(
            f"{self.number:4d}  {boundary:48s}  {then:8s}  {lost:4d}  {sum(booked.values()):10.4g}  {sum(shone.values()):10.4g}"
        )
        print(self.rows[-1], flush=True)

    def print_head(self, who: str) -> None:
        print(f"\n{who} killed\n   #  {'boundary':48s}  {'then':8s}  lost  e booked    e shone")


@pytest.fixture
def fatal(monkeypatch: pytest.MonkeyPatch) -> Callable[[int | None], None]:
    """Sets the fail point of the processes that are started next."""

    def choose(number: int | None) -> None:
        monkeypatch.setenv(VARIABLE, str(number or ""))

    return choose


@pytest.fixture
def boundaries(world: Path, monkeypatch: pytest.MonkeyPatch) -> Boundaries:
    found = Boundaries(world)
    monkeypatch.setenv(NOTE, str(found.note))
    return found


async def _go_on(folder: Path, endpoint: str, wanted: CampaignConfig) -> str:
    """Resume; run again what has no entry of a journal yet."""
    if is_begun(folder):
        await resume_campaign(folder, endpoint=endpoint, patience=20)
        return "resumed"
    shutil.rmtree(folder, ignore_errors=True)
    await run_campaign(wanted, endpoint, folder, processing=PROCESSING, patience=20)
    return "run anew"


async def test_an_agent_killed_at_every_boundary_goes_on_as_if_nothing_had_been(
    tmp_path: Path, boundaries: Boundaries, fatal: Callable[[int | None], None]
):
    wanted = config(**CAMPAIGN)
    file, code = tmp_path / "config.json", -9
    file.write_text(wanted.model_dump_json())
    boundaries.print_head("agent")
    while code == -9:
        boundaries.begin()
        folder = tmp_path / f"campaign-{boundaries.number}"
        with serving(tmp_path / f"server-{boundaries.number}") as server:
            fatal(boundaries.number)
            code = await agent_process("run", folder, server.endpoint, file, "")
            fatal(None)
            assert code in (0, -9), (boundaries.number, code)
            written = len(load_history(folder)) if is_begun(folder) else 0
            then = await _go_on(folder, server.endpoint, wanted) if code else "-"
            assert len(load_history(folder)) >= written
            await boundaries.end(server, folder, then)
        shutil.rmtree(tmp_path / f"server-{boundaries.number}")
    print(f"{boundaries.number - 1} boundaries of the agent")
    assert boundaries.number > 30


async def test_a_server_killed_at_every_boundary_is_started_again_and_the_campaign_goes_on(
    tmp_path: Path, boundaries: Boundaries, fatal: Callable[[int | None], None]
):
    wanted, died = config(**CAMPAIGN), True
    boundaries.print_head("server")
    while died:
        boundaries.begin()
        folder, state = tmp_path / f"campaign-{boundaries.number}", tmp_path / f"server-{boundaries.number}"
        fatal(boundaries.number)
        try:
            server = Server(state)
        except ValueError:  # it died before it could say where it is
            fatal(None)
            server = Server(state)
        fatal(None)
        try:
            then = "-"
            try:
                await run_campaign(wanted, server.endpoint, folder, processing=PROCESSING, patience=1)
            except AgentError:
                assert server.process.wait() == -9, boundaries.number
            if server.process.poll() is not None:
                server.start()
            if not is_begun(folder) or load_campaign(folder).state != "done":
                then = await _go_on(folder, server.endpoint, wanted)
            died = boundaries.note.exists()
            await boundaries.end(server, folder, then)
        finally:
            server.close()
        shutil.rmtree(state)
    print(f"{boundaries.number - 1} boundaries of the server")
    assert boundaries.number > 15
