"""Whole campaigns against an instrument server in a process of its own, with a small but real reconstruction."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Callable, Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from served_small_world import Server, serving

from agent import load_campaign, read_acquisition, read_reconstruction, resume_campaign, run_campaign
from agent.campaign.dry_run import dry_run
from agent.campaign.stop import Control
from agent.cli.errors import EXIT_CODES
from agent.config import CampaignConfig
from agent.errors import AgentError, BadInputError, InstrumentUnavailableError, StoppedError
from agent.events import Event, FramesReceived, TrialChanged
from agent.records import CampaignRecord
from agent.storage.journal import load_history
from instrument import InstrumentClient
from instrument.status import LedgerEntry

HERE = Path(__file__).parent
PROCESSING = "small_world:process"


@pytest.fixture(autouse=True)
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of faults; and the small world importable in every process."""
    folder = tmp_path / "world"
    folder.mkdir()
    monkeypatch.setenv("SMALL_WORLD", str(folder))
    monkeypatch.setenv("PYTHONPATH", str(HERE), prepend=os.pathsep)
    monkeypatch.syspath_prepend(str(HERE))
    return folder


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with serving(tmp_path) as running:
        yield running


def config(**changes: Any) -> CampaignConfig:
    values: dict[str, Any] = {
        "name": "small",
        "metadata": {"sample": "stripes", "operator": "A. Tester"},
        "electrons": 2e6,
        "area": {"height": 24, "width": 24},
        "exploration": {"trials": 3, "height": 16, "width": 16, "initial": 3},
        "search": {"step": (0.8, 2.0), "defocus": (50, 150), "dose": (50, 1000)},
        "policy": "sobol",
        "expert": (1.0, 100.0),
        "score": {"field": 12},
        "seed": 3,
    }
    return CampaignConfig.model_validate({**values, **changes})


async def ledger(endpoint: str) -> list[LedgerEntry]:
    async with InstrumentClient(endpoint, timeout=5) as client:
        return await client.exposures()


def assert_no_region_exposed_twice(exposures: list[LedgerEntry], world: Path) -> None:
    dosed = [e for e in exposures if e.dose > 0]
    for one, other in combinations(dosed, 2):
        assert not one.illuminated.overlaps(other.illuminated, 1e-4), (one.id, other.id)
    seen = [json.loads(line)["id"] for line in (world / "exposures.jsonl").read_text().splitlines()]
    assert len(seen) == len(set(seen)), "the microscope was told to expose an acquisition twice"


def outline(record: CampaignRecord) -> list[tuple[Any, ...]]:
    return [(t.number, t.role, t.state, t.settings, t.score, t.electrons) for t in record.trials]


class Stopper:
    """Stops the campaign at the first event that `when` approves of."""

    def __init__(self, control: Control, when: Callable[[Event], bool], *, now: bool = True) -> None:
        self._control, self._when, self._now = control, when, now

    def on_event(self, event: Event) -> None:
        if self._when(event):
            self._control.stop("enough", now=self._now)


