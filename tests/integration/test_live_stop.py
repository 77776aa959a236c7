"""A scan that can no longer win is stopped: its electrons are there for others, and nothing is hidden."""

from __future__ import annotations

from pathlib import Path

import pytest
from served_small_world import PROCESSING, Server, assert_no_region_exposed_twice, config, ledger

from agent import load_campaign, read_acquisition, run_campaign
from agent.campaign.trials import observe
from agent.report import write_report
from agent.storage.journal import load_history

pytestmark = pytest.mark.usefixtures("world")


@pytest.fixture
def live_world(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scans of the small world are followed by `live_world`."""
    monkeypatch.setattr("agent.campaign.live.FOLLOW", "live_world:follow")
    monkeypatch.setattr("agent.campaign.live.PROCESSING", PROCESSING)
    monkeypatch.setattr("agent.campaign.live.SHORTEST_SCAN", 0.0)


@pytest.mark.usefixtures("live_world")
async def test_a_scan_that_cannot_win_is_stopped_and_told_as_what_it_was(
    server: Server, tmp_path: Path, world: Path
) -> None:
    (world / "wait-3").touch()
    wanted = config(
        live={"picture": False, "stop": True},
        exploration={"trials": 4, "height": 16, "width": 16, "initial": 4},
        search={"step": [0.8, 2.0], "defocus": [50, 150], "dose": [400, 600]},
        expert=None,
    )
    folder = tmp_path / "campaign"
    record = await run_campaign(wanted, server.endpoint, folder, processing=PROCESSING)
    assert record == load_campaign(folder)
    assert [(t.role, t.state) for t in record.trials] == [("exploration", "done")] * 4 + [("final", "done")]
    trial, others = record.trials[2], [*record.trials[:2], *record.trials[3:]]
    assert [each.stopped for each in others] == [None] * 4
    stopped, plan = trial.stopped, trial.plan
    assert stopped is not None
    assert plan is not None
    assert trial.acquisition_file is not None

    exposures = await ledger(server.endpoint)
    assert_no_region_exposed_twice(exposures, world)
    booked = next(each for each in exposures if each.id == plan.id)
    assert booked.state == "aborted"
    assert trial.electrons == booked.electrons < 0.7 * stopped.planned
    assert stopped.saved == pytest.approx(stopped.planned - trial.electrons)
    assert record.electrons_spent == pytest.approx(sum(each.electrons for each in exposures))

    seen = observe(trial, pending=False)
    assert (seen.state, seen.score) == ("done", stopped.expected)
    assert seen.variance == pytest.approx(stopped.expected_sd**2)
    assert stopped.rival == 1, "what has arrived since the suggestion does not count"
    assert "stopped after 50% of the scan" in trial.reason
    assert read_acquisition(folder / trial.acquisition_file).received.sum() < plan.n_positions

    assert "could no longer win: 1, which saved" in write_report(record, folder).read_text(encoding="utf-8")
    assert any(stopped.sentence() in str(entry) for entry in load_history(folder))
