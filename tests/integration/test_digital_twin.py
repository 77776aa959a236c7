"""Columns simulated beside a campaign: their number is journalled, they end with it, and what befalls them costs only them."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from served_small_world import PROCESSING, Server, agent_process, config
from twin_world import CHANGES, COLUMNS, Release

from agent import load_campaign, resume_campaign, run_campaign
from agent.campaign import digital_twin
from agent.campaign.counterfactual import decisions
from agent.config import CampaignConfig
from agent.policy.ensemble import read_members
from agent.records import CampaignRecord
from agent.report import write_report

pytestmark = pytest.mark.usefixtures("world", "twin_world")


@pytest.fixture
def twin_world(monkeypatch: pytest.MonkeyPatch, world: Path) -> None:
    """Columns are simulated by `twin_world`, here and in agents of their own; and the column is measured."""
    monkeypatch.setenv("TWIN_WORLD", "1")
    for module, name, value in CHANGES:
        monkeypatch.setattr(f"{module}.{name}", value)
    (world / "measure").touch()
    (world / "wait-2").touch()


def wanted(**exploration: bool) -> CampaignConfig:
    asked = {"trials": 3, "height": 16, "width": 16, "initial": 3, **exploration}
    return config(policy="botorch", exploration=asked, expert=None)


def processes(world: Path) -> list[int]:
    """Twins that have ever computed in this world."""
    file = world / "twin-processes"
    return [] if not file.exists() else sorted({int(line) for line in file.read_text().split()})


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"


def gone(pids: list[int], within: float = 20.0) -> bool:
    until = time.monotonic() + within
    while any(alive(pid) for pid in pids) and time.monotonic() < until:
        time.sleep(0.02)
    return not any(alive(pid) for pid in pids)


def assert_repeated(folder: Path, record: CampaignRecord) -> None:
    made = list(decisions(folder))
    assert [each.trial for each in made] == [t.number for t in record.trials]
    assert all(each.same for each in made), [each for each in made if not each.same]


async def test_trials_are_suggested_with_the_columns_that_were_journalled(
    server: Server, tmp_path: Path, world: Path
) -> None:
    folder = tmp_path / "campaign"
    release = Release()
    record = await run_campaign(wanted(), server.endpoint, folder, observers=[release], processing=PROCESSING)
    assert record == load_campaign(folder)
    assert release.troubles == []
    assert record.twins[1] == 0
    assert record.twins[3] >= COLUMNS
    assert len(read_members(folder / digital_twin.FILE)) >= record.twins[4]
    assert "simulated as this one was measured" in str(record.trials[-2].suggestion.model)
    assert gone(processes(world), within=0), "they end with the campaign"
    assert f"{record.twins[3]} for trial 3" in write_report(record, folder).read_text(encoding="utf-8")
    assert_repeated(folder, record)
    file = folder / digital_twin.FILE
    file.write_text("\n".join(file.read_text().splitlines()[:1]) + "\n")
    assert "holds 1 of the" in next(each for each in decisions(folder) if each.trial == 3).reason


async def test_an_agent_that_is_killed_leaves_no_twin_and_goes_on_with_the_same_columns(
    server: Server, tmp_path: Path, world: Path
) -> None:
    folder, file = tmp_path / "campaign", tmp_path / "config.json"
    file.write_text(wanted().model_dump_json())
    # killed once there are columns, while one is being simulated
    assert await agent_process("run", folder, server.endpoint, file, f"twins:{COLUMNS}") == -9
    first = processes(world)
    assert first
    assert gone(first)
    before = (folder / digital_twin.FILE).read_bytes()
    with (folder / digital_twin.FILE).open("a") as broken:
        broken.write('{"name": "twin", "se')  # as a kill in the middle of a write leaves it
    record = await resume_campaign(folder, endpoint=server.endpoint)
    assert record.state == "done"
    assert record.twins[3] >= COLUMNS
    assert (folder / digital_twin.FILE).read_bytes().startswith(before)
    members = read_members(folder / digital_twin.FILE)
    assert len({member.seed for member in members}) == len(members), "no column is simulated twice"
    assert_repeated(folder, record)
    assert gone(processes(world))


async def test_what_was_journalled_for_a_trial_is_what_it_is_suggested_with(
    server: Server, tmp_path: Path, world: Path
) -> None:
    """An agent that dies between the note and the suggestion: others have been simulated when it is asked again."""
    folder, file = tmp_path / "campaign", tmp_path / "config.json"
    file.write_text(wanted().model_dump_json())
    assert await agent_process("run", folder, server.endpoint, file, "asked:3") == -9
    noted = load_campaign(folder).twins[3]
    assert [t.number for t in load_campaign(folder).trials] == [1, 2]
    (world / "twin-hangs").touch()
    lines = (folder / digital_twin.FILE).read_text()
    (folder / digital_twin.FILE).write_text(lines + lines.replace('"seed":', '"seed":9'))
    record = await resume_campaign(folder, endpoint=server.endpoint)
    assert record.twins[3] == noted >= COLUMNS
    assert record.twins[4] == 2 * len(lines.splitlines())
    assert_repeated(folder, record)


@pytest.mark.parametrize("fault", ["corrupt", "raises"])
async def test_what_befalls_the_twin_is_an_event_and_no_more(
    server: Server, tmp_path: Path, world: Path, fault: str
) -> None:
    folder, release = tmp_path / "campaign", Release()
    if fault == "raises":
        (world / "twin-raises").touch()

    if fault == "corrupt":
        (world / "wait-2").unlink()
        file = tmp_path / "config.json"
        file.write_text(wanted().model_dump_json())
        assert await agent_process("run", folder, server.endpoint, file, "acquired:2") == -9
        (folder / digital_twin.FILE).write_text("no column\n")
        record = await resume_campaign(folder, endpoint=server.endpoint, observers=[release])
    else:
        record = await run_campaign(wanted(), server.endpoint, folder, observers=[release], processing=PROCESSING)
    assert record.state == "done"
    assert len(release.troubles) == 1
    assert ("no simulated column" if fault == "corrupt" else "no picture") in release.troubles[0]
    assert set(record.twins.values()) <= {0}
    assert gone(processes(world), within=0)
    assert_repeated(folder, record)


async def test_switched_off_there_is_no_process_and_no_file(server: Server, tmp_path: Path, world: Path) -> None:
    (world / "wait-2").unlink()
    folder = tmp_path / "campaign"
    record = await run_campaign(wanted(twin=False), server.endpoint, folder, processing=PROCESSING)
    assert record.state == "done"
    assert processes(world) == []
    assert record.twins == {}
    assert not (folder / digital_twin.FILE).exists()
