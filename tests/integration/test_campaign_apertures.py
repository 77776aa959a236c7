"""A whole campaign that chooses among the apertures of the simulated microscope, with the reconstruction that everybody uses."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from agent import read_acquisition, resume_campaign, run_campaign
from agent.campaign.counterfactual import decisions
from agent.config import CampaignConfig
from agent.errors import AgentError
from agent.processing.column_state import ColumnState
from agent.report import write_report
from instrument.server import InstrumentServer
from sim_instrument import Column, SimulatedMicroscope, SpecimenOptions

OFFERED = (15.0, 21.4)


@pytest.fixture
async def microscope():
    column = Column(
        apertures=OFFERED,
        detector_pixels=48,
        angular_pixel=2.0,
        max_frame_rate=1e5,
        **{"knock_on": 0.0, "source_size": 0.0, "energy_spread": 0.0, "flyback": 1e-5},
    )
    microscope = SimulatedMicroscope(SpecimenOptions(size=300), column)
    yield microscope
    microscope.close()


def config(**changes: object) -> CampaignConfig:
    values = {
        "name": "apertures",
        "electrons": 4e5,
        "area": {"height": 10, "width": 10},
        "exploration": {"trials": 2, "height": 9, "width": 9, "initial": 2},
        "search": {"semiangle": "auto", "step": [0.9, 1.2], "defocus": [60, 150]},
        "prior": "none",
        "score": {"k_max": 0.8, "field": 7},
        "reconstruction": {"passes": 8},
        "live": {"picture": False},
        "seed": 1,
    }
    return CampaignConfig.model_validate(values | changes)


async def test_a_campaign_chooses_among_apertures_and_everything_says_which(tmp_path: Path, microscope) -> None:
    folder = tmp_path / "campaign"
    async with InstrumentServer(microscope, state_dir=tmp_path / "state") as server:
        record = await run_campaign(config(), server.control, folder)
        again = await resume_campaign(folder, endpoint=server.control)
        async with asyncio.timeout(20):  # put back once nobody has the lease, as the server looks again
            while (await microscope.read_back())["semiangle"] != 21.4:
                await asyncio.sleep(0.05)
    assert again == record
    assert [trial.role for trial in record.trials] == ["exploration"] * 2 + ["final"]
    assert {trial.settings.semiangle for trial in record.trials[:2]} == set(OFFERED)
    for trial in record.trials:
        angle = trial.settings.semiangle
        assert (trial.state, trial.plan.semiangle) == ("done", angle)
        stored = read_acquisition(folder / trial.acquisition_file).description
        assert stored.semiangle == angle
        assert stored.beam_current == pytest.approx(2.0 * (angle / 21.4) ** 2)
        assert stored.apertures == ()
        state = ColumnState.load(folder / "columns" / f"{trial.number:03d}.json")
        assert state.semiangle == angle
        assert trial.score.value > 0.5
    assert record.recommended.settings.semiangle == record.trials[-1].settings.semiangle
    page = write_report(record, folder).read_text(encoding="utf-8")
    assert "aperture, mrad" in page
    assert "15 mrad (0.983 pA), 21.4 mrad (2 pA)" in page
    assert all(f'"semiangle": {a}' in json.dumps(record.model_dump(mode="json")) for a in OFFERED)
    made = list(decisions(folder))
    assert [decision.instead.semiangle for decision in made[:2]] == [t.settings.semiangle for t in record.trials[:2]]


async def test_an_aperture_that_sticks_ends_a_campaign_before_anything_is_exposed(tmp_path: Path, microscope) -> None:
    async def stuck(settings) -> None:
        pass

    microscope.set = stuck
    only = config(search={"semiangle": [15.0], "step": [0.9, 1.2], "defocus": [60, 150]})
    async with InstrumentServer(microscope, state_dir=tmp_path / "state") as server:
        with pytest.raises(AgentError, match=r"semiangle was set to 15 and is 21\.4"):
            await run_campaign(only, server.control, tmp_path / "campaign")
    assert microscope.beam_time() == 0.0