async def test_a_campaign_from_beginning_to_end(server: Server, tmp_path: Path, world: Path) -> None:
    events: list[Event] = []

    class Watcher:
        def on_event(self, event: Event) -> None:
            events.append(event)

    class Saboteur:
        def on_event(self, event: Event) -> None:
            raise RuntimeError("an observer must not hurt")

    folder = tmp_path / "campaign"
    record = await run_campaign(
        config(), server.endpoint, folder, observers=[Saboteur(), Watcher()], processing=PROCESSING
    )
    assert [t.role for t in record.trials] == ["exploration"] * 3 + ["final", "expert"]
    assert {t.state for t in record.trials} == {"done"}
    assert record == load_campaign(folder)
    assert record.recommended is not None

    exposures = await ledger(server.endpoint)
    assert_no_region_exposed_twice(exposures, world)
    by_id = {e.id: e for e in exposures}
    final, expert = record.trial("final"), record.trial("expert")
    assert final is not None
    assert expert is not None
    assert final.plan is not None
    assert expert.plan is not None
    for trial in record.trials:
        assert trial.plan is not None
        assert trial.electrons == by_id[trial.plan.id].electrons
    own = sum(e.electrons for e in exposures if not e.campaign.endswith("-expert"))
    assert record.electrons_spent == pytest.approx(own)
    assert record.electrons_spent <= record.config.electrons
    assert record.electrons_spent > 0.9 * record.config.electrons, "the final picture gets what is left"
    assert expert.plan.campaign == f"{final.plan.campaign}-expert"
    assert expert.plan.electrons == pytest.approx(final.plan.electrons)
    assert (expert.plan.step, expert.plan.defocus) == (1.0, 100.0)

    stored = read_acquisition(folder / str(final.acquisition_file))
    assert stored.received.all()
    assert stored.plan == final.plan
    assert stored.metadata.sample == "stripes"
    assert stored.patterns.sum() == pytest.approx(final.plan.electrons, rel=0.02)
    assert read_reconstruction(folder / str(final.reconstruction_file)).score == final.score

    kinds = {type(event).__name__ for event in events}
    assert kinds >= {
        "CampaignStarted",
        "PhaseChanged",
        "FramesReceived",
        "ReconstructionProgress",
        "TrialChanged",
        "BudgetChanged",
        "TimeLeft",
        "Recommended",
        "CampaignEnded",
    }
    log = (folder / "log.txt").read_text()
    assert "Saboteur no longer watches" in log
    assert "campaign done" in log
    assert (folder / "campaign.yaml").exists()


async def test_the_acquisition_of_the_next_trial_overlaps_the_reconstruction_of_the_last(
    server: Server, tmp_path: Path
) -> None:
    record = await run_campaign(config(), server.endpoint, tmp_path / "campaign", processing=PROCESSING)
    order = [(e.trial, e.kind) for e in load_history(tmp_path / "campaign") if e.kind.startswith("trial ")]
    assert order.index((2, "trial suggested")) < order.index((1, "trial done"))
    assert record.state == "done"


async def test_every_step_is_journalled_before_the_next(server: Server, tmp_path: Path) -> None:
    await run_campaign(config(), server.endpoint, tmp_path / "campaign", processing=PROCESSING)
    kinds = [e.kind for e in load_history(tmp_path / "campaign") if e.trial == 1]
    steps = [kind.removeprefix("trial ") for kind in dict.fromkeys(kinds)]
    assert steps == ["suggested", "reserved", "acquiring", "acquired", "reconstructing", "done"]


async def test_the_same_seed_gives_the_same_campaign(server: Server, tmp_path: Path) -> None:
    def run(name: str) -> Any:
        return run_campaign(config(expert=None), endpoints[name], tmp_path / name, processing=PROCESSING)

    with serving(tmp_path / "second") as other:
        endpoints = {"one": server.endpoint, "two": other.endpoint}
        one, two = await asyncio.gather(run("one"), run("two"))
    assert outline(one) == outline(two)


async def test_failed_reconstructions_cost_a_trial_and_not_the_campaign(
    server: Server, tmp_path: Path, world: Path
) -> None:
    (world / "die-1").touch()
    (world / "raise-2").touch()
    record = await run_campaign(config(), server.endpoint, tmp_path / "campaign", processing=PROCESSING)
    assert [t.state for t in record.trials] == ["failed", "failed", "done", "done", "done"]
    assert "SIGKILL" in record.trials[0].reason
    assert "the data make no sense" in record.trials[1].reason
    assert all(t.electrons > 0 for t in record.trials)


async def test_several_failures_in_a_row_stop_the_campaign_and_resume_goes_on(
    server: Server, tmp_path: Path, world: Path
) -> None:
    for number in (1, 2, 3):
        (world / f"raise-{number}").touch()
    folder = tmp_path / "campaign"
    five = config(exploration={"trials": 5, "height": 16, "width": 16, "initial": 3})
    with pytest.raises(AgentError, match="3 trials in a row have failed"):
        await run_campaign(five, server.endpoint, folder, processing=PROCESSING)
    assert load_campaign(folder).state == "failed"
    record = await resume_campaign(folder)
    assert [t.state for t in record.trials][:3] == ["failed"] * 3
    assert record.trial("final") is not None


