"""On which terms an owner lends an instrument: limits narrower than the adapter's, and runs with the beam blanked."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest
from examples import square
from served_small_world import PROCESSING, config
from served_stripes import Frames, make_plan, serving
from small_world import SmallMicroscope
from striped_microscope import StripedMicroscope

import instrument
from agent import run_campaign
from instrument import AcquisitionPlan, Frame, Health, InstrumentServer, OutOfLimitsError
from instrument.errors import BadInputError
from instrument.terms import OwnersLimits


def limits(folder: Path, text: str) -> OwnersLimits:
    (folder / "limits.toml").write_text(text)
    return OwnersLimits.read(folder / "limits.toml")


async def test_an_owners_limits_hold_for_everybody(tmp_path: Path):
    text = """
        step = [0.5, 2.0]
        defocus = [-100, 100]
        exposure_limit = 5000
        area = {y = 0, x = 0, height = 200, width = 200}
    """
    async with serving(tmp_path, StripedMicroscope(), limits=limits(tmp_path, text)) as (_, client):
        told = await client.describe()
        assert (told.step.bounds, told.defocus.bounds, told.exposure_limit) == ((0.5, 2.0), (-100, 100), 5000)
        assert (await client.check(make_plan(size=5.0))).electrons
        for plan, legal in (
            (make_plan(defocus=150.0), "legal: -100 … 100 Å"),
            (make_plan(step=2.5), "legal: 0.5 … 2 Å"),
            (make_plan(field=square(10.0, 195.0, 0.0)), "leaves the area that can be scanned"),
            (make_plan(), "a single one may take 5000"),
        ):
            with pytest.raises(OutOfLimitsError, match=legal):
                await client.check(plan)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("defocus = [-2000, 100]", "defocus of -2000 … 100 Å is not narrower than the microscope's: -1000 … 1000 Å"),
        ("region_dose_limit = 2e9", "region_dose_limit of 2e\\+09 is higher than the microscope's, 1e\\+06"),
        ("area = {y = 0, x = 0, height = 900, width = 1}", "area .* leaves the microscope's"),
        ("electrons_per_pattern = [0.1, 100]", "electrons_per_pattern of 0.1 … 100 is not narrower"),
        ("beam_stop_above = 1", "this microscope has none"),
        ("slews = {defocus = {step = 5}}", "defocus cannot be seen to"),
    ],
)
async def test_limits_that_are_wider_or_cannot_be_kept_are_refused(tmp_path: Path, text: str, sentence: str):
    with pytest.raises(BadInputError, match=sentence):
        async with serving(tmp_path, StripedMicroscope(region_dose_limit=1e6), limits=limits(tmp_path, text)):
            pass


def test_a_file_that_holds_no_limits_is_refused_with_its_key(tmp_path: Path):
    with pytest.raises(BadInputError, match=r"limits.toml: stepp: .*legal: step, defocus"):
        limits(tmp_path, "stepp = [1, 2]")
    with pytest.raises(BadInputError, match="is not a TOML file"):
        limits(tmp_path, "step: [1, 2]")
    with pytest.raises(BadInputError, match="cannot be read"):
        OwnersLimits.read(tmp_path / "missing.toml")


async def test_a_dry_run_exposes_and_costs_nothing(tmp_path: Path):
    microscope, sink = StripedMicroscope(region_dose_limit=1.0), Frames()
    async with serving(tmp_path, microscope) as (_, client), client.lease():
        reserved = await client.prepare(make_plan(dry=True))
        assert reserved.check.dry
        assert reserved.electrons_left == 1e6
        outcome = await client.acquire("a1", sink)
        assert (outcome.state, outcome.dry, outcome.electrons, outcome.frames) == ("done", True, 0.0, 100)
        assert (await client.status()).electrons_spent == 0.0
        assert await client.illuminated(square(500.0)) == []
        line = await client.exposures()
        assert (line[0].check.dry, line[0].dose) == (True, 0.0)
    assert microscope.exposed == {}
    assert sink.header is not None
    assert sink.header.user_data["dry"] is True
    assert len(sink.patterns) == 100


def test_the_limits_in_the_readme_are_legal(tmp_path: Path):
    readme = (Path(instrument.__file__).parent / "README.md").read_text(encoding="utf-8")
    found = limits(tmp_path, readme.split("```toml\n")[1].split("```")[0])
    assert found.slews["defocus"].duration(100.0) == pytest.approx(0.2)
    assert all(getattr(found, name) for name in OwnersLimits.model_fields)


@pytest.mark.usefixtures("world")
async def test_a_whole_campaign_goes_through_with_the_beam_blanked(tmp_path: Path, world: Path):
    async with InstrumentServer(SmallMicroscope(), state_dir=tmp_path / "state", dry_run=True) as server:
        small = config(expert=None, exploration={"trials": 1, "height": 24, "width": 24, "initial": 1})
        record = await run_campaign(small, server.control, tmp_path / "campaign", processing=PROCESSING)
    assert [(trial.role, trial.state.value) for trial in record.trials] == [("exploration", "done"), ("final", "done")]
    assert record.electrons_spent == 0.0
    assert not (world / "exposures.jsonl").exists()
    assert any("keeps the beam blanked" in note for note in record.description.notes)


async def test_an_owner_keeps_the_beam_blanked_whatever_is_asked_for(tmp_path: Path):
    microscope = StripedMicroscope()
    async with serving(tmp_path, microscope, dry_run=True) as (server, client), client.lease():
        assert (await client.status()).dry_run
        assert (await client.check(make_plan())).dry
        await client.prepare(make_plan())
        phases = []

        def look(received: int, total: int) -> None:
            status = server.figures().status
            phases.append((status.phase, status.blanked))

        outcome = await client.acquire("a1", Frames(), look)
        assert (outcome.state, outcome.dry, outcome.electrons) == ("done", True, 0.0)
        assert ("exposing", False) not in phases
    assert microscope.exposed == {}


class Scanning(StripedMicroscope):
    """Can scan with its beam blanked; where its blanker is broken, its patterns show it."""

    broken = False

    async def acquire_blanked(self, plan: AcquisitionPlan) -> AsyncIterator[Frame]:
        for index in range(plan.n_positions):
            pattern = np.full(self.shape, 1000 if self.broken else 0, np.uint16)
            yield Frame(index, pattern)

    async def health(self) -> Health:
        return Health(blanked=True)


async def test_a_dry_run_that_shows_a_beam_leads_to_safe_and_is_booked(tmp_path: Path):
    microscope = Scanning()
    microscope.counts_per_electron = 1.0
    async with serving(tmp_path, microscope) as (_, client), client.lease():
        await client.prepare(make_plan(dry=True))
        assert (await client.acquire("a1", Frames())).state == "done"
        microscope.broken = True
        await client.prepare(make_plan("a2", dry=True))
        outcome = await client.acquire("a2", Frames())
        assert (outcome.state, outcome.electrons) == ("failed", 10_000.0)
        assert "the beam is not blanked" in outcome.reason
        status = await client.status()
        assert (status.phase, status.electrons_spent) == ("safe", 10_000.0)
        assert len(await client.illuminated(square(500.0))) == 1
