"""Whole campaigns against an instrument server in a process of its own, with a small but real reconstruction."""

from __future__ import annotations

import asyncio
import math
import shutil
import threading
from pathlib import Path
from typing import Any, ClassVar

import pytest
from served_small_world import (
    PROCESSING,
    Server,
    assert_no_region_exposed_twice,
    config,
    ledger,
    outline,
    serving,
)

from agent import load_campaign, read_acquisition, read_reconstruction, resume_campaign, run_campaign
from agent.campaign.dry_run import dry_run
from agent.config import CampaignConfig
from agent.errors import AgentError, BadInputError, InstrumentUnavailableError
from agent.events import Event, TrialChanged
from agent.policy import RandomPolicy
from agent.processing.process import ProcessingJob
from agent.records import Recommendation, Suggestion
from agent.report import write_report
from agent.storage.journal import load_history
from instrument import InstrumentClient

pytestmark = pytest.mark.usefixtures("world")


class Watcher:
    def __init__(self) -> None:
        self.events: list[Event] = []

    def on_event(self, event: Event) -> None:
        self.events.append(event)


class Saboteur:
    def on_event(self, event: Event) -> None:
        raise RuntimeError("an observer must not hurt")


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


async def test_a_campaign_from_beginning_to_end(server: Server, tmp_path: Path, world: Path) -> None:
    watcher, folder = Watcher(), tmp_path / "campaign"
    record = await run_campaign(
        config(), server.endpoint, folder, observers=[Saboteur(), watcher], processing=PROCESSING
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

    kinds = {type(event).__name__ for event in watcher.events}
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


async def test_a_campaign_with_one_setting_measures_it_and_finishes(server: Server, tmp_path: Path) -> None:
    fixed = {"step": [1, 1], "defocus": [100, 100], "dose": [300, 300]}
    trials = {"trials": 6, "height": 16, "width": 16, "initial": 2}
    record = await run_campaign(
        config(search=fixed, exploration=trials, expert=None),
        server.endpoint,
        tmp_path / "campaign",
        processing=PROCESSING,
    )
    assert record.state == "done"
    assert [t.role for t in record.trials] == ["exploration"] * 2 + ["final"]
    assert write_report(record, tmp_path / "campaign").stat().st_size > 10_000


async def test_a_campaign_in_spirals(server: Server, tmp_path: Path) -> None:
    fixed = {"step": [1, 1], "defocus": [100, 100], "dose": [300, 300]}
    trials = {"trials": 1, "height": 16, "width": 16, "initial": 1}
    changes = {"scan": "spiral", "search": fixed, "exploration": trials, "expert": None}
    record = await run_campaign(config(**changes), server.endpoint, tmp_path / "campaign", processing=PROCESSING)
    assert {t.state for t in record.trials} == {"done"}
    for trial in record.trials:
        assert trial.plan is not None
        stored = read_acquisition(tmp_path / "campaign" / str(trial.acquisition_file))
        assert stored.plan.pattern == trial.plan.pattern == "spiral"
        assert trial.score is not None
        assert trial.score.value > 0, "patterns are at home in the places that the spiral says"


async def test_every_trial_is_reconstructed_as_the_campaign_file_says(
    server: Server, tmp_path: Path, world: Path
) -> None:
    told = config(
        geometry={"rotation": 12, "flip_rows": True, "bad_pixels": ["3,:"]},
        reconstruction={"slices": 2, "refine_positions": "lines", "passes": 4},
        exploration={"trials": 1, "height": 16, "width": 16},
    )
    record = await run_campaign(told, server.endpoint, tmp_path / "campaign", processing=PROCESSING)
    assert record.config == told
    jobs = [ProcessingJob.model_validate_json(line) for line in (world / "jobs.jsonl").read_text().splitlines()]
    assert len(jobs) == 3
    assert {job.geometry for job in jobs} == {told.geometry}
    exploration, *compared = [job.reconstruction for job in jobs]
    assert exploration == told.reconstruction
    assert [(each.passes, each.stop_early) for each in compared] == [(60, True)] * 2
    assert {each.model_copy(update={"passes": 4, "stop_early": False}) for each in compared} == {told.reconstruction}


async def test_the_acquisition_of_the_next_trial_overlaps_the_reconstruction_of_the_last(
    server: Server, tmp_path: Path
) -> None:
    record = await run_campaign(config(), server.endpoint, tmp_path / "campaign", processing=PROCESSING)
    order = [(e.trial, e.kind) for e in load_history(tmp_path / "campaign") if e.kind.startswith("trial ")]
    assert order.index((2, "trial suggested")) < order.index((1, "trial done"))
    assert record.state == "done"


class LatePainter(RandomPolicy):
    """The view of what it believes is ready only after it has been asked for the next settings."""

    asked: ClassVar[list[float]] = []
    in_time: ClassVar[list[bool]] = []
    changed: ClassVar[threading.Condition] = threading.Condition()

    def suggest(self, n_points: int = 1) -> list[Suggestion]:
        self._note(self.book.next_number)
        return super().suggest(n_points)

    def recommend(self, electrons_left: float) -> Recommendation:
        self._note(math.inf)
        return super().recommend(electrons_left)

    def view(self, electrons_left: float) -> None:
        mine = self.book.next_number
        with self.changed:
            self.in_time.append(self.changed.wait_for(lambda: max(self.asked) > mine, timeout=120))

    def _note(self, number: float) -> None:
        with self.changed:
            self.asked.append(number)
            self.changed.notify_all()


async def test_the_next_suggestion_does_not_wait_for_the_view_of_the_last(server: Server, tmp_path: Path) -> None:
    told = config(policy=f"{__name__}:LatePainter", expert=None)
    record = await run_campaign(told, server.endpoint, tmp_path / "campaign", processing=PROCESSING)
    assert record.state == "done"
    assert {1, 2, 3, math.inf} <= set(LatePainter.asked)
    assert all(LatePainter.in_time)


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
        ({"scan": "serpentine"}, "a serpentine scan is not possible here; legal: raster, spiral"),
        ({"geometry": {"centre": (40, 3)}}, r"the centre \(40, 3\) lies outside the detector"),
        ({"geometry": {"mask": "absent.npy"}}, r"absent\.npy: no mask can be read"),
        ({"score": {"field": 12, "function": "json:no_such_score"}}, "no_such_score"),
        ({"score": {"field": 12, "function": "json:dumps"}}, r"score\.function json:dumps: cannot be used"),
        ({"score": {"field": 12, "k_min": 3.0, "k_max": 4.0}}, r"score: between k_min 3 .* up to 0\.671 1/Å"),
        (
            {"expert": (9.0, 100.0)},
            "expert: the instrument would refuse .* step of 9 Å is not possible here; legal: 0.5",
        ),
        ({"expert": (2.0, 250.0)}, "expert: the instrument would refuse .* defocus of 250 Å"),
    ):
        with pytest.raises(BadInputError, match=match):
            await run_campaign(config(**wrong), server.endpoint, folder, processing=PROCESSING)
    with pytest.raises(BadInputError, match="endpoint"):
        await run_campaign(config(), "not an endpoint", folder, processing=PROCESSING)
    with pytest.raises(InstrumentUnavailableError, match="no instrument answers"):
        await run_campaign(config(), "tcp://127.0.0.1:9", folder, processing=PROCESSING, patience=0.2)
    assert not folder.exists()
    assert await ledger(server.endpoint) == []