async def test_stop_at_once_aborts_the_exposure_and_resume_finishes(tmp_path: Path, world: Path) -> None:
    folder, control = tmp_path / "campaign", Control()
    stopper = Stopper(control, lambda e: isinstance(e, FramesReceived) and e.trial == 2)
    with serving(tmp_path, interval=0.005) as server:
        with pytest.raises(StoppedError, match="enough"):
            await run_campaign(
                config(expert=None),
                server.endpoint,
                folder,
                observers=[stopper],
                processing=PROCESSING,
                control=control,
            )
        stopped = load_campaign(folder)
        assert stopped.state == "stopped"
        second = stopped.trials[1]
        assert second.state == "failed"
        assert second.plan is not None
        assert 0 < second.electrons < second.plan.electrons, "the partial dose is booked"
        assert not list(folder.rglob("*.part"))
        record = await resume_campaign(folder)
        assert_no_region_exposed_twice(await ledger(server.endpoint), world)
    assert record.state == "done"
    assert record.trials[:2] == (record.trials[0], second)
    assert record.trials[0].state == "done"


async def test_a_time_limit_lets_the_running_acquisition_finish(tmp_path: Path) -> None:
    folder = tmp_path / "campaign"
    with serving(tmp_path, interval=0.004) as server, pytest.raises(StoppedError, match="time limit"):
        await run_campaign(config(time_limit=0.3), server.endpoint, folder, processing=PROCESSING)
    trials = load_campaign(folder).trials
    assert trials
    assert all(t.acquisition_file is not None for t in trials if t.electrons)


async def test_an_instrument_in_safe_stops_the_campaign_and_resume_releases_it(server: Server, tmp_path: Path) -> None:
    folder = tmp_path / "campaign"
    async with InstrumentClient(server.endpoint, timeout=5) as operator:
        await operator.blank()
        with pytest.raises(StoppedError, match="SAFE"):
            await run_campaign(config(), server.endpoint, folder, processing=PROCESSING)
        record = await resume_campaign(folder)
        events = await operator.events()
    assert record.state == "done"
    assert events[-1].kind == "resume"
    assert events[-1].operator == "A. Tester"


async def test_a_killed_instrument_is_waited_for_then_resumed(tmp_path: Path, world: Path) -> None:
    folder = tmp_path / "campaign"
    with serving(tmp_path, interval=0.002) as server:

        class Killer:
            def on_event(self, event: Event) -> None:
                if isinstance(event, FramesReceived) and event.trial == 2 and server.process.poll() is None:
                    server.kill()

        with pytest.raises(InstrumentUnavailableError, match="no instrument answers"):
            await run_campaign(
                config(), server.endpoint, folder, observers=[Killer()], processing=PROCESSING, patience=3
            )
        assert load_campaign(folder).state == "stopped"
        server.start()
        record = await resume_campaign(folder)
        exposures = await ledger(server.endpoint)
    assert record.state == "done"
    second = record.trials[1]
    assert second.state == "failed"
    assert second.electrons == next(e.electrons for e in exposures if second.plan and e.id == second.plan.id) > 0
    assert_no_region_exposed_twice(exposures, world)


async def test_an_instrument_that_comes_back_in_time_is_not_noticed(tmp_path: Path, world: Path) -> None:
    folder = tmp_path / "campaign"
    with serving(tmp_path) as server:

        class Restarter:
            def on_event(self, event: Event) -> None:
                if isinstance(event, TrialChanged) and event.trial.number == 2 and event.trial.plan is None:
                    server.kill()
                    server.start()

        record = await run_campaign(
            config(), server.endpoint, folder, observers=[Restarter()], processing=PROCESSING, patience=6
        )
        assert_no_region_exposed_twice(await ledger(server.endpoint), world)
    assert [t.state for t in record.trials] == ["done"] * 5