async def test_a_used_folder_is_refused_for_a_new_campaign(tmp_path: Path) -> None:
    folder = tmp_path / "campaign"
    shutil.copytree(Path(__file__).with_name("golden_campaigns") / "finished", folder)
    with pytest.raises(BadInputError, match="resume"):
        await run_campaign(config(), "tcp://127.0.0.1:9", folder, processing=PROCESSING)
    assert (await resume_campaign(folder)).state == "done", "resuming what is done does nothing"


async def test_dry_run_costs_nothing_and_tells_what_would_be(server: Server, tmp_path: Path) -> None:
    plan = await dry_run(config(), server.endpoint)
    assert (plan.trials, plan.acquisitions) == (3, 5)
    assert plan.electrons == 2e6
    assert plan.duration > 0
    assert await ledger(server.endpoint) == []


async def test_a_budget_in_dose_or_minutes_becomes_electrons_and_the_tightest_counts(
    server: Server, tmp_path: Path
) -> None:
    def told(electrons: float = 0.0, **budget: float) -> CampaignConfig:
        return config(electrons=electrons, budget=budget, expert=None)

    async with InstrumentClient(server.endpoint, timeout=5) as client:
        current = (await client.describe()).beam_current
    assert current is not None
    minutes = await dry_run(told(minutes=0.25), server.endpoint)
    whole = 15 * current * 1e-12 / 1.602176634e-19
    assert 0.7 * whole < minutes.electrons < whole, "a scan takes longer than its beam is on"
    assert minutes.budget_told == "0.25 min of beam"
    assert (await dry_run(told(minutes=0.25, electrons=2e6), server.endpoint)).electrons == 2e6
    record = await run_campaign(told(dose=400.0), server.endpoint, tmp_path / "c", processing=PROCESSING)
    assert record.config.electrons == pytest.approx(2 * 400 * 24**2, rel=0.1), (
        "half of it is exploration's, and flyback"
    )
    assert record.electrons_spent <= record.config.electrons
    doses = {trial.role: trial.settings.dose for trial in record.trials}
    assert max(trial.settings.dose for trial in record.trials) <= 400 * (1 + 1e-9), "no place gets more"
    assert doses["final"] == pytest.approx(400, rel=0.05)


async def test_a_dry_run_counts_the_electrons_of_the_reference(tmp_path: Path) -> None:
    with serving(tmp_path, factory="make_recording") as server:
        plan = await dry_run(cheapest(), server.endpoint)
        with pytest.raises(BadInputError, match=r"budget of 2.4e\+04 electrons is too small"):
            await dry_run(cheapest(electrons=6e5), server.endpoint)
    reference = 1000.0 * 24 * 24
    assert plan.reference_electrons == pytest.approx(reference), "half of what there is, over a trial's field"
    assert plan.exploration_electrons == pytest.approx(0.6 * (2e6 - reference))
    assert plan.final_dose == pytest.approx(0.4 * (2e6 - reference) / 24**2, rel=1e-3)
    assert plan.acquisitions == 6