KILLS = (
    "suggested:1",
    "reserved:1",
    "acquiring:2",
    "acquired:2",
    "reconstructing:3",
    "done:3",
    "suggested:4",
    "acquired:4",
    "suggested:5",
    "acquired:5",
)


@pytest.mark.slow
async def test_killed_at_every_step_the_campaign_is_the_same_as_undisturbed(
    server: Server, tmp_path: Path, world: Path
) -> None:
    folder, file = tmp_path / "campaign", tmp_path / "config.json"
    file.write_text(config().model_dump_json())
    entries = 0
    for moment in (*KILLS, ""):
        verb = "resume" if folder.exists() else "run"
        code = await agent_process(verb, folder, server.endpoint, file, moment)
        assert code == (-9 if moment else 0), moment
        history = load_history(folder)
        assert len(history) > entries, "what was journalled is still there"
        entries = len(history)
    exposures = await ledger(server.endpoint)
    assert_no_region_exposed_twice(exposures, world)
    assert all(e.state == "done" for e in exposures)
    with serving(tmp_path / "second") as other:
        undisturbed = await run_campaign(config(), other.endpoint, tmp_path / "undisturbed", processing=PROCESSING)
    assert outline(load_campaign(folder)) == outline(undisturbed)


async def test_killed_while_frames_arrive_the_trial_is_lost_and_its_region_left_alone(
    tmp_path: Path, world: Path
) -> None:
    folder, file = tmp_path / "campaign", tmp_path / "config.json"
    file.write_text(config(expert=None).model_dump_json())
    with serving(tmp_path, interval=0.004) as server:
        assert await agent_process("run", folder, server.endpoint, file, "frames:2") == -9
        assert load_campaign(folder).trials[1].state == "acquiring"
        record = await resume_campaign(folder, endpoint=server.endpoint)
        exposures = await ledger(server.endpoint)
    lost = record.trials[1]
    assert record.state == "done"
    assert lost.state == "failed"
    assert "frames are lost" in lost.reason
    assert lost.electrons == exposures[1].electrons > 0
    assert_no_region_exposed_twice(exposures, world)
    assert not list(folder.rglob("*.part"))


async def agent_process(verb: str, folder: Path, endpoint: str, file: Path, moment: str) -> int:
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(HERE / "agent_process.py"), verb, str(folder), endpoint, str(file), moment
    )
    return await process.wait()


async def test_ctrl_c_ends_in_order(tmp_path: Path, world: Path) -> None:
    folder, file = tmp_path / "campaign", tmp_path / "config.json"
    file.write_text(config(expert=None).model_dump_json())
    with serving(tmp_path, interval=0.004) as server:
        assert await agent_process("run", folder, server.endpoint, file, "interrupt:2") == EXIT_CODES[StoppedError]
        stopped = load_campaign(folder)
        async with InstrumentClient(server.endpoint, timeout=5) as client:
            status = await client.status()
    assert (stopped.state, stopped.reason) == ("stopped", "stopped by SIGINT")
    assert stopped.trials[1].state == "failed"
    assert (status.phase, status.blanked, status.holder) == ("idle", True, ""), (
        "beam off, lease given back, not in SAFE"
    )


def cheapest(**changes: Any) -> CampaignConfig:
    values: dict[str, Any] = {
        "goal": {"kind": "cheapest", "fraction": 0.6},
        "electrons": 2e6,
        "area": {"height": 24, "width": 24},
        "exploration": {"trials": 4, "height": 24, "width": 24, "initial": 4, "share": 0.6},
        "search": {"dose": (20, 900)},
        "expert": None,
        "score": {"field": 20},
    }
    return config(**{**values, **changes})


async def test_the_cheapest_way_to_a_part_of_what_a_recording_can_give(tmp_path: Path) -> None:
    with serving(tmp_path, factory="make_recording") as server:
        record = await run_campaign(cheapest(), server.endpoint, tmp_path / "campaign", processing=PROCESSING)
    reference, final = record.trial("reference"), record.trial("final")
    assert [t.role for t in record.trials] == ["reference", *["exploration"] * 4, "final"]
    assert reference is not None
    assert final is not None
    assert reference.score is not None
    assert (reference.settings.step, reference.settings.dose) == (1.0, 1000.0), "finest step, half of what there is"
    assert record.target is not None
    assert 0.6 * reference.score.value < record.target, "extrapolated to the whole recording"
    assert all(t.plan is not None and t.plan.field == final.plan.field for t in record.trials if final.plan)
    assert record.electrons_spent <= record.config.electrons


async def test_two_agents_cannot_run_one_folder(server: Server, tmp_path: Path) -> None:
    folder, refused = tmp_path / "campaign", []

    async def second() -> None:
        try:
            await resume_campaign(folder)
        except BadInputError as error:
            refused.append(str(error))

    class Intruder:
        def __init__(self, group: asyncio.TaskGroup) -> None:
            self.group = group

        def on_event(self, event: Event) -> None:
            if isinstance(event, TrialChanged) and event.trial.state == "acquiring" and event.trial.number == 1:
                self.group.create_task(second())

    async with asyncio.TaskGroup() as group:
        await run_campaign(config(), server.endpoint, folder, observers=[Intruder(group)], processing=PROCESSING)
    assert refused
    assert "another agent is running this campaign" in refused[0]


async def test_bad_input_leaves_no_folder_and_spends_nothing(server: Server, tmp_path: Path) -> None:
    folder = tmp_path / "campaign"
    for wrong, match in (
        ({"electrons": 100.0}, "electrons"),
        ({"search": {"defocus": (5000, 6000)}}, "defocus"),
        ({"area": {"height": 1000, "width": 20}}, "area"),
        ({"exploration": {"trials": 400, "height": 16, "width": 16}}, "fresh area runs out"),
        ({"goal": {"kind": "cheapest"}}, r"goal\.score"),
        ({"policy": "nothing:here"}, "nothing"),
        ({"score": {"field": 12, "function": "json:no_such_score"}}, "no_such_score"),
    ):
        with pytest.raises(BadInputError, match=match):
            await run_campaign(config(**wrong), server.endpoint, folder, processing=PROCESSING)
    with pytest.raises(BadInputError, match="endpoint"):
        await run_campaign(config(), "not an endpoint", folder, processing=PROCESSING)
    with pytest.raises(InstrumentUnavailableError, match="no instrument answers"):
        await run_campaign(config(), "tcp://127.0.0.1:9", folder, processing=PROCESSING, patience=0.2)
    assert not folder.exists()
    assert await ledger(server.endpoint) == []


async def test_a_used_folder_is_refused_for_a_new_campaign(server: Server, tmp_path: Path) -> None:
    folder = tmp_path / "campaign"
    await run_campaign(config(expert=None), server.endpoint, folder, processing=PROCESSING)
    with pytest.raises(BadInputError, match="resume"):
        await run_campaign(config(), server.endpoint, folder, processing=PROCESSING)
    assert (await resume_campaign(folder)).state == "done", "resuming what is done does nothing"


async def test_dry_run_costs_nothing_and_tells_what_would_be(server: Server, tmp_path: Path) -> None:
    plan = await dry_run(config(), server.endpoint)
    assert (plan.trials, plan.acquisitions) == (3, 5)
    assert plan.electrons == 2e6
    assert plan.duration > 0
    assert await ledger(server.endpoint) == []


async def test_a_dry_run_counts_the_electrons_of_the_reference(tmp_path: Path) -> None:
    with serving(tmp_path, factory="make_recording") as server:
        plan = await dry_run(cheapest(), server.endpoint)
        with pytest.raises(BadInputError, match=r"budget of 2.4e\+04 electrons is too small"):
            await dry_run(cheapest(electrons=6e5), server.endpoint)
    reference = 1000.0 * 24 * 24
    assert plan.reference_electrons == pytest.approx(reference), "half of what there is, over a trial's field"
    assert plan.exploration_electrons == pytest.approx(0.6 * (2e6 - reference))
    assert plan.final_dose == pytest.approx(0.4 * (2e6 - reference) / 24**2)
    assert plan.acquisitions == 6
